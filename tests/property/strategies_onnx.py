"""Random small ONNX models for hypothesis: valid for onnxruntime, with every oddity that real files showed.

Floats are small whole numbers, and a value that an inexact operator touched is never cast or compared: fusing differently
may change its last bit, and a cast would make a visible difference of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

ELEMENT = {
    "float32": TensorProto.FLOAT,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "string": TensorProto.STRING,
    "float16": TensorProto.FLOAT16,
}
SHAPES = [(2, 3), (3,), (), (1, 1), (0, 3), (1, 2, 4, 4)]
ODD = ["", "", "/a/b:", "x::", '{"k": "v"}', "<script>", "日本", "a b ", "[0]", "\\", "$(x)`", "'", "../", "%s"]
NODE_NAMES = ["", "", "same", "same", "/blk/conv:0", "a::b", 'n"{1}', "<b>", "日本 語", "[x]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Val:
    """One value: its type, its shape (None when it depends on the data), and whether its floats are whole numbers."""

    name: str
    dtype: str
    shape: tuple[int, ...] | None
    exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A model and the values that have to be fed."""

    model: onnx.ModelProto = field(repr=False)
    inputs: tuple[Val, ...]
    text: str

    @property
    def runnable(self) -> onnx.ModelProto:
        """The same model without node names: onnxruntime refuses a file in which two nodes share one."""
        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        for node in copy.graph.node:
            node.ClearField("name")
        return copy

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


def _values(array: np.ndarray, name: str) -> TensorProto:
    return numpy_helper.from_array(array, name)


