"""Arithmetic and memory traffic of one node, counted from its shapes.

The counts feed `cutset inspect` and the modelled costs. They say how much work an operator is, never how long it takes.
A multiply-add counts two; cheap elementwise arithmetic one an element; moving data none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from cutset.errors import UnknownShapeError
from cutset.graph.model import ModelGraph, OpNode, iter_bodies
from cutset.graph.types import TensorSpec

DIVIDE = 4
"""Operations that one division, remainder or square root stands for."""

TRANSCENDENTAL = 8
"""Operations that one exp, log, tanh, erf, ... stands for: GPUs evaluate them at an eighth of the multiply-add rate.

Source: NVIDIA, CUDA C++ Programming Guide, "Arithmetic Instructions" (16 special-function against 128 fp32 results a
cycle and multiprocessor on compute capability 8.6 and 8.9).
"""

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
"""Operators that rename memory (Dropout at inference): nothing is computed or moved."""

SHAPE_READERS = frozenset({"Shape", "Size"})
"""Operators that read the shape of their input and not its elements."""

GATHERING = frozenset({"Gather", "GatherElements", "GatherND", "Slice"})
"""Operators that read no more of their first input than they write."""

MATRIX_OPS = frozenset({
    "Attention", "Conv", "ConvInteger", "ConvTranspose", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "Einsum",
    "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "GroupQueryAttention", "LSTM", "MatMul", "MatMulInteger",
    "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "QAttention", "QLinearConv", "QLinearMatMul", "RNN",
})  # fmt: skip
"""Operators whose work is matrix products, the part that tensor cores speed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCount:
    """Work of one run of a node.

    Args:
        flops: Arithmetic operations, a multiply-add as two (integer arithmetic counts alike).
        read_bytes: Bytes of activations read.
        written_bytes: Bytes written, of outputs that somebody reads.
        weight_bytes: Bytes of constants read in this run; an embedding table counts the rows that are looked up.
    """

    flops: int
    read_bytes: int
    written_bytes: int
    weight_bytes: int


def count(graph: ModelGraph, node: OpNode) -> OpCount:
    """Return the arithmetic and the memory traffic of one run of `node`.

    The nodes inside If, Loop and Scan bodies count once, whatever the number of iterations; an If counts its dearer
    branch. Of what happens inside a body only the arithmetic and the weights are counted. An operator that is in no
    table counts one operation an output element.

    Raises:
        UnknownShapeError: If the shape of a value that matters is not known; the message names it.
    """
    inner = graph.ir_nodes[node.name]
    flops = _flops(graph, inner)
    if node.op.known_type in VIEWS:
        return OpCount(flops=flops, read_bytes=0, written_bytes=0, weight_bytes=0)
    constant = graph.constant_values
    reads = {name: touched_bytes(graph, node, name) for name in node.inputs}
    weights = sum(size for name, size in reads.items() if name in constant)
    return OpCount(
        flops=flops,
        read_bytes=sum(reads.values()) - weights,
        written_bytes=sum(graph.nbytes(name) for name in used_outputs(graph, node)),
        weight_bytes=weights + _body_weight_bytes(inner),
    )


def used_outputs(graph: ModelGraph, node: OpNode) -> tuple[str, ...]:
    """Return the outputs of `node` that another node reads or that leave the model."""
    leaving = {spec.name for spec in graph.outputs}
    return tuple(name for name in node.outputs if name in graph.consumers or name in leaving)


def touched_bytes(graph: ModelGraph, node: OpNode, value: str) -> int:
    """Return how many bytes of its input `value` the node reads in one run.

    Raises:
        UnknownShapeError: If a shape is not known.
    """
    if node.op.known_type in SHAPE_READERS:
        return 0
    full = graph.nbytes(value)
    if node.op.known_type in GATHERING and value == node.inputs[0]:
        return min(full, sum(graph.nbytes(name) for name in node.outputs))
    return full


