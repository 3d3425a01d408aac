"""The operators that random models are made of; each adds itself to a builder if a value fits, else does nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper

from tests.property.builder_onnx import ELEMENT, Builder, Val, info, tensor


def _is_float(value: Val) -> bool:
    return value.dtype == "float32"


def _known_float(value: Val) -> bool:
    return value.dtype == "float32" and value.shape is not None


def _ranked(value: Val) -> bool:
    return _known_float(value) and len(value.shape or ()) > 0


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
    x = b.pick(_is_float)
    if x is not None:
        op = b.draw(st.sampled_from(["Relu", "Neg", "Abs", "Identity", "Sigmoid", "Tanh"]))
        b.add(op, [x], "float32", x.shape, exact=op not in {"Sigmoid", "Tanh"})


def contrib(b: Builder) -> None:
    x = b.pick(_known_float)
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
    x = b.pick(_is_float)
    if x is not None:
        b.add("Clip", [x, "", b.constant(np.array(2, np.float32))], "float32", x.shape)


def cast(b: Builder) -> None:
    x = b.pick(lambda v: v.dtype in {"float32", "int64", "bool"} and v.exact)
    if x is not None:
        to = b.draw(st.sampled_from(["int64", "bool", "float32", "string"]))
        if not (to == "string" and x.dtype == "bool"):
            b.add("Cast", [x], to, x.shape, to=ELEMENT[to])


def half(b: Builder) -> None:
    x = b.pick(_known_float)
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
    x = b.pick(lambda v: _known_float(v) and v.shape in {(2, 3), (3,), (0, 3)})
    if x is not None:
        weights = np.arange(-4, 5, dtype=np.float32).reshape(3, 3) % 3 - 1
        b.add("MatMul", [x, b.constant(weights)], "float32", x.shape)


def conv(b: Builder) -> None:
    x = b.pick(lambda v: _known_float(v) and v.shape == (1, 2, 4, 4))
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
        if x.shape and _is_float(x):
            b.add("Reshape", [x, dims], "float32", x.shape)


def reshaped(b: Builder) -> None:
    x = b.pick(lambda v: _known_float(v) and 0 not in (v.shape or ()))  # a zero would mean "as it was"
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
    x = b.pick(lambda v: _known_float(v) and v.exact and 0 not in (v.shape or ()))
    if x is not None:
        outs = [Val(name=b.name(), dtype=dtype, shape=None) for dtype in ("float32", "int64")]
        b.nodes.append(b.node("Unique", [x.name], [outs[0].name, "", outs[1].name]))
        b.values += outs


def non_zero(b: Builder) -> None:
    x = b.pick(lambda v: _known_float(v) and v.exact)
    if x is not None:
        b.add("NonZero", [x], "int64", None)


def constants(b: Builder) -> None:
    """Add a sub-graph that depends on weights alone."""
    shape = b.draw(st.sampled_from([(2, 3), (3,), (1, 2, 4, 4), (0, 3)]))
    value = tensor(np.array([2], np.float32), "value")
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
    else:
        item = b.add("SequenceAt", [x, b.constant(np.array(-1, np.int64))], element, None)
        longer = b.add("SequenceInsert", [x, item], x.dtype, None)
        if kind == "erase":
            b.add("SequenceErase", [longer], x.dtype, None)


def empty_sequence(b: Builder) -> None:
    name = b.name()
    b.nodes.append(b.node("SequenceEmpty", [], [name]))
    b.add("SequenceLength", [name], "int64", ())


def branch(b: Builder) -> None:
    """Add an If whose bodies read outer values, one of them from an If inside."""
    cond = b.pick(lambda v: v.dtype == "bool" and v.shape == ()) or b.input("bool", ())
    pair = _pair(b, "float32")
    if pair is None:
        return
    x, y, shape = pair
    out = [info("out", "float32", None)]
    inner = [
        helper.make_graph([helper.make_node(op, [x.name, y.name], ["in"])], op, [], [info("in", "float32", None)])
        for op in ("Sub", "Max")
    ]
    nested = helper.make_node("If", [cond.name], ["out"], then_branch=inner[0], else_branch=inner[1])
    own = tensor(np.array(1, np.float32), "own")
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
    x = b.pick(lambda v: _known_float(v) and v.shape == (2, 3))
    if x is not None:
        out = b.add("ZipMap", [x], "map", None, exact=x.exact, domain="ai.onnx.ml", classlabels_int64s=[3, 1, 2])
        kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
        b.untyped[out.name] = helper.make_sequence_type_proto(kind)


OPERATORS: list[Callable[[Builder], None]] = [
    unary, unary, binary, binary, contrib, logic, clip, cast, half, where, strings, matmul, conv, shape_of, reshaped,
    empty_slice, split, unique, non_zero, constants, weights, to_sequence, from_sequence, from_sequence, empty_sequence,
    branch, branch, loop, local_function, zip_map,
]  # fmt: skip