def info(name: str, dtype: str, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
    """Return a declaration; of a sequence without shape."""
    if dtype.startswith("seq("):
        return helper.make_tensor_sequence_value_info(name, ELEMENT[dtype[4:-1]], None)
    return helper.make_tensor_value_info(name, ELEMENT[dtype], shape)


class Builder:
    """A graph under construction. Operators that find no fitting value do nothing."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[Val] = []
        self.inputs: list[Val] = []
        self.initializers: list[TensorProto] = []
        self.ir_version = draw(st.sampled_from([8, 10, 7, 3]))
        self.domains = {"": draw(st.sampled_from([13, 17, 21]))}
        self.functions: dict[str, onnx.FunctionProto] = {}
        self.untyped: dict[str, onnx.TypeProto] = {}
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"{self.draw(st.sampled_from(ODD))}{self._count}"

    def pick(self, fits: Callable[[Val], bool]) -> Val | None:
        """Return a fitting value, if there is one; the last ones, which make long paths, are likelier."""
        found = [value for value in self.values if fits(value)]
        if len(found) > 3 and self.flag():
            found = found[-3:]
        return self.draw(st.sampled_from(found)) if found else None

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def constant(self, array: np.ndarray) -> Val:
        """Add an initializer, or a node that makes the same array."""
        value = Val(name=self.name(), dtype="string" if array.dtype == object else str(array.dtype), shape=array.shape)
        if self.flag():
            self.initializers.append(_values(array, value.name))
        else:
            self.nodes.append(self.node("Constant", [], [value.name], value=_values(array, "v")))
        self.values.append(value)
        return value

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64)).name

    def node(self, op: str, inputs: Sequence[str], outputs: Sequence[str], domain: str = "", **attributes: Any) -> onnx.NodeProto:
        self.domains.setdefault(domain, 1)
        name = self.draw(st.sampled_from(NODE_NAMES))
        return helper.make_node(op, list(inputs), list(outputs), name=name, domain=domain, **attributes)

    def add(  # noqa: PLR0913
        self, op: str, reads: Sequence[Val | str], dtype: str, shape: tuple[int, ...] | None, *, exact: bool = True, **more: Any
    ) -> Val:
        """Add a node with one output; the output is inexact if the operator or anything it reads is."""
        whole = exact and all(value.exact for value in reads if isinstance(value, Val))
        out = Val(name=self.name(), dtype=dtype, shape=shape, exact=whole)
        names = [value.name if isinstance(value, Val) else value for value in reads]
        self.nodes.append(self.node(op, names, [out.name], **more))
        self.values.append(out)
        return out


def is_float(value: Val) -> bool:
    return value.dtype == "float32"


def known_float(value: Val) -> bool:
    return value.dtype == "float32" and value.shape is not None


def _ranked(value: Val) -> bool:
    return known_float(value) and len(value.shape or ()) > 0


def _broadcast(a: Val, b: Val) -> tuple[int, ...] | None:
    if a.shape is None or b.shape is None:
        return None
    try:
        return tuple(np.broadcast_shapes(a.shape, b.shape))
    except ValueError:
        return None


def _pair(b: Builder, dtype: str) -> tuple[Val, Val, tuple[int, ...]] | None:
    first = b.pick(lambda v: v.dtype == dtype and v.shape is not None)
    if first is None:
        return None
    second = first if b.flag() and b.flag() else b.pick(lambda v: v.dtype == dtype and _broadcast(first, v) is not None)
    shape = None if second is None else _broadcast(first, second)
    return None if second is None or shape is None else (first, second, shape)


def unary(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        op = b.draw(st.sampled_from(["Relu", "Neg", "Abs", "Identity", "Sigmoid", "Tanh"]))
        b.add(op, [x], "float32", x.shape, exact=op not in {"Sigmoid", "Tanh"})


def contrib(b: Builder) -> None:
    x = b.pick(known_float)
    if x is not None:
        b.add("Gelu", [x], "float32", x.shape, exact=False, domain="com.microsoft")


def binary(b: Builder) -> None:
    dtype = b.draw(st.sampled_from(["float32", "float32", "int64"]))
    pair = _pair(b, dtype)
    if pair is not None:
        op = b.draw(st.sampled_from(["Add", "Sub", "Mul", "Max"]))
        b.add(op, pair[:2], dtype, pair[2], exact=op != "Mul")


def logic(b: Builder) -> None:
    pair = _pair(b, "int64")
    boolean = b.pick(lambda v: v.dtype == "bool")
    if pair is not None and b.flag():
        b.add("Equal", pair[:2], "bool", pair[2])
    elif boolean is not None:
        b.add("Not", [boolean], "bool", boolean.shape)


def clip(b: Builder) -> None:
    x = b.pick(is_float)
    if x is not None:
        b.add("Clip", [x, "", b.constant(np.array(2, np.float32))], "float32", x.shape)


def cast(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype in {"float32", "int64", "bool"} and v.exact)
    if x is not None:
        to = b.draw(st.sampled_from(["int64", "bool", "float32", "string"]))
        if not (to == "string" and x.dtype == "bool"):
            b.add("Cast", [x], to, x.shape, to=ELEMENT[to])


def half(b: Builder) -> None:
    x = b.pick(known_float)
    if x is not None:
        there = b.add("Cast", [x], "float16", x.shape, exact=False, to=TensorProto.FLOAT16)
        b.add("Cast", [there], "float32", x.shape, to=TensorProto.FLOAT)


def where(b: Builder) -> None:
    pair = _pair(b, b.draw(st.sampled_from(["float32", "int64", "string"])))
    cond = b.pick(lambda v: v.dtype == "bool" and v.shape == ())
    if pair is not None and cond is not None:
        b.add("Where", [cond, *pair[:2]], pair[0].dtype, pair[2])


def strings(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype == "string" and v.shape is not None and len(v.shape) > 0)
    if x is not None and x.shape is not None:
        b.add("Concat", [x, x], "string", (2 * x.shape[0], *x.shape[1:]), axis=0)


def matmul(b: Builder) -> None:
    x = b.pick(lambda v: known_float(v) and v.shape in {(2, 3), (3,), (0, 3)})
    if x is not None:
        weights = np.arange(-4, 5, dtype=np.float32).reshape(3, 3) % 3 - 1
        b.add("MatMul", [x, b.constant(weights)], "float32", x.shape)


def conv(b: Builder) -> None:
    x = b.pick(lambda v: known_float(v) and v.shape == (1, 2, 4, 4))
    if x is not None:
        weights = b.constant((np.arange(36, dtype=np.float32) % 3 - 1).reshape(2, 2, 3, 3))
        y = b.add("Conv", [x, weights], "float32", x.shape, pads=[1, 1, 1, 1])
        one = b.constant(np.array([1, 2], np.float32))
        z = b.add("BatchNormalization", [y, one, one, one, one], "float32", x.shape, exact=False)
        if b.flag():
            b.add("Relu", [z], "float32", x.shape)


def shape_of(b: Builder) -> None:
    x = b.pick(lambda v: v.shape is not None and not v.dtype.startswith("seq"))
    if x is not None and x.shape is not None:
        dims = b.add("Shape", [x], "int64", (len(x.shape),))
        if x.shape and is_float(x):
            b.add("Reshape", [x, dims], "float32", x.shape)


def reshaped(b: Builder) -> None:
    x = b.pick(lambda v: known_float(v) and 0 not in (v.shape or ()))  # a zero would mean "as it was"
    if x is not None and x.shape is not None:
        b.add("Reshape", [x, b.ints(int(np.prod(x.shape)))], "float32", (int(np.prod(x.shape)),))


def empty_slice(b: Builder) -> None:
    x = b.pick(_ranked)
    if x is not None and x.shape is not None:
        b.add("Slice", [x, b.ints(0), b.ints(0), b.ints(0)], "float32", (0, *x.shape[1:]))


def split(b: Builder) -> None:
    x = b.pick(lambda v: _ranked(v) and (v.shape or (0,))[-1] == 3)
    if x is not None and x.shape is not None:
        outs = [Val(name=b.name(), dtype="float32", shape=(*x.shape[:-1], n), exact=x.exact) for n in (1, 2)]
        b.nodes.append(b.node("Split", [x.name, b.ints(1, 2)], [out.name for out in outs], axis=-1))
        b.values += outs


def unique(b: Builder) -> None:
    """Add an operator whose second output is left out, and whose shape depends on the data."""
    x = b.pick(lambda v: known_float(v) and v.exact and 0 not in (v.shape or ()))
    if x is not None:
        outs = [Val(name=b.name(), dtype=dtype, shape=None) for dtype in ("float32", "int64")]
        b.nodes.append(b.node("Unique", [x.name], [outs[0].name, "", outs[1].name]))
        b.values += outs


def non_zero(b: Builder) -> None:
    x = b.pick(lambda v: known_float(v) and v.exact)
    if x is not None:
        b.add("NonZero", [x], "int64", None)


def constants(b: Builder) -> None:
    """Add a sub-graph that depends on weights alone."""
    shape = b.draw(st.sampled_from([(2, 3), (3,), (1, 2, 4, 4), (0, 3)]))
    value = _values(np.array([2], np.float32), "value")
    filled = b.add("ConstantOfShape", [b.ints(*shape)], "float32", shape, value=value)
    if b.flag():
        b.add("Add", [filled, b.constant(np.array(1, np.float32))], "float32", shape)


def weights(b: Builder) -> None:
    b.constant(
        b.draw(
            st.sampled_from(
                [
                    np.array([1, -2, 3], np.float32),
                    np.array(True),
                    np.array(["w", "日本"], dtype=object),
                    np.zeros((0, 3), np.float32),
                ]
            )
        )
    )


def to_sequence(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype in {"float32", "string"} and v.shape is not None and len(v.shape) > 0)
    if x is None or x.shape is None:
        return
    if b.flag() and x.shape[0] > 0 and x.dtype == "float32":
        b.add("SplitToSequence", [x], f"seq({x.dtype})", None, axis=0)
    else:
        b.add("SequenceConstruct", [x, x], f"seq({x.dtype})", None)


def from_sequence(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype.startswith("seq"))
    if x is None:
        return
    element = x.dtype[4:-1]
    kind = b.draw(st.sampled_from(["at", "concat", "length", "erase", "insert"]))
    if kind == "at":
        b.add("SequenceAt", [x, b.constant(np.array(0, np.int64))], element, None)
    elif kind == "concat":
        b.add("ConcatFromSequence", [x], element, None, axis=0)
    elif kind == "length":
        b.add("SequenceLength", [x], "int64", ())
    elif kind == "insert":
        item = b.add("SequenceAt", [x, b.constant(np.array(-1, np.int64))], element, None)
        b.add("SequenceInsert", [x, item], x.dtype, None)
    else:
        item = b.add("SequenceInsert", [x, b.add("SequenceAt", [x, b.constant(np.array(0, np.int64))], element, None)], x.dtype, None)
        b.add("SequenceErase", [item], x.dtype, None)


def empty_sequence(b: Builder) -> None:
    name = b.name()
    b.nodes.append(b.node("SequenceEmpty", [], [name]))
    b.add("SequenceLength", [name], "int64", ())


def branch(b: Builder) -> None:
    """Add an If whose bodies read outer values, one of them from an If inside."""
    cond = b.pick(lambda v: v.dtype == "bool" and v.shape == ())
    pair = _pair(b, "float32")
    if cond is None or pair is None:
        return
    x, y, shape = pair
    out = [info("out", "float32", None)]
    inner = [
        helper.make_graph([helper.make_node(op, [x.name, y.name], ["in"])], op, [], [info("in", "float32", None)])
        for op in ("Sub", "Max")
    ]
    nested = helper.make_node("If", [cond.name], ["out"], then_branch=inner[0], else_branch=inner[1])
    own = _values(np.array(1, np.float32), "own")
    nodes = [helper.make_node("Add", [x.name, y.name], ["in"], name="same"), helper.make_node("Sub", ["in", "own"], ["out"])]
    weights = [own] if b.ir_version > 3 else []  # before, bodies could have none
    if not weights:
        nodes.insert(0, helper.make_node("Constant", [], ["own"], value=own))
    then = helper.make_graph(nodes, "then", [], out, weights)
    other = helper.make_graph([nested], "else", [], out)
    b.add("If", [cond], "float32", shape, exact=x.exact and y.exact, then_branch=then, else_branch=other)


def loop(b: Builder) -> None:
    pair = _pair(b, "float32")
    if pair is None or pair[0].shape != pair[2]:
        return
    x, y, shape = pair
    body = helper.make_graph(
        [
            helper.make_node("Add", ["acc", y.name], ["next"]),
            helper.make_node("Identity", ["go"], ["still"]),
            helper.make_node("Neg", ["acc"], ["seen"]),
        ],
        "body",
        [info("i", "int64", []), info("go", "bool", []), info("acc", "float32", None)],
        [info("still", "bool", []), info("next", "float32", None), info("seen", "float32", None)],
    )
    outs = [Val(name=b.name(), dtype="float32", shape=s, exact=x.exact and y.exact) for s in (shape, (3, *shape))]
    trips = b.constant(np.array(3, np.int64)).name
    b.nodes.append(b.node("Loop", [trips, "", x.name], [out.name for out in outs], body=body))
    b.values += outs


def local_function(b: Builder) -> None:
    """Add a call of a model-local function, which calls another one and refers to its own attribute."""
    pair = _pair(b, "float32")
    if pair is None or b.ir_version < 8:
        return
    opsets = [helper.make_opsetid("", b.domains[""]), helper.make_opsetid("local", 1)]
    leaky = helper.make_node("LeakyRelu", ["a"], ["y"])
    leaky.attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
    bent = helper.make_function("local", "Bent", ["a"], ["y"], [leaky], opsets, ["slope"])
    nodes = [helper.make_node("Add", ["a", "b"], ["t"]), helper.make_node("Bent", ["t"], ["y"], domain="local", slope=2.0)]
    b.functions = {"Bent": bent, "Sum": helper.make_function("local", "Sum", ["a", "b"], ["y"], nodes, opsets)}
    b.add("Sum", pair[:2], "float32", pair[2], domain="local")


def zip_map(b: Builder) -> None:
    """Add a sequence of maps, which can only be a graph output."""
    x = b.pick(lambda v: known_float(v) and v.shape == (2, 3))
    if x is not None:
        out = b.add("ZipMap", [x], "map", None, exact=x.exact, domain="ai.onnx.ml", classlabels_int64s=[3, 1, 2])
        kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        b.untyped[out.name] = helper.make_sequence_type_proto(kind)


OPERATORS: list[Callable[[Builder], None]] = [
    unary, unary, binary, binary, contrib, logic, clip, cast, half, where, strings, matmul, conv, shape_of, reshaped,
    empty_slice, split, unique, non_zero, constants, weights, to_sequence, from_sequence, from_sequence, empty_sequence,
    branch, branch, loop, local_function, zip_map,
]  # fmt: skip


def _add_inputs(b: Builder) -> None:
    b.values.append(Val(name=b.name(), dtype="float32", shape=(2, 3)))
    kinds = [("float32", b.draw(st.sampled_from(SHAPES))), ("float32", b.draw(st.sampled_from(SHAPES)))]
    kinds += [("bool", ()), ("int64", (3,)), ("string", (2,))]
    for dtype, shape in b.draw(st.lists(st.sampled_from(kinds), max_size=4)):
        b.values.append(Val(name=b.name(), dtype=dtype, shape=shape))
    b.inputs = list(b.values)


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


def _assemble(b: Builder, *, shuffle: bool) -> Case:
    read = {name for node in b.nodes for name in node.input}
    ends = [value for value in b.values if value.name not in read]
    inner = b.draw(st.lists(st.sampled_from(b.values), max_size=3))
    outputs = list(dict.fromkeys([*ends[int(b.flag()) :], *inner])) or b.values[-1:]  # the first end may be left dead
    declared = [_declared(b, value) for value in b.inputs]
    if b.ir_version == 3:
        declared += [info(t.name, _dtype(t), list(t.dims)) for t in b.initializers]
    elif b.initializers and b.flag():
        declared.append(info(b.initializers[0].name, _dtype(b.initializers[0]), list(b.initializers[0].dims)))
    nodes = b.draw(st.permutations(b.nodes)) if shuffle else b.nodes
    graph = helper.make_graph(nodes, "random", declared, [_output(b, value) for value in outputs], b.initializers)
    domains = b.domains | ({"com.example.unused": 1} if b.flag() else {})
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in domains.items()],
        functions=list(b.functions.values()),
        ir_version=b.ir_version,
    )
    return Case(model=model, inputs=tuple(b.inputs), text=onnx.printer.to_text(model))


def _dtype(tensor: TensorProto) -> str:
    return next(name for name, code in ELEMENT.items() if code == tensor.data_type)


@st.composite
def cases(draw: st.DrawFn, *, operators: int = 14) -> Case:
    """Draw a model of half to all of `operators` drawn operators (some add several nodes), and what it is fed."""
    b = Builder(draw)
    _add_inputs(b)
    for operator in draw(st.lists(st.sampled_from(OPERATORS), min_size=operators // 2, max_size=operators)):
        operator(b)
    return _assemble(b, shuffle=draw(st.booleans()))
