"""Rewrite the float32 nodes of a part as float16 or bfloat16, tensor by tensor, so that the result is always a valid model.

A node is rewritten whole: what it reads is cast down once, or is a weight stored in the narrow type, and what it writes is
cast up again only for those that still need float32. Everything keeps its name; narrow tensors get one that nothing
has. Operators that lose their numbers in narrow types (exponentials, sums of many) keep float32 and so does what no table
below names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.names import FreshNames
from cutset.graph.protos import copy_model, shell

NarrowType = Literal["fp16", "bf16"]

_ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_TYPE_TEXT = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
_NUMPY: Mapping[str, np.dtype] = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}

LARGEST: Mapping[NarrowType, float] = {"fp16": 65504.0, "bf16": float.fromhex("0x1.fep127")}
"""Largest finite number of each type."""

_ALL_INPUTS = (
    "Abs", "Add", "AveragePool", "BatchNormalization", "Ceil", "Clip", "Concat", "Conv", "ConvTranspose", "DepthToSpace",
    "Div", "Elu", "Erf", "Floor", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "GRU", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "LSTM", "MatMul", "Max", "MaxPool", "Min", "Mish", "Mul", "Neg", "Pad", "PRelu", "Relu", "RNN",
    "Selu", "Sigmoid", "Sign", "SpaceToDepth", "Sqrt", "Sub", "Tanh", "Where",
)  # fmt: skip
_FIRST_INPUT = (
    "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators of which the other inputs are indices, sizes or scales with a type of their own."""
NARROWED: Mapping[str, int | None] = {**dict.fromkeys(_ALL_INPUTS), **dict.fromkeys(_FIRST_INPUT, 1)}
"""How many of its inputs are narrowed, None for all, by operator."""

REFUSED: Mapping[str, frozenset[str]] = {
    "fp16": frozenset(),
    "bf16": frozenset({"ConvTranspose", "GRU", "HardSwish", "Mish"}),
}
"""Operators that TensorRT-RTX 1.7.1 refuses in a type, of those in `NARROWED`; each was tried."""