def launches(graph: ModelGraph, node: OpNode) -> int:
    """Return how many kernels `node` is, one after the other: one, but of LSTM, GRU and RNN one and two a step.

    Those are the product of all inputs, and in each step the product of the state and what is done with the gates.

    Raises:
        UnknownShapeError: If the sequence length is not known.

    Source:
        Appleyard, Kocisky and Blunsom, "Optimizing performance of recurrent neural networks on GPUs", arXiv:1604.01946, 2016.
    """
    if node.op.known_type not in _GATES:
        return 1
    operands = _Operands(graph, graph.ir_nodes[node.name])
    return 1 + 2 * max(1, operands.shape(0)[1 if operands.integer("layout", 0) else 0])


class _Operands:
    """Shapes by position and attributes of one node, of the main graph or of a body."""

    def __init__(self, graph: ModelGraph, node: ir.Node) -> None:
        self._graph = graph
        self._node = node

    def _shape(self, value: ir.Value | None) -> tuple[int, ...]:
        if value is None:
            raise UnknownShapeError(f"node `{self._node.name}` lacks an operand that {self._node.op_type} needs")
        name = str(value.name)
        if name in self._graph.values:
            return self._graph.shape(name)
        dims = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
        return TensorSpec(name=name, dtype="undefined", shape=dims).sizes({})

    def has(self, index: int) -> bool:
        return index < len(self._node.inputs) and self._node.inputs[index] is not None

    def shape(self, index: int) -> tuple[int, ...]:
        return self._shape(self._node.inputs[index] if index < len(self._node.inputs) else None)

    def size(self, index: int) -> int:
        return math.prod(self.shape(index))

    @property
    def out(self) -> tuple[int, ...]:
        return self._shape(self._node.outputs[0])

    @property
    def out_size(self) -> int:
        return math.prod(self.out)

    @property
    def arity(self) -> int:
        return sum(value is not None for value in self._node.inputs)

    def integer(self, name: str, default: int) -> int:
        return self._node.attributes.get_int(name, default)

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._node.attributes.get_ints(name, ()))

    def text(self, name: str, default: str) -> str:
        return self._node.attributes.get_string(name, default)

    @property
    def op_type(self) -> str:
        return self._node.op_type


_Rule = Callable[[_Operands], int]


def _flops(graph: ModelGraph, node: ir.Node) -> int:
    bodies = [sum(_flops(graph, inner) for inner in body) for body in iter_bodies(node)]
    if bodies:
        return max(bodies) if node.op_type == "If" else sum(bodies)
    operands = _Operands(graph, node)
    if node.domain not in {"", "com.microsoft"}:
        return operands.out_size
    rule = _RULES.get(node.op_type) if node.domain == "" else _CONTRIBUTED.get(node.op_type, _RULES.get(node.op_type))
    if rule is not None:
        return rule(operands)
    if node.op_type in _PER_INPUT:
        return _PER_INPUT[node.op_type] * operands.size(0)
    if node.op_type in _MOVES:
        return 0
    return _PER_OUTPUT.get(node.op_type, 1) * operands.out_size


def _body_weight_bytes(node: ir.Node) -> int:
    total = 0
    for body in iter_bodies(node):
        total += sum(v.const_value.nbytes for v in body.initializers.values() if v.const_value is not None)
        total += sum(_body_weight_bytes(inner) for inner in body)
    return total


def _conv(weight: int, bias: int) -> _Rule:
    def rule(o: _Operands) -> int:
        return o.out_size * (2 * math.prod(o.shape(weight)[1:]) + (1 if o.has(bias) else 0))

    return rule


def _conv_transpose(o: _Operands) -> int:
    return 2 * o.size(0) * math.prod(o.shape(1)[1:]) + (o.out_size if o.has(2) else 0)


def _matmul(o: _Operands) -> int:
    return 2 * o.out_size * o.shape(0)[-1]


def _gemm(o: _Operands) -> int:
    inner = o.shape(0)[0 if o.integer("transA", 0) else 1]
    return o.out_size * (2 * inner + (1 if o.has(2) else 0))


