"""What a group of nodes has to do, by class of operator: the features that costs are modelled from.

A class holds operators that one machine runs at one rate: convolutions reach another share of the peak than reductions.
The numbers are kept in the profile, so that costs can be fitted to it without the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from cutset.errors import UnknownShapeError
from cutset.graph import flops
from cutset.graph.model import ModelGraph, OpNode
from cutset.profilers.roofline import border, is_shape_arithmetic
from cutset.profilers.table import ClassWork

_CLASSES: Mapping[str, tuple[str, ...]] = {
    "conv": ("Conv", "ConvInteger", "ConvTranspose", "FusedConv", "QLinearConv"),
    "recurrent": ("DynamicQuantizeLSTM", "GRU", "LSTM", "RNN"),
    "matmul": (
        "Attention", "DynamicQuantizeMatMul", "Einsum", "FusedGemm", "FusedMatMul", "Gemm", "GroupQueryAttention", "MatMul",
        "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "MultiHeadAttention", "QAttention", "QLinearMatMul",
    ),
    "normalisation": (
        "BatchNormalization", "GroupNormalization", "Hardmax", "InstanceNormalization", "LRN", "LayerNormalization",
        "LogSoftmax", "LpNormalization", "MeanVarianceNormalization", "RMSNormalization",
        "SimplifiedLayerNormalization", "SkipLayerNormalization", "Softmax",
    ),
    "reduction": (
        "ArgMax", "ArgMin", "CumProd", "CumSum", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
        "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
    ),
    "pooling": ("AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool", "QLinearAveragePool",
                "QLinearGlobalAveragePool"),
    "resize": ("GridSample", "MaxRoiPool", "Resize", "RoiAlign", "Upsample"),
    "movement": (
        "Cast", "CastLike", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike",
        "Gather", "GatherElements", "GatherND", "NonZero", "OneHot", "Pad", "Range", "ReverseSequence", "Scatter",
        "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Tile", "Transpose", "Trilu",
    ),
    "elementwise": (
        "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BiasGelu", "BitShift", "BitwiseAnd",
        "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Celu", "Clip", "Cos", "Cosh", "DequantizeLinear", "Div",
        "DynamicQuantizeLinear", "Elu", "Equal", "Erf", "Exp", "FastGelu", "Floor", "Gelu", "Greater", "GreaterOrEqual",
        "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish",
        "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "QLinearAdd", "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid",
        "QuantizeLinear", "QuickGelu", "Reciprocal", "Relu", "RotaryEmbedding", "Round", "Selu", "Shrink", "Sigmoid",
        "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh", "ThresholdedRelu",
        "Where", "Xor",
    ),
}  # fmt: skip

QUANTISED, VIEW, OTHER = "quantised", "view", "other"

CLASSES = (QUANTISED, *_CLASSES, VIEW, OTHER)
"""Every class, those first whose operators lead a fused kernel."""

_CLASS_OF = {op: name for name, ops in _CLASSES.items() for op in ops}
_MODELLED_DOMAINS = frozenset({"", "com.microsoft"})
_INTEGER_OPS = frozenset({
    "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QLinearConv",
    "QLinearMatMul",
})  # fmt: skip

BLOCK_CHANNELS = 16
"""Convolutions with fewer output channels do not fill a vector in the blocked (NCHWc) layout and run as a matrix product."""


def class_of(graph: ModelGraph, node: OpNode) -> str:
    """Return the class of a node.

    Renamed memory and arithmetic on shapes are a ``view``; matrix products in 8 bits, of whatever operator, are
    ``quantised``; control flow and what is in no table is ``other``.
    """
    if node.op.known_type in flops.VIEWS or is_shape_arithmetic(graph, node):
        return VIEW
    if node.op.domain not in _MODELLED_DOMAINS:
        return OTHER
    if node.op.known_type in flops.MATRIX_OPS and _is_quantised(graph, node):
        return QUANTISED
    return _CLASS_OF.get(node.op.known_type, OTHER)


def _is_quantised(graph: ModelGraph, node: OpNode) -> bool:
    """Return whether `node` multiplies 8-bit activations; weights that are stored in 8 bits are not enough."""
    writers = (graph.producer.get(value, "") for value in node.inputs)
    return node.op.known_type in _INTEGER_OPS or any(
        writer not in graph.unplaced and graph.by_name[writer].op.standard_type == "DequantizeLinear"
        for writer in writers
        if writer
    )


def work_of(graph: ModelGraph, nodes: Sequence[str]) -> dict[str, ClassWork]:
    """Return the work of one run of `nodes` as one kernel, by class; empty where a size is not known.

    The launch belongs to the class that leads the kernel: the one with most operations, of equals the first in
    `CLASSES`. Recurrent operators launch twice a step. Bytes are those that cross the group's border, each tensor once;
    they belong to the class of the node that first reads or that writes them, those of views to the leading class.

    Args:
        graph: The model, with the shapes of the run.
        nodes: Names of the group's nodes; constant and dead ones count nothing.
    """
    live = [graph.by_name[name] for name in nodes if name not in graph.unplaced]
    real = [node for node in live if not is_shape_arithmetic(graph, node)]
    kernels = {node.name: class_of(graph, node) for node in real if node.op.known_type not in flops.VIEWS}
    if not kernels:
        return {VIEW: ClassWork(launches=1, flops=0, bytes=0)} if live else {}
    try:
        return _work(graph, real, kernels)
    except UnknownShapeError:
        return {}


def _work(graph: ModelGraph, real: Sequence[OpNode], kernels: Mapping[str, str]) -> dict[str, ClassWork]:
    counts = dict.fromkeys(kernels.values(), 0)
    launches, traffic, gathered = dict(counts), dict(counts), dict(counts)
    for name, kind in kernels.items():
        node = graph.by_name[name]
        counts[kind] += flops.count(graph, node).flops
        launches[kind] += flops.launches(graph, node) - 1
        gathered[kind] += _gathered(graph, node)
    leader = max(counts, key=lambda kind: (counts[kind], -CLASSES.index(kind)))
    launches[leader] += 1
    for node, _, size in border(graph, real):
        traffic[kernels.get(node.name, leader)] += size
    return {
        kind: ClassWork(launches=launches[kind], flops=counts[kind], bytes=traffic[kind], gathered=gathered[kind])
        for kind in counts
    }


def _gathered(graph: ModelGraph, node: OpNode) -> int:
    """Return the elements that a convolution copies to become a matrix product, zero where its layout is blocked.

    Source:
        Chellapilla, Puri and Simard, "High performance convolutional neural networks for document processing", 2006.
    """
    if node.op.known_type not in {"Conv", "ConvTranspose", "FusedConv"}:
        return 0
    inner = graph.ir_nodes[node.name]
    data, weight = (graph.shape(str(value.name)) for value in inner.inputs[:2] if value is not None)
    transposed = node.op.known_type == "ConvTranspose"
    out = graph.shape(node.outputs[0])
    if len(weight) == 4 and out[1] >= BLOCK_CHANNELS and not transposed:
        return 0
    positions = data if transposed else out  # a transposed one multiplies first and scatters then
    return math.prod(positions) // positions[1] * math.prod(weight[1:]) * inner.attributes.get_int("group", 1)
