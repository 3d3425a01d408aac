"""Which tensors of a part may hold finite numbers that a narrow type does not: float16 ends at 65504.

Two judges: what the tensors hold on the sample inputs, and where large constants can get to. A mask value such as -3.4e38
meets no sample whose mask masks nothing, and is there in the next request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

from cutset.codegen.precision.error import run_part
from cutset.codegen.precision.floats import LARGEST, MATRIX_OPS, NarrowType
from cutset.graph.names import FreshNames
from cutset.graph.protos import copy_model
from cutset.profilers.session import Arrays

MARGIN = 4
"""Other inputs give other numbers than the samples: a tensor may grow by so much before the type ends."""

LIMITS: Mapping[NarrowType, float] = {kind: largest / MARGIN for kind, largest in LARGEST.items()}
"""Largest magnitude of a tensor that may be narrow."""

Signs = frozenset[str]
"""On which sides of zero a tensor may be large: ``-``, ``+``, both, or none."""

_NONE: Signs = frozenset()
_BOTH: Signs = frozenset("-+")
_POSITIVE: Signs = frozenset("+")

_BOUNDED = frozenset(
    {"And", "ArgMax", "ArgMin", "Cos", "DequantizeLinear", "Equal", "Erf", "Greater", "GreaterOrEqual", "GroupNormalization",
     "HardSigmoid", "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "Less", "LessOrEqual", "Log",
     "LpNormalization", "NonMaxSuppression", "NonZero", "Not", "Or", "QuantizeLinear", "RMSNormalization", "Reciprocal",
     "Shape", "Sigmoid", "Sign", "Sin", "Size", "Softmax", "Softsign", "Tanh", "Xor"}
)  # fmt: skip
"""Operators whose results are small whatever they read."""
_FIRST = frozenset(
    {"CastLike", "DepthToSpace", "Div", "Dropout", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity",
     "ReduceMean", "Reshape", "Resize", "ReverseSequence", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK",
     "Transpose", "Trilu", "Unsqueeze", "Upsample"}
)  # fmt: skip
"""Operators that hand on what their first input holds."""
_ALL = frozenset({"Add", "Concat", "Mean", "Sum"})
_FIRST_AND_THIRD = frozenset({"Pad", "ScatterElements", "ScatterND"})
_LARGEST = frozenset(
    {"Elu", "Exp", "Gelu", "GlobalMaxPool", "HardSwish", "MaxPool", "Mish", "ReduceMax", "Relu", "Softplus", "Sqrt"}
)
"""Operators that leave out what is far below zero, or hand it on only where everything is."""


def magnitudes(model: onnx.ModelProto, dtypes: Mapping[str, str], feeds: Sequence[Arrays]) -> dict[str, float]:
    """Return the largest finite magnitude of each float32 tensor that a part reads or computes, over all feeds.

    The magnitudes are reduced inside the model: the tensors of a deep network do not fit into memory together.

    Args:
        model: The part in float32, of opset 9 or later; of an earlier one the tensors themselves are looked at.
        dtypes: Element type of each tensor by name.
        feeds: Inputs of the part.
    """
    given = [value.name for value in model.graph.input]
    names = [name for node in model.graph.node for name in node.output if name and dtypes.get(name) == "float32"]
    found = {name: max((_largest(np.asarray(feed[name])) for feed in feeds), default=0.0) for name in given if name in feeds[0]}
    probed, outputs = _with_magnitudes(model, names)
    for run in run_part(probed, feeds) if names else ():
        for name, output in outputs.items():
            found[name] = max(found.get(name, 0.0), _largest(np.asarray(run[output])))
    return found


def _with_magnitudes(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, Mapping[str, str]]:
    """Return the part with one output for each tensor from which the largest finite magnitude can be read."""
    result = copy_model(model)
    graph = result.graph
    del graph.output[:]
    opset = next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 1)
    outputs = {name: name for name in names}
    if opset >= 9:  # the first that has Where
        fresh = FreshNames.beside(model.graph)
        zero, infinity, flat = (fresh.make(word) for word in ("zero", "infinity", "flat"))
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.zeros(1, np.float32), zero),
                numpy_helper.from_array(np.full(1, np.inf, np.float32), infinity),
                numpy_helper.from_array(np.array([-1]), flat),
            ]
        )
        for name in names:
            size, finite, kept, row, some, outputs[name] = (
                fresh.make(f"{name}.{word}") for word in ("size", "finite", "kept", "row", "some", "largest")
            )
            graph.node.extend(
                [
                    helper.make_node("Abs", [name], [size]),
                    helper.make_node("Less", [size, infinity], [finite]),
                    helper.make_node("Where", [finite, size, zero], [kept]),
                    helper.make_node("Reshape", [kept, flat], [row]),
                    helper.make_node("Concat", [row, zero], [some], axis=0),
                    helper.make_node("ReduceMax", [some], [outputs[name]], keepdims=0),
                ]
            )
    graph.output.extend(helper.make_empty_tensor_value_info(output) for output in outputs.values())
    return result, outputs


def _largest(array: np.ndarray) -> float:
    """Return the largest finite magnitude in an array of floats, zero where there is none."""
    if array.dtype.kind != "f" or not array.size:
        return 0.0
    low, high = float(array.min()), float(array.max())
    if np.isfinite(low) and np.isfinite(high):
        return max(-low, high)
    finite = array[np.isfinite(array)]
    return float(np.abs(finite).max(initial=0.0))


def spread(graph: ir.Graph, limit: float, entering: Mapping[str, Signs] | None = None) -> dict[str, Signs]:
    """Return the tensors into which a constant beyond a limit can get, and on which side of zero.

    An operator nobody described hands on what it reads, to both sides. Matrix products end it: a mask that reached one
    would have ruined the numbers in float32, too, and for all else the samples speak.

    Args:
        graph: The graph of a model or a part, its nodes in topological order.
        limit: Largest magnitude that is no reason to worry.
        entering: What is known of inputs of the graph.
    """
    found: dict[str, Signs] = {name: signs for name, signs in (entering or {}).items() if signs}
    for weight in graph.initializers.values():
        found[str(weight.name)] = _sides(weight.const_value, limit)
    for node in graph:
        reads = [_NONE if value is None else found.get(str(value.name), _NONE) for value in node.inputs]
        signs = _handed_on(node, reads, limit)
        found |= {str(value.name): signs for value in node.outputs}
    return {name: signs for name, signs in found.items() if signs}


def _sides(tensor: ir.TensorProtocol | None, limit: float) -> Signs:
    """Return on which sides of zero a constant has finite elements beyond a limit."""
    if tensor is None or tensor.dtype not in {ir.DataType.FLOAT, ir.DataType.DOUBLE} or not tensor.size:
        return _NONE
    array = tensor.numpy()
    if not np.isfinite(array.min()) or not np.isfinite(array.max()):
        array = array[np.isfinite(array)]
    sides = {"-": array.min(initial=0.0) < -limit, "+": array.max(initial=0.0) > limit}
    return frozenset(side for side, large in sides.items() if large)


def _handed_on(node: ir.Node, reads: Sequence[Signs], limit: float) -> Signs:
    """Return what the outputs of a node may hold, given what its inputs may."""
    if node.domain in {"", "ai.onnx"} and node.op_type in {"Constant", "ConstantOfShape"}:
        attribute = node.attributes.get("value")
        tensor = attribute.as_tensor() if attribute is not None else ir.convenience.get_const_tensor(node.outputs[0])
        return _sides(tensor, limit)
    inside = [_sides(tensor, limit) for tensor in _body_constants(node)]
    if not any((*reads, *inside)):
        return _NONE
    rule = _RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} and not inside else None
    return _BOTH if rule is None else rule(node, reads)


def _body_constants(node: ir.Node) -> Iterator[ir.TensorProtocol | None]:
    for attribute in node.attributes.values():
        if attribute.type not in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            continue
        for body in [attribute.as_graph()] if attribute.type == ir.AttributeType.GRAPH else attribute.as_graphs():
            yield from (weight.const_value for weight in body.initializers.values())
            for inner in body:
                if inner.op_type in {"Constant", "ConstantOfShape"} and "value" in inner.attributes:
                    yield inner.attributes["value"].as_tensor()
                yield from _body_constants(inner)


_Rule = Callable[[ir.Node, Sequence[Signs]], Signs]


def _union(reads: Iterable[Signs]) -> Signs:
    return frozenset().union(*reads)


def _flipped(signs: Signs) -> Signs:
    return frozenset({"-": "+", "+": "-"}[sign] for sign in signs)


def _cast(node: ir.Node, reads: Sequence[Signs]) -> Signs:
    target = ir.DataType(node.attributes["to"].as_int())
    return reads[0] if target.is_floating_point() else _NONE


def _clip(node: ir.Node, reads: Sequence[Signs]) -> Signs:
    """Return the sides that no bound within the limit closes; a bound itself makes no number large."""
    if len(node.inputs) > 1:
        low, high = (index < len(node.inputs) and node.inputs[index] is not None and not reads[index] for index in (1, 2))
    else:
        low, high = "min" in node.attributes, "max" in node.attributes
    closed = {"-": low, "+": high}
    return frozenset(sign for sign in reads[0] if not closed[sign])


_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys((*_BOUNDED, *MATRIX_OPS), lambda _node, _reads: _NONE),
    **dict.fromkeys(_FIRST, lambda _node, reads: reads[0]),
    **dict.fromkeys(_ALL, lambda _node, reads: _union(reads)),
    **dict.fromkeys(_FIRST_AND_THIRD, lambda _node, reads: _union(reads[::2])),
    **dict.fromkeys(_LARGEST, lambda _node, reads: reads[0] & _POSITIVE),
    "Cast": _cast,
    "Clip": _clip,
    "Max": lambda _node, reads: _union(reads) & (_BOTH if all(reads) else _POSITIVE),
    "Min": lambda _node, reads: _union(reads) & (_BOTH if all(reads) else frozenset("-")),
    "Neg": lambda _node, reads: _flipped(reads[0]),
    "Sub": lambda _node, reads: reads[0] | _flipped(reads[1]),
    "Where": lambda _node, reads: _union(reads[1:]),
}


def beyond(
    model: onnx.ModelProto, dtypes: Mapping[str, str], kind: NarrowType, feeds: Sequence[Arrays], entering: Mapping[str, Signs]
) -> frozenset[str]:
    """Return the tensors of a part that do not fit into a narrow type with a margin.

    Args:
        model: The part in float32.
        dtypes: Element type of each tensor by name.
        kind: The type.
        feeds: Inputs of the part.
        entering: Inputs of the part that large constants of the whole model can get into.
    """
    limit = LIMITS[kind]
    seen = {name for name, size in magnitudes(model, dtypes, feeds).items() if size > limit}
    return frozenset(seen | spread(ir.from_proto(model).graph, limit, entering).keys())


def out_of_range(model: onnx.ModelProto, nodes: Collection[str], tensors: Collection[str]) -> frozenset[str]:
    """Return the nodes, of those named, that read or write one of the tensors."""
    return frozenset(
        node.name
        for node in model.graph.node
        if node.name in nodes and not set(tensors).isdisjoint((*node.input, *node.output))
    )
