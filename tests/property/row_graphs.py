"""Random graphs that are row by row, and gadgets that make one of their rows hang on another."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64, UINT8, INT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8
CHANNELS, SIDE = 4, 4


class RowGraph:
    """A graph under construction over one float value, with rows first: ``[n, 4, 4, 4]`` or ``[n, 8]``."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.flat = self.choose.random() < 0.5
        self.value = "x"
        self._count = 0

    def const(self, array: Any, dtype: Any = None) -> str:
        """Add a weight."""
        self._count += 1
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype), f"w{self._count}"))
        return f"w{self._count}"

    def ints(self, *numbers: int) -> str:
        """Add a weight of integers."""
        return self.const(numbers, np.int64)

    def random(self, *shape: int) -> str:
        """Add a random weight."""
        return self.const(self.numbers.normal(size=shape) * 0.6, np.float32)

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> str:
        """Add a node and return its first output."""
        self._count += 1
        names = [f"v{self._count}", *(f"v{self._count}.{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n{self._count}", domain=domain, **attributes))
        return names[0]

    @property
    def shape(self) -> list[int]:
        """Sizes of the current value without its rows."""
        return [8] if self.flat else [CHANNELS, SIDE, SIDE]

    def grow(self, steps: int) -> None:
        """Apply random operators that are row by row."""
        for _ in range(steps):
            self.value = self.choose.choice(_FLAT if self.flat else _IMAGE)(self, self.value)

    def finish(self) -> onnx.ModelProto:
        """Return the model."""
        shape = ["n", *([8] if self._began_flat else [CHANNELS, SIDE, SIDE])]
        out = self.op("Identity", self.value)
        graph = helper.make_graph(
            self.nodes, "rows", [helper.make_tensor_value_info("x", FLOAT, shape)],
            [helper.make_tensor_value_info(out, FLOAT, ["n", *self.shape])], self.weights,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def begin(self) -> None:
        """Remember the shape of the input."""
        self._began_flat = self.flat


Step: TypeAlias = Callable[[RowGraph, str], str]


def row_by_row(seed: int) -> onnx.ModelProto:
    """Return a random model whose rows stay apart."""
    graph = RowGraph(seed)
    graph.begin()
    graph.grow(graph.choose.randint(3, 8))
    return graph.finish()


def mixing(seed: int, kind: str) -> onnx.ModelProto:
    """Return a random model in which one gadget of this kind mixes rows.

    The gadget's value is added to the value of the graph, so that rows alone decide whether the sum is right.
    """
    graph = RowGraph(seed)
    graph.begin()
    graph.grow(graph.choose.randint(0, 4))
    graph.value = MIXERS[kind](graph, graph.value)
    graph.grow(graph.choose.randint(0, 2))
    return graph.finish()


# -- operators that are row by row ---------------------------------------------------------------------------------------


def _unary(g: RowGraph, x: str) -> str:
    return g.op(g.choose.choice(["Relu", "Tanh", "Sigmoid", "Neg", "Abs", "Softplus", "Identity", "Elu", "Erf"]), x)


def _binary(g: RowGraph, x: str) -> str:
    shape = g.choose.choice([(1,), (), tuple(g.shape), (1, *g.shape), tuple([1] * len(g.shape))])
    return g.op(g.choose.choice(["Add", "Sub", "Mul", "Max", "Min"]), x, g.random(*shape))


def _residual(g: RowGraph, x: str) -> str:
    return g.op("Add", x, _unary(g, x))


def _dense(g: RowGraph, x: str) -> str:
    if g.choose.random() < 0.5:
        return g.op("MatMul", x, g.random(8, 8))
    return g.op("Gemm", x, g.random(8, 8), g.random(8), transB=g.choose.randint(0, 1))


def _conv(g: RowGraph, x: str) -> str:
    return g.op("Conv", x, g.random(CHANNELS, CHANNELS, 3, 3), g.random(CHANNELS), pads=[1] * 4)


def _normalise(g: RowGraph, x: str) -> str:
    if g.flat:
        return g.op("LayerNormalization", x, g.random(8), g.random(8), axis=-1)
    kind = g.choose.choice(["InstanceNormalization", "BatchNormalization"])
    count = 2 if kind == "InstanceNormalization" else 3
    positive = g.const(np.abs(g.numbers.normal(size=CHANNELS)) + 0.5, np.float32)
    return g.op(kind, x, *(g.random(CHANNELS) for _ in range(count)), *([positive] if count == 3 else []))


def _softmax(g: RowGraph, x: str) -> str:
    return g.op("Softmax", x, axis=g.choose.choice([-1, 1]))


def _centre(g: RowGraph, x: str) -> str:
    return g.op("Sub", x, g.op("ReduceMean", x, axes=g.choose.choice([[-1], [1]]), keepdims=1))


def _own_peak(g: RowGraph, x: str) -> str:
    axes = list(range(1, len(g.shape) + 1))
    peak = g.op("Add", g.op("ReduceMax", g.op("Abs", x), axes=axes, keepdims=1), g.const(0.1, np.float32))
    return g.op("Div", x, peak)


def _there_and_back(g: RowGraph, x: str) -> str:
    """Reshape by constants, by the shape of the value, or merging rows with their neighbours, and back."""
    size = 8 if g.flat else CHANNELS * SIDE * SIDE
    way = g.choose.randint(0, 3)
    if way == 0:
        y = g.op("Reshape", x, g.ints(0, 2, -1))
    elif way == 1:
        y = g.op("Flatten", g.op("Reshape", x, g.ints(-1, 2, size // 2)), axis=1)
    elif way == 2:
        rows = g.op("Gather", g.op("Shape", x), g.const(0, np.int64), axis=0)
        target = g.op("Concat", g.op("Unsqueeze", rows, g.ints(0)), g.ints(2, size // 2), axis=0)
        y = g.op("Reshape", x, target)
    else:
        y = g.op("Relu", g.op("MatMul", g.op("Reshape", x, g.ints(-1, 4)), g.random(4, 4)))
    return g.op("Reshape", y, g.ints(-1, *g.shape))


def _there_and_back_transposed(g: RowGraph, x: str) -> str:
    rank = len(g.shape) + 1
    order = list(range(rank))
    g.choose.shuffle(order)
    y = g.op("Sigmoid", g.op("Transpose", x, perm=order))
    return g.op("Transpose", y, perm=[order.index(axis) for axis in range(rank)])


def _pieces(g: RowGraph, x: str) -> str:
    first = g.op("Slice", x, g.ints(0), g.ints(2), g.ints(1))
    second = g.op("Slice", x, g.ints(2), g.ints(1 << 40), g.ints(1))
    return g.op("Concat", second, first, axis=1)


def _picked(g: RowGraph, x: str) -> str:
    return g.op("Gather", x, g.ints(*g.numbers.permutation(g.shape[0]).tolist()), axis=1)


def _prefix(g: RowGraph, x: str) -> str:
    """Put a constant in front of each row's own values, as a class token, and cut it off again."""
    sizes = g.op("Shape", x)
    target = g.op("Concat", g.op("Slice", sizes, g.ints(0), g.ints(1), g.ints(0)), g.ints(1, *g.shape[1:]), axis=0)
    token = g.op("Expand", g.random(1, 1, *g.shape[1:]), target)
    return g.op(
        "Slice", g.op("CumSum", g.op("Concat", token, x, axis=1), g.const(1, np.int64)), g.ints(1), g.ints(99), g.ints(1)
    )


def _attention(g: RowGraph, x: str) -> str:
    y = x if not g.flat else g.op("Reshape", x, g.ints(0, 2, 4))
    scores = g.op("MatMul", y, g.op("Transpose", y, perm=[0, 2, 1] if g.flat else [0, 1, 3, 2]))
    z = g.op("MatMul", g.op("Softmax", scores, axis=-1), y)
    return z if not g.flat else g.op("Reshape", z, g.ints(0, 8))


def _pool(g: RowGraph, x: str) -> str:
    return g.op(g.choose.choice(["MaxPool", "AveragePool"]), x, kernel_shape=[3, 3], pads=[1] * 4)


def _squeeze_excite(g: RowGraph, x: str) -> str:
    return g.op("Mul", x, g.op("Sigmoid", g.op("GlobalAveragePool", x)))


def _resized(g: RowGraph, x: str) -> str:
    twice = g.op("Resize", x, "", g.const([1, 1, 2, 2], np.float32), mode="nearest")
    return g.op("AveragePool", twice, kernel_shape=[2, 2], strides=[2, 2])


def _padded(g: RowGraph, x: str) -> str:
    return g.op("Slice", g.op("Pad", x, g.ints(0, 1, 0, 0, 0, 0, 0, 0)), g.ints(1), g.ints(99), g.ints(1))


def _gated(g: RowGraph, x: str) -> str:
    return g.op("Where", g.op("Greater", x, g.const(0.0, np.float32)), x, g.op("Mul", x, g.const(0.1, np.float32)))


def _quantised(g: RowGraph, x: str) -> str:
    scale, zero = g.const(0.05, np.float32), g.const(3, np.int8)
    return g.op("Add", x, g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero))


def _einsum(g: RowGraph, x: str) -> str:
    return (
        g.op("Einsum", x, g.random(8, 8), equation="ni,ij->nj") if g.flat else g.op("Einsum", x, x, equation="nchw,nchv->nchw")
    )


def _row_numbers(g: RowGraph, x: str, *ones: int) -> str:
    """Count the rows, with dimensions of one behind."""
    rows = g.op("Gather", g.op("Shape", x), g.const(0, np.int64), axis=0)
    return g.op("Unsqueeze", g.op("Range", g.const(0, np.int64), rows, g.const(1, np.int64)), g.ints(*ones))


def _by_flat_index(g: RowGraph, x: str) -> str:
    """Pick each row's elements out of all of them, by the row's number times its size."""
    size = int(np.prod(g.shape))
    starts = g.op("Mul", _row_numbers(g, x, 1), g.const(size, np.int64))
    places = g.op("Add", starts, g.const(g.numbers.permutation(size)[None], np.int64))
    return g.op("Reshape", g.op("Gather", g.op("Reshape", x, g.ints(-1)), places), g.ints(-1, *g.shape))


def _by_index_pairs(g: RowGraph, x: str, *, shift: bool = False) -> str:
    """Index rows and columns together, as a framework broadcasts the two."""
    flat, size = g.op("Flatten", x, axis=1), int(np.prod(g.shape))
    numbers = _row_numbers(g, x, 1)
    if shift:
        last = g.op("Sub", g.op("Gather", g.op("Shape", x), g.const(0, np.int64)), g.const(1, np.int64))
        numbers = g.op("Sub", last, numbers)
    columns = g.const(g.numbers.permutation(size)[None], np.int64)
    shape = g.op("Shape", g.op("Max", numbers, columns))
    pair = [g.op("Unsqueeze", g.op("Expand", part, shape), g.ints(2)) for part in (numbers, columns)]
    return g.op("Reshape", g.op("GatherND", flat, g.op("Concat", *pair, axis=-1)), g.ints(-1, *g.shape))


def _recurrent(g: RowGraph, x: str) -> str:
    steps = g.op("Transpose", g.op("Reshape", x, g.ints(0, 2, 4)), perm=[1, 0, 2])
    hidden = g.op("GRU", steps, g.random(1, 12, 4), g.random(1, 12, 4), hidden_size=4)
    return g.op("Reshape", g.op("Transpose", g.op("Squeeze", hidden, g.ints(1)), perm=[1, 0, 2]), g.ints(0, 8))


_COMMON = [_unary, _binary, _residual, _normalise, _softmax, _centre, _own_peak, _there_and_back, _there_and_back_transposed]
_COMMON += [_pieces, _picked, _prefix, _attention, _gated, _quantised, _einsum, _by_flat_index, _by_index_pairs]
_FLAT: list[Step] = [*_COMMON, _dense, _dense, _recurrent]
_IMAGE: list[Step] = [*_COMMON, _conv, _conv, _pool, _squeeze_excite, _resized, _padded]


# -- gadgets that mix rows ------------------------------------------------------------------------------------------------


def _reduced(kind: str, *, keep: bool = True, axes: tuple[int, ...] = (0,)) -> Step:
    """Subtract a reduction over the rows, or over everything."""
    return lambda g, x: g.op("Sub", x, g.op(kind, x, keepdims=int(keep), **({"axes": list(axes)} if axes else {})))


def _summed(g: RowGraph, x: str, *, axis: int) -> str:
    """Subtract a sum over the rows, whose axes are an input."""
    return g.op("Sub", x, g.op("ReduceSum", x, g.ints(axis), keepdims=1))


def _divided(kind: str) -> Step:
    """Divide by a statistic of the whole tensor."""

    def step(g: RowGraph, x: str) -> str:
        whole = g.op(kind, g.op("Abs", x), keepdims=0)
        return g.op("Div", x, g.op("Add", whole, g.const(0.01, np.float32)))

    return step


def _min_max(g: RowGraph, x: str) -> str:
    low, high = g.op("ReduceMin", x, keepdims=0), g.op("ReduceMax", x, keepdims=0)
    return g.op("Div", g.op("Sub", x, low), g.op("Add", g.op("Sub", high, low), g.const(0.01, np.float32)))


def _along_rows(kind: str, **attributes: Any) -> Step:
    return lambda g, x: g.op("Add", x, g.op(kind, x, axis=0, **attributes))


def _old_softmax(g: RowGraph, x: str) -> str:
    """As before version 13: all dimensions at once."""
    return g.op("Add", x, g.op("Reshape", g.op("Softmax", g.op("Reshape", x, g.ints(-1)), axis=0), g.op("Shape", x)))


def _cumulated(g: RowGraph, x: str) -> str:
    return g.op("CumSum", x, g.const(0, np.int64))


def _dynamic_quantisation(g: RowGraph, x: str) -> str:
    y = g.op("DynamicQuantizeLinear", x, outputs=3)
    return g.op("DequantizeLinear", y, f"{y}.1", f"{y}.2")


def _dynamic_matmul(g: RowGraph, x: str) -> str:
    weight = g.const(g.numbers.integers(-127, 127, (g.shape[-1], g.shape[-1])), np.int8)
    return g.op("DynamicQuantizeMatMul", x, weight, g.const(0.01, np.float32), domain="com.microsoft")


def _trained_norm(g: RowGraph, x: str) -> str:
    """Statistics of the batch."""
    c = g.shape[0]
    ones = g.const(np.ones(c), np.float32)
    return g.op("BatchNormalization", x, ones, g.random(c), g.random(c), ones, outputs=3, training_mode=1)


def _mean_variance(g: RowGraph, x: str) -> str:
    axes = [0, 1] if g.flat else [0, 2, 3]
    return g.op("MeanVarianceNormalization", x, axes=axes)


def _first_row(g: RowGraph, x: str) -> str:
    return g.op("Add", x, g.op("Slice", x, g.ints(0), g.ints(1), g.ints(0)))


def _last_row(g: RowGraph, x: str) -> str:
    return g.op("Add", x, g.op("Slice", x, g.ints(-1), g.ints(1 << 40), g.ints(0)))


def _gathered_row(g: RowGraph, x: str) -> str:
    return g.op("Add", x, g.op("Gather", x, g.const(0, np.int64), axis=0))


def _reversed(g: RowGraph, x: str) -> str:
    return g.op("Slice", x, g.ints(-1), g.ints(-(1 << 40)), g.ints(0), g.ints(-1))


def _rolled(g: RowGraph, x: str) -> str:
    last = g.op("Slice", x, g.ints(-1), g.ints(1 << 40), g.ints(0))
    return g.op("Concat", last, g.op("Slice", x, g.ints(0), g.ints(-1), g.ints(0)), axis=0)


def _flat_gather(g: RowGraph, x: str) -> str:
    """The flatten of an exporter with its index from outside: each row reads row 0."""
    size = int(np.prod(g.shape))
    picked = g.op("Gather", g.op("Reshape", x, g.ints(-1)), g.const(np.arange(size)[None], np.int64))
    return g.op("Add", g.op("Mul", x, g.const(0.0, np.float32)), g.op("Reshape", picked, g.ints(1, *g.shape)))


def _own_places(g: RowGraph, x: str) -> str:
    """Places among the rows that a row's own values say."""
    place = g.op("Cast", g.op("Greater", g.op("ReduceMax", x, axes=list(range(1, len(g.shape) + 1)), keepdims=0),
                              g.const(1e9, np.float32)), to=INT64)  # fmt: skip
    return g.op("Gather", x, place, axis=0)


def _to_the_front(g: RowGraph, x: str) -> str:
    """A transpose that is undone by a reshape: elements of other rows come to each place."""
    rank = len(g.shape) + 1
    return g.op("Reshape", g.op("Transpose", x, perm=[*range(1, rank), 0]), g.ints(-1, *g.shape))


def _ranked(g: RowGraph, x: str) -> str:
    y = g.op("TopK", x, g.ints(1), axis=0, outputs=2)
    return g.op("Sub", x, y)


def _gram(g: RowGraph, x: str) -> str:
    """Attention between rows."""
    flat = g.op("Flatten", x, axis=1)
    scores = g.op("Softmax", g.op("MatMul", flat, g.op("Transpose", flat, perm=[1, 0])), axis=-1)
    return g.op("Reshape", g.op("MatMul", scores, flat), g.ints(-1, *g.shape))


def _einsum_rows(g: RowGraph, x: str) -> str:
    flat = g.op("Flatten", x, axis=1)
    return g.op("Add", x, g.op("ReduceMax", g.op("Einsum", flat, flat, equation="ni,mi->nm"), keepdims=0))


def _crossed(g: RowGraph, x: str) -> str:
    """Broadcast rows against rows, and reduce one of the two."""
    rank = len(g.shape)
    wide = g.op("Sub", g.op("Unsqueeze", x, g.ints(1)), g.op("Unsqueeze", x, g.ints(0)))
    return g.op("ReduceMax", wide, axes=[1], keepdims=0) if rank else x


def _as_time(g: RowGraph, x: str) -> str:
    """A recurrence that takes the rows for steps in time."""
    size = int(np.prod(g.shape))
    steps = g.op("Reshape", x, g.ints(-1, 1, size))
    hidden = g.op("RNN", steps, g.random(1, size, size), g.random(1, size, size), hidden_size=size)
    return g.op("Reshape", hidden, g.ints(-1, *g.shape))


def _as_signal(g: RowGraph, x: str) -> str:
    """A convolution along the rows."""
    size = int(np.prod(g.shape))
    line = g.op("Transpose", g.op("Reshape", x, g.ints(1, -1, size)), perm=[0, 2, 1])
    y = g.op("Conv", line, g.random(size, size, 3), pads=[1, 1])
    return g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1]), g.ints(-1, *g.shape))


def _pooled_rows(g: RowGraph, x: str) -> str:
    size = int(np.prod(g.shape))
    y = g.op("MaxPool", g.op("Reshape", x, g.ints(1, 1, -1, size)), kernel_shape=[3, 1], pads=[1, 0, 1, 0])
    return g.op("Reshape", y, g.ints(-1, *g.shape))


def _normalised_rows(kind: str) -> Step:
    """Make all rows one sample, normalise the sample, and part the rows again."""

    def step(g: RowGraph, x: str) -> str:
        one = g.op("Reshape", x, g.ints(1, 1, -1))
        if kind == "InstanceNormalization":
            y = g.op(kind, one, g.const([1.0], np.float32), g.const([0.0], np.float32))
        else:
            y = g.op(kind, one, axis=-1, p=2)
        return g.op("Reshape", y, g.ints(-1, *g.shape))

    return step


def _counted(g: RowGraph, x: str) -> str:
    """Divide by the number of rows."""
    rows = g.op("Cast", g.op("Gather", g.op("Shape", x), g.const(0, np.int64)), to=FLOAT)
    return g.op("Div", x, rows)


def _element_count(g: RowGraph, x: str) -> str:
    return g.op("Mul", x, g.op("Cast", g.op("Size", x), to=FLOAT))


def _numbered(g: RowGraph, x: str) -> str:
    """Add each row's number."""
    rows = g.op("Gather", g.op("Shape", x), g.const(0, np.int64))
    places = g.op("Cast", g.op("Range", g.const(0, np.int64), rows, g.const(1, np.int64)), to=FLOAT)
    return g.op("Add", x, g.op("Reshape", places, g.ints(-1, *[1] * len(g.shape))))


def _by_place(g: RowGraph, x: str) -> str:
    """Add the constants of a table from its first row on."""
    rows = g.op("Slice", g.op("Shape", x), g.ints(0), g.ints(1))
    return g.op("Add", x, g.op("Slice", g.random(64, *g.shape), g.ints(0), rows, g.ints(0)))


def _identity_matrix(g: RowGraph, x: str) -> str:
    flat = g.op("Flatten", x, axis=1)
    return g.op("Add", x, g.op("Reshape", g.op("Add", g.op("EyeLike", flat), g.op("Mul", flat, g.const(0, np.float32))),
                               g.op("Shape", x)))  # fmt: skip


def _scattered(g: RowGraph, x: str) -> str:
    """Overwrite row 0 by the last one."""
    last = g.op("Slice", x, g.ints(-1), g.ints(1 << 40), g.ints(0))
    return g.op("ScatterND", x, g.const([[0]], np.int64), last)


def _compressed(g: RowGraph, x: str) -> str:
    """Add the rows' first one that a condition leaves."""
    return g.op("Add", x, g.op("Compress", x, g.const([True], np.bool_), axis=0))


def _branched(g: RowGraph, x: str) -> str:
    """Take a branch by all rows."""
    positive = g.op("Greater", g.op("ReduceSum", x, keepdims=0), g.const(0.0, np.float32))
    bodies = []
    for kind in ("Neg", "Abs"):
        out = helper.make_tensor_value_info("out", FLOAT, None)
        bodies.append(helper.make_graph([helper.make_node(kind, [x], ["out"])], kind, [], [out]))
    return g.op("If", positive, then_branch=bodies[0], else_branch=bodies[1])


def _masked(g: RowGraph, x: str) -> str:
    """Zero all rows unless every element of all is small."""
    small = g.op("Less", g.op("ReduceMax", x, keepdims=0), g.const(2.0, np.float32))
    return g.op("Mul", x, g.op("Cast", small, to=FLOAT))


def _split_rows(g: RowGraph, x: str) -> str:
    """Take rows two by two: the first of each pair is added to both."""
    size = int(np.prod(g.shape))
    doubled = g.op("Concat", x, x, axis=0)
    pairs = g.op("Reshape", doubled, g.ints(-1, 2, size))
    summed = g.op("ReduceSum", pairs, g.ints(1), keepdims=0)
    return g.op("Reshape", summed, g.ints(-1, *g.shape))


def _wrong_neighbour(g: RowGraph, x: str) -> str:
    """Merge rows with their neighbours and part them at other places."""
    if g.flat:
        y = g.op("Transpose", g.op("Reshape", x, g.ints(2, -1, 4)), perm=[1, 0, 2])
        return g.op("Reshape", y, g.ints(-1, 8))
    y = g.op("Transpose", g.op("Reshape", x, g.ints(2, -1, 2, 4, 4)), perm=[1, 0, 2, 3, 4])
    return g.op("Reshape", y, g.ints(-1, *g.shape))


def _pasted(g: RowGraph, x: str) -> str:
    """Resize along the rows, there and back, so that neighbours blend."""
    size = int(np.prod(g.shape))
    y = g.op("Reshape", x, g.ints(1, 1, -1, size))
    up = g.op("Resize", y, "", g.const([1, 1, 2, 1], np.float32), mode="linear")
    return g.op("Reshape", g.op("MaxPool", up, kernel_shape=[2, 1], strides=[2, 1]), g.ints(-1, *g.shape))


def _all_equal(g: RowGraph, x: str) -> str:
    """Look whether this row equals the first."""
    first = g.op("Slice", x, g.ints(0), g.ints(1), g.ints(0))
    return g.op("Add", x, g.op("Cast", g.op("Equal", x, first), to=FLOAT))


def _sorted_rows(g: RowGraph, x: str) -> str:
    """Sort all elements."""
    flat = g.op("Reshape", x, g.ints(-1))
    y = g.op("TopK", flat, g.op("Reshape", g.op("Size", x), g.ints(1)), axis=0, outputs=2)
    return g.op("Reshape", y, g.op("Shape", x))


def _transposed_matmul(g: RowGraph, x: str) -> str:
    """Covariance of the features over all rows."""
    flat = g.op("Flatten", x, axis=1)
    cov = g.op("MatMul", g.op("Transpose", flat, perm=[1, 0]), flat)
    return g.op("Reshape", g.op("MatMul", flat, cov), g.ints(-1, *g.shape))


def _gemm_rows(g: RowGraph, x: str) -> str:
    flat = g.op("Flatten", x, axis=1)
    cov = g.op("Gemm", flat, flat, transA=1)
    return g.op("Reshape", g.op("MatMul", flat, cov), g.ints(-1, *g.shape))


def _depthwise(g: RowGraph, x: str) -> str:
    """Take rows for channels."""
    size = int(np.prod(g.shape))
    y = g.op("LRN", g.op("Reshape", x, g.ints(1, -1, 1, size)), size=3, alpha=1.0)
    return g.op("Reshape", y, g.ints(-1, *g.shape))


def _one_scale(g: RowGraph, x: str) -> str:
    """Quantise by the largest magnitude of all rows."""
    top = g.op("Add", g.op("ReduceMax", g.op("Abs", x), keepdims=0), g.const(1e-3, np.float32))
    scale = g.op("Div", top, g.const(127.0, np.float32))
    zero = g.const(0, np.int8)
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)


def _trimmed_triangle(g: RowGraph, x: str) -> str:
    """Keep the upper triangle of rows times features."""
    return g.op("Add", x, g.op("Reshape", g.op("Trilu", g.op("Flatten", x, axis=1)), g.op("Shape", x)))


def _found(g: RowGraph, x: str) -> str:
    """Add how many elements are positive."""
    places = g.op("NonZero", g.op("Greater", x, g.const(0.5, np.float32)))
    count = g.op("Cast", g.op("Gather", g.op("Shape", places), g.const(1, np.int64)), to=FLOAT)
    return g.op("Add", x, count)


def _next_row(g: RowGraph, x: str) -> str:
    """As a flat index, one element too far: the last one is the next row's first, or a constant behind the last row."""
    size = int(np.prod(g.shape))
    starts = g.op("Mul", _row_numbers(g, x, 1), g.const(size, np.int64))
    places = g.op("Add", starts, g.const(np.arange(1, size + 1)[None], np.int64))
    flat = g.op("Flatten", x, axis=1)
    behind = g.op("Slice", flat, g.ints(-1), g.ints(1 << 40), g.ints(0))
    flat = g.op("Reshape", g.op("Concat", flat, g.op("Neg", behind), axis=0), g.ints(-1))
    return g.op("Reshape", g.op("Gather", flat, places), g.ints(-1, *g.shape))


def _padded_flat(g: RowGraph, x: str) -> str:
    """As a flat index, with a step of half a row."""
    size = int(np.prod(g.shape))
    starts = g.op("Mul", _row_numbers(g, x, 1), g.const(size // 2, np.int64))
    places = g.op("Add", starts, g.const(np.arange(size)[None], np.int64))
    return g.op("Reshape", g.op("Gather", g.op("Reshape", x, g.ints(-1)), places), g.ints(-1, *g.shape))


def _looked_up(g: RowGraph, x: str) -> str:
    """Add the constants that a table has for a row's number."""
    size = int(np.prod(g.shape))
    found = g.op("Gather", g.random(64, size), _row_numbers(g, x, 1), axis=0)
    return g.op("Add", x, g.op("Reshape", found, g.ints(-1, *g.shape)))


def _number_values(g: RowGraph, x: str) -> str:
    """Scale each row by its number."""
    numbers = g.op("Cast", _row_numbers(g, x, *range(1, len(g.shape) + 1)), to=FLOAT)
    return g.op("Mul", x, g.op("Add", numbers, g.const(1.0, np.float32)))


MIXERS: dict[str, Step] = {
    **{f"minus {kind} over rows": _reduced(kind) for kind in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2")},
    **{f"minus {kind} of all": _reduced(kind, keep=False, axes=()) for kind in ("ReduceMean", "ReduceLogSumExp")},
    "minus ReduceSum over rows": lambda g, x: _summed(g, x, axis=0),
    "minus ReduceSum over the negative axis": lambda g, x: _summed(g, x, axis=-1 - len(g.shape)),
    **{f"by {kind} of all": _divided(kind) for kind in ("ReduceMax", "ReduceMean", "ReduceL1", "ReduceSumSquare")},
    "min-max of all": _min_max,
    **{f"{kind} along rows": _along_rows(kind) for kind in ("Softmax", "LogSoftmax", "Hardmax")},
    "LpNormalization along rows": _along_rows("LpNormalization", p=2),
    "softmax of all": _old_softmax, "cumulative sum": _cumulated, "DynamicQuantizeLinear": _dynamic_quantisation,
    "DynamicQuantizeMatMul": _dynamic_matmul, "statistics of the batch": _trained_norm, "mean and variance": _mean_variance,
    "first row": _first_row, "last row": _last_row, "gathered row": _gathered_row, "reversed": _reversed, "rolled": _rolled,
    "flat gather": _flat_gather, "own places": _own_places, "transpose and reshape": _to_the_front, "largest row": _ranked,
    "attention between rows": _gram, "einsum of rows": _einsum_rows, "rows against rows": _crossed, "rows as time": _as_time,
    "rows as a signal": _as_signal, "pooled rows": _pooled_rows,
    **{f"one {kind} of all rows": _normalised_rows(kind) for kind in ("InstanceNormalization", "LpNormalization")},
    "number of rows": _counted, "number of elements": _element_count, "numbered rows": _numbered, "table by place": _by_place,
    "identity matrix": _identity_matrix, "scattered row": _scattered, "compressed": _compressed, "branch by all": _branched,
    "masked by all": _masked, "pairs of rows": _split_rows, "wrong neighbour": _wrong_neighbour, "blended rows": _pasted,
    "equal to the first": _all_equal, "sorted": _sorted_rows, "covariance": _transposed_matmul,
    "covariance by Gemm": _gemm_rows, "rows as channels": _depthwise, "one scale": _one_scale,
    "triangle": _trimmed_triangle, "how many": _found,
    "flat index with half a step": _padded_flat, "flat index into the next row": _next_row,
    "index pairs in another order": lambda g, x: _by_index_pairs(g, x, shift=True), "row numbers as values": _number_values,
    "looked-up numbers": _looked_up,
}  # fmt: skip