def _einsum(o: _Operands) -> int:
    """Every operand adds one multiplication or addition a point of the joint index space."""
    space: dict[str, int] = {}
    terms = o.text("equation", "").replace(" ", "").split("->")[0].split(",")
    for index, term in enumerate(terms):
        shape = o.shape(index)
        rest = len(shape) - len(term.replace("...", ""))
        broadcast = "".join(chr(0x100 + rest - 1 - i) for i in range(rest))  # one label an axis, counted from the right
        for label, size in zip(term.replace("...", broadcast), shape, strict=True):
            space[label] = max(space.get(label, 1), size)
    return len(terms) * math.prod(space.values())


def _attention(o: _Operands) -> int:
    past = o.shape(4)[-2] if o.has(4) else 0
    keys = o.shape(1)[-2] + past
    queries = o.size(0) // o.shape(0)[-1]
    heads = o.integer("q_num_heads", 1) if len(o.shape(0)) == 3 else 1
    return 2 * keys * (o.size(0) + o.out_size) + _PER_OUTPUT["Softmax"] * queries * heads * keys


def _scores(o: _Operands, keys: int) -> int:
    """Queries times keys, softmax, and its product with the values, of onnxruntime's attention operators."""
    queries = math.prod(o.shape(0)[:2])
    width = o.out[-1]
    return 2 * 2 * queries * keys * width + _PER_OUTPUT["Softmax"] * queries * o.integer("num_heads", 1) * keys


def _fused_attention(past: int) -> _Rule:
    """Attention over one input, with its projection to queries, keys and values."""

    def rule(o: _Operands) -> int:
        keys = o.shape(0)[1] + (o.shape(past)[-2] if o.has(past) else 0)
        return 2 * math.prod(o.shape(0)[:2]) * o.size(1) + _scores(o, keys)

    return rule


def _headed_attention(past: int) -> _Rule:
    """Attention over queries and keys that come projected, [batch, length, width] or [batch, heads, length, width]."""

    def rule(o: _Operands) -> int:
        shape = o.shape(1) if o.has(1) else o.shape(0)
        keys = shape[2] if o.has(1) and len(shape) == 4 else shape[1]
        return _scores(o, keys + (o.shape(past)[-2] if o.has(past) else 0))

    return rule


