"""Random small ONNX models for hypothesis: valid for onnxruntime, with every oddity that real files showed.

Floats are small whole numbers, and a value that an inexact operator touched is never cast or compared: fusing differently
may change its last bit, and a cast would make a visible difference of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.property.builder_onnx import ELEMENT, Builder, Val, info
from tests.property.operators_onnx import OPERATORS

SHAPES = [(2, 3), (3,), (), (1, 1), (0, 3), (1, 2, 4, 4)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and the values that have to be fed.

    Args:
        model: As a careless exporter writes it: nodes in any order, some without a name, some with the same.
        runnable: The same graph with its nodes in order and without names. onnxruntime refuses a file in which two nodes
            share a name, and one in which a node comes before an If that it inlines.
        inputs: What has to be fed.
    """

    model: onnx.ModelProto = field(repr=False)
    runnable: onnx.ModelProto = field(repr=False)
    inputs: tuple[Val, ...]

    def feeds(self, seed: int) -> dict[str, np.ndarray]:
        """Return seeded inputs."""
        rng = np.random.default_rng(seed)
        return {value.name: _random(rng, value) for value in self.inputs}


def _random(rng: np.random.Generator, value: Val) -> np.ndarray:
    assert value.shape is not None
    if value.dtype == "string":
        return np.asarray(rng.choice(np.array(["a", "B c", "", "日本"], dtype=object), value.shape), dtype=object)
    return np.asarray(rng.integers(0 if value.dtype == "bool" else -3, 2 if value.dtype == "bool" else 4, value.shape)).astype(
        value.dtype
    )


def _add_inputs(b: Builder) -> None:
    b.input("float32", (2, 3))
    kinds = [("float32", b.draw(st.sampled_from(SHAPES))), ("float32", b.draw(st.sampled_from(SHAPES)))]
    kinds += [("bool", ()), ("int64", (3,)), ("string", (2,))]
    for dtype, shape in b.draw(st.lists(st.sampled_from(kinds), max_size=4)):
        b.input(dtype, shape)


def _declared(b: Builder, value: Val) -> onnx.ValueInfoProto:
    """Declare an input; its first dimension may be a symbol, a question mark, minus one or nothing."""
    assert value.shape is not None
    shape: list[int | str | None] = list(value.shape)
    if shape:
        shape[0] = b.draw(st.sampled_from([shape[0], shape[0], f"N{shape[0]}", "?", -1, None]))
    return info(value.name, value.dtype, shape)


def _output(b: Builder, value: Val) -> onnx.ValueInfoProto:
    if value.name in b.untyped:
        return helper.make_value_info(value.name, b.untyped[value.name])
    return info(value.name, value.dtype, value.shape if value.shape is not None and b.flag() else None)


def assemble(b: Builder, *, shuffle: bool) -> Case:
    """Return the model under construction, with drawn outputs, oddities of old files, and its nodes shuffled if asked."""
    read = {name for node in b.nodes for name in node.input} | {value.name for value in b.inputs}
    ends = [value for value in b.values if value.name not in read]
    dead = b.draw(st.sets(st.sampled_from(ends), max_size=2)) if ends else set()
    inner = b.draw(st.lists(st.sampled_from(b.values), max_size=3))  # inputs, constants, values that are read inside
    outputs = list(dict.fromkeys([*(value for value in ends if value not in dead), *inner])) or b.values[-1:]
    declared = [_declared(b, value) for value in b.inputs]
    if b.ir_version == 3:
        declared += [info(t.name, _dtype(t), list(t.dims)) for t in b.initializers]
    elif b.initializers and b.flag():
        declared.append(info(b.initializers[0].name, _dtype(b.initializers[0]), list(b.initializers[0].dims)))
    graph = helper.make_graph(b.nodes, "random", declared, [_output(b, value) for value in outputs], b.initializers)
    domains = b.domains | ({"com.example.unused": 1} if b.flag() else {})
    runnable = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains.items()],
        functions=list(b.functions.values()),
        ir_version=b.ir_version,
    )
    model = _copy(runnable)
    if shuffle:
        del model.graph.node[:]
        model.graph.node.extend(b.draw(st.permutations(b.nodes)))
    for node in runnable.graph.node:
        node.ClearField("name")
    return Case(model=model, runnable=runnable, inputs=tuple(b.inputs))


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _dtype(tensor: TensorProto) -> str:
    return next(name for name, code in ELEMENT.items() if code == tensor.data_type)


@st.composite
def cases(draw: st.DrawFn, *, operators: int = 18) -> Case:
    """Draw a model of half to all of `operators` drawn operators (some add several nodes), and what it is fed."""
    b = Builder(draw)
    _add_inputs(b)
    for operator in draw(st.lists(st.sampled_from(OPERATORS), min_size=operators // 2, max_size=operators)):
        operator(b)
    return assemble(b, shuffle=draw(st.booleans()))