MATRIX_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})
"""Operators whose speed the narrow type is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowed:
    """A part in a narrow type.

    Args:
        model: The part; inputs and outputs are as they were.
        nodes: Names of the nodes that were rewritten, in graph order.
        tensors: Names of the narrow tensors.
    """

    model: onnx.ModelProto
    nodes: tuple[str, ...]
    tensors: frozenset[str]


def narrow(model: onnx.ModelProto, dtypes: Mapping[str, str], kind: NarrowType, keep: Collection[str] = ()) -> Narrowed:
    """Return a part with its float32 nodes in a narrow type.

    Args:
        model: The part, weights inside; node names are unique.
        dtypes: Element type of each tensor by name.
        kind: ``fp16`` or ``bf16``.
        keep: Names of nodes to leave in float32.
    """
    rewriter = _Rewriter(model, dtypes, kind)
    chosen = [node.name for node in model.graph.node if node.name not in keep and rewriter.can(node) and rewriter.fits(node)]
    return rewriter.rewrite(frozenset(chosen))


def candidates(model: onnx.ModelProto, dtypes: Mapping[str, str], kind: NarrowType) -> tuple[str, ...]:
    """Return the names of the nodes that have a narrow form, whatever numbers they read."""
    rewriter = _Rewriter(model, dtypes, kind)
    return tuple(node.name for node in model.graph.node if rewriter.can(node))


@cache
def takes(op_type: str, opset: int, kind: NarrowType) -> bool:
    """Return whether ONNX allows an operator to compute in a narrow type: Conv in bfloat16 from opset 22 on."""
    if not onnx.defs.has(op_type, opset, ""):
        return False
    schema = onnx.defs.get_schema(op_type, opset)
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return _TYPE_TEXT[kind] in allowed.get(schema.outputs[0].type_str, ())


class _Rewriter:
    def __init__(self, model: onnx.ModelProto, dtypes: Mapping[str, str], kind: NarrowType) -> None:
        self._source = model
        self._dtypes = dtypes
        self._kind = kind
        self._opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 1)
        self._weights = {weight.name: weight for weight in model.graph.initializer}
        self._fresh = FreshNames.beside(model.graph)
        self._names: dict[str, str] = {}
        self._needed: set[str] = set()
        self._narrow: set[str] = set()
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[TensorProto] = []

    def can(self, node: onnx.NodeProto) -> bool:
        """Return whether a node has a narrow form."""
        if node.domain not in {"", "ai.onnx"} or node.op_type not in NARROWED or node.op_type in REFUSED[self._kind]:
            return False
        reads = self._reads(node)
        writes = [name for name in node.output if self._is_float(name)]
        return bool(reads or writes) and takes(node.op_type, self._opset, self._kind)

    def fits(self, node: onnx.NodeProto) -> bool:
        """Return whether the weights of a node fit into its narrow form: no finite element becomes infinite."""
        return all(self._fits(self._weights[name]) for name in self._reads(node) if name in self._weights)

    def rewrite(self, chosen: frozenset[str]) -> Narrowed:
        """Return the model with these nodes narrow."""
        graph = self._source.graph
        self._needed = {value.name for value in graph.output}
        for node in graph.node:
            narrow = self._reads(node) if node.name in chosen else []
            self._needed.update(name for name in _all_reads(node) if name not in narrow)
        for node in graph.node:
            if node.name in chosen:
                self._narrow_node(node)
            else:
                self._nodes.append(node)
        result = shell(self._source)
        del result.graph.node[:]
        result.graph.node.extend(self._nodes)
        result.graph.initializer.extend([weight for name, weight in self._weights.items() if name in self._needed])
        result.graph.initializer.extend(self._initializers)
        names = tuple(node.name for node in graph.node if node.name in chosen)
        return Narrowed(model=result, nodes=names, tensors=frozenset(self._narrow))

    def _narrow_node(self, node: onnx.NodeProto) -> None:
        reads = set(self._reads(node))
        limit = NARROWED[node.op_type]
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        for index, name in enumerate(node.input):
            if name in reads and (limit is None or index < limit):
                changed.input[index] = self._down(name)
        for index, name in enumerate(node.output):
            if self._is_float(name):
                changed.output[index] = self._name(name)
                self._narrow.add(self._name(name))
        self._nodes.append(changed)
        for name in node.output:
            if self._is_float(name) and name in self._needed:
                up = self._fresh.make(f"{name}.up")
                self._nodes.append(helper.make_node("Cast", [self._name(name)], [name], name=up, to=TensorProto.FLOAT))

    def _down(self, name: str) -> str:
        """Return the narrow form of a tensor, made here if it is not there yet."""
        narrow = self._name(name)
        if narrow in self._narrow:
            return narrow
        self._narrow.add(narrow)
        if name in self._weights:
            array = numpy_helper.to_array(self._weights[name]).astype(_NUMPY[self._kind])
            self._initializers.append(_tensor(array, narrow, self._kind))
        else:
            self._nodes.append(_cast(name, narrow, _ELEMENT[self._kind], self._fresh))
            self._needed.add(name)
        return narrow

    def _name(self, name: str) -> str:
        """Return what the narrow form of a tensor is called."""
        if name not in self._names:
            self._names[name] = self._fresh.make(f"{name}.{self._kind}")
        return self._names[name]

    def _reads(self, node: onnx.NodeProto) -> list[str]:
        limit = NARROWED.get(node.op_type)
        return [name for name in list(node.input)[:limit] if self._is_float(name)]

    def _is_float(self, name: str) -> bool:
        return bool(name) and self._dtypes.get(name) == "float32"

    def _fits(self, weight: TensorProto) -> bool:
        """Return whether no finite element of a weight becomes infinite."""
        array = numpy_helper.to_array(weight)
        finite = np.abs(array[np.isfinite(array)])
        return bool(finite.max(initial=0.0) <= LARGEST[self._kind])


def _tensor(array: np.ndarray, name: str, kind: NarrowType) -> TensorProto:
    if kind == "fp16":
        return numpy_helper.from_array(array, name)
    tensor = TensorProto(name=name, data_type=TensorProto.BFLOAT16, dims=array.shape)
    tensor.raw_data = array.tobytes()
    return tensor


def _all_reads(node: onnx.NodeProto) -> Iterable[str]:
    """Return the tensors that a node and its bodies read."""
    yield from node.input
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _all_reads(inner)
            yield from (value.name for value in body.output)


def emulated(narrowed: Narrowed, kind: NarrowType) -> onnx.ModelProto:
    """Return a model that computes in float32 what the narrow one does, each narrow tensor rounded to its type.

    This is what accelerators do, which accumulate in float32.
    """
    result = copy_model(narrowed.model)
    nodes = list(result.graph.node)
    names = FreshNames.beside(narrowed.model.graph)
    chosen, wide = set(narrowed.nodes), dict[str, str]()
    del result.graph.node[:]
    for node in nodes:
        if node.name not in chosen:
            result.graph.node.append(node)
            continue
        for index, name in enumerate(node.input):
            if name in narrowed.tensors:
                if name not in wide:
                    wide[name] = names.make(f"{name}.wide")
                    result.graph.node.append(_cast(name, wide[name], TensorProto.FLOAT, names))
                node.input[index] = wide[name]
        exact = {name: names.make(f"{name}.exact") for name in node.output if name in narrowed.tensors}
        node.output[:] = [exact.get(name, name) for name in node.output]
        result.graph.node.append(node)
        result.graph.node.extend(_cast(source, name, _ELEMENT[kind], names) for name, source in exact.items())
    return result


def _cast(source: str, target: str, element: int, names: FreshNames) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=names.make(f"{target}.cast"), to=element)