_GATES: Mapping[str, int] = {"LSTM": 4, "DynamicQuantizeLSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(o: _Operands) -> int:
    """Two products a step and direction, bias, one activation a gate, and the state update."""
    cells = o.shape(0)[0] * o.shape(0)[1]
    directions = o.shape(1)[0]
    hidden = o.integer("hidden_size", 0)
    gates = _GATES[o.op_type]
    bias = o.size(3) if o.has(3) else 0
    pointwise = directions * hidden * (gates * (TRANSCENDENTAL + 1) + (TRANSCENDENTAL + 4))
    return cells * (2 * (o.size(1) + o.size(2)) + bias + pointwise)


def _pool(per_tap: int) -> _Rule:
    return lambda o: per_tap * o.out_size * math.prod(o.integers("kernel_shape"))


def _variadic(o: _Operands) -> int:
    return max(1, o.arity - 1) * o.out_size


def _resize(o: _Operands) -> int:
    taps = {"nearest": 0, "linear": 2, "bilinear": 2, "cubic": 4}.get(o.text("mode", "nearest"), 0)
    scaled = sum(a != b for a, b in zip(o.shape(0), o.out, strict=True))
    return 2 * o.out_size * taps**scaled if taps and scaled else 0


def _lrn(o: _Operands) -> int:
    return o.out_size * (2 * o.integer("size", 1) + _PER_OUTPUT["Pow"] + DIVIDE)


def _topk(o: _Operands) -> int:
    kept = o.out[o.integer("axis", -1)]
    return o.size(0) * max(1, math.ceil(math.log2(max(2, kept))))


def _fourier(o: _Operands) -> int:
    """Five N log2 N a transform of N complex points.

    Source: Cooley and Tukey, "An algorithm for the machine calculation of complex Fourier series", 1965.
    """
    return math.ceil(2.5 * o.out_size * math.log2(max(2, o.out[-2])))


def _scatter(o: _Operands) -> int:
    return o.size(2) if o.text("reduction", "none") != "none" else 0


_RULES: Mapping[str, _Rule] = {
    "Conv": _conv(1, 2), "FusedConv": _conv(1, 2), "ConvInteger": _conv(1, 9), "QLinearConv": _conv(3, 8),
    "ConvTranspose": _conv_transpose, "Gemm": _gemm, "FusedGemm": _gemm, "Einsum": _einsum, "Attention": _attention,
    **dict.fromkeys(
        ("MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"),
        _matmul,
    ),
    **dict.fromkeys(_GATES, _recurrent),
    "MaxPool": _pool(1), "AveragePool": _pool(1), "LpPool": _pool(2),
    **dict.fromkeys(("Sum", "Mean", "Max", "Min"), _variadic),
    "Resize": _resize, "Upsample": _resize, "LRN": _lrn, "TopK": _topk, "DFT": _fourier, "STFT": _fourier,
    "ScatterElements": _scatter, "ScatterND": _scatter, "Scatter": _scatter,
}  # fmt: skip

_CONTRIBUTED: Mapping[str, _Rule] = {
    "Attention": _fused_attention(4), "QAttention": _fused_attention(8),
    "MultiHeadAttention": _headed_attention(6), "GroupQueryAttention": _headed_attention(3),
    "MatMulNBits": lambda o: 2 * o.out_size * o.integer("K", 1),
}  # fmt: skip
"""Operators of onnxruntime that ONNX lacks, or has under the same name with other operands."""

_PER_INPUT: Mapping[str, int] = {
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ArgMax", "ArgMin", "GlobalAveragePool",
         "GlobalMaxPool", "CumSum", "CumProd"), 1,
    ),
    **dict.fromkeys(("ReduceL1", "ReduceL2", "ReduceSumSquare", "GlobalLpPool", "LpNormalization"), 2),
    "ReduceLogSum": 1, "ReduceLogSumExp": TRANSCENDENTAL + 2,
}  # fmt: skip
"""Operations an element of the first input."""

_MOVES = VIEWS | SHAPE_READERS | GATHERING | frozenset({
    "Cast", "CastLike", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike",
    "NonZero", "OneHot", "Pad", "Range", "ReverseSequence", "SpaceToDepth", "Split", "Tile", "Transpose", "Trilu",
})  # fmt: skip

_PER_OUTPUT: Mapping[str, int] = {
    **dict.fromkeys(("Clip", "LeakyRelu", "PRelu", "BatchNormalization", "DequantizeLinear"), 2),
    "HardSigmoid": 4, "HardSwish": 5, "QuantizeLinear": DIVIDE + 3, "DynamicQuantizeLinear": DIVIDE + 5,
    **dict.fromkeys(("Div", "Mod", "Reciprocal", "Sqrt", "Softsign"), DIVIDE),
    **dict.fromkeys(
        ("Exp", "Log", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Tanh",
         "Erf"), TRANSCENDENTAL,
    ),
    **dict.fromkeys(("Elu", "Selu", "Celu"), TRANSCENDENTAL + 2),
    **dict.fromkeys(("Sigmoid", "Swish", "Gelu", "QuickGelu", "FastGelu", "BiasGelu"), TRANSCENDENTAL + DIVIDE),
    "Pow": 2 * TRANSCENDENTAL, "Softplus": 2 * TRANSCENDENTAL + 1, "Mish": 3 * TRANSCENDENTAL + 1,
    **dict.fromkeys(("Softmax", "LogSoftmax"), TRANSCENDENTAL + DIVIDE + 3),
    "Hardmax": 2, "RMSNormalization": 5, "SimplifiedLayerNormalization": 5, "MeanVarianceNormalization": 7,
    **dict.fromkeys(
        ("LayerNormalization", "InstanceNormalization", "GroupNormalization", "SkipLayerNormalization"), 8
    ),
    "GridSample": 18, "RotaryEmbedding": 6,
}  # fmt: skip
"""Operations an element of the first output; what is in no table counts one."""
