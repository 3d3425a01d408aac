"""Modelled GPU cost of a fused group of nodes: what a data sheet allows, never what a machine did.

A roofline with a launch floor. It is good to rank groups and not to promise times, so every result is marked
``modelled`` and carries a wide interval; the planner solves at both ends of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from cutset.graph import flops
from cutset.graph.model import ModelGraph, OpNode
from cutset.profilers.datasheets import Datasheet, Precision
from cutset.profilers.table import TransferModel

MATRIX_EFFICIENCY = 0.4
"""Share of the tensor-core peak that whole convolution and matrix kernels reach.

Published MLPerf Inference results for ResNet-50 (offline, int8) correspond to roughly 0.35 to 0.5 of the dense peak.
"""

CORE_EFFICIENCY = 0.6
"""Share of the fp32 peak of the ordinary cores: fewer operands must arrive a cycle than tensor cores want."""

MEMORY_EFFICIENCY = 0.75
"""Share of the printed memory bandwidth that a kernel streaming its operands reaches; plain copies reach 0.8 to 0.9."""

INTERVAL = 3.0
"""A data-sheet roofline is off by up to this factor either way."""

SHAPE_TENSOR_ELEMENTS = 64
"""Largest tensor that TensorRT treats as a shape.

Source: NVIDIA TensorRT documentation, "Working with Dynamic Shapes": execution tensors and shape tensors.
"""

_SHAPE_DTYPES = frozenset({"int32", "int64", "bool"})
_FLOAT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelled:
    """Modelled cost of one group on one device.

    Args:
        latency_s: Seconds of one run, the launch floor included.
        low_s: Lower end of the interval.
        high_s: Upper end of the interval.
        flops: Operations of one run.
        bytes: Bytes that cross the group's border, weights included.
        source: Always ``modelled``.
    """

    latency_s: float
    low_s: float
    high_s: float
    flops: int
    bytes: int
    source: Literal["modelled"] = "modelled"


def is_shape_arithmetic(graph: ModelGraph, node: OpNode) -> bool:
    """Return whether `node` computes on shapes, which TensorRT does on the host while it enqueues.

    That is Shape and Size, and whatever maps integer vectors of at most 64 elements to such vectors.
    """
    if node.has_body or not all(_is_shape_tensor(graph, name) for name in node.outputs):
        return False
    return node.op.known_type in flops.SHAPE_READERS or all(_is_shape_tensor(graph, name) for name in node.inputs)


def model_group(
    graph: ModelGraph,
    nodes: Sequence[str],
    sheet: Datasheet,
    precision: Precision = "fp32",
    quantised: Collection[str] = (),
) -> Modelled:
    """Return the modelled cost of running `nodes` as one fused kernel.

    One launch (recurrent operators: two a step), plus the longer of arithmetic and memory traffic. Tensors that live
    and die inside the group stay on chip and are not counted; weights are. Views, shape arithmetic and constant nodes
    cost nothing. At ``int8`` only groups that quantise or read a dequantised tensor run in int8, the others in fp32.

    Args:
        graph: The model, with known shapes for all that the group touches.
        nodes: Names of the group's nodes.
        sheet: The device.
        precision: Type of the matrix products and of the floating-point tensors.
        quantised: Nodes that run in int8 although the model does not quantise them.

    Raises:
        UnknownShapeError: If a shape is not known; the group cannot be modelled and belongs on the CPU.
        UsageError: If the device lacks the precision.

    Source:
        Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.
    """
    group = [
        node
        for node in map(graph.by_name.__getitem__, nodes)
        if node.name not in graph.constant_nodes and not is_shape_arithmetic(graph, node)
    ]
    kernels = [node for node in group if node.op.known_type not in flops.VIEWS]
    if not kernels:
        return Modelled(latency_s=0.0, low_s=0.0, high_s=0.0, flops=0, bytes=0)
    if precision == "int8" and not any(node.name in quantised or _is_quantized(graph, node) for node in group):
        precision = "fp32"
    counts = {node.name: flops.count(graph, node).flops for node in kernels}
    matrix = sum(counts[node.name] for node in kernels if node.op.known_type in flops.MATRIX_OPS)
    total = sum(counts.values())
    traffic = _traffic_bytes(graph, group, _FLOAT_BYTES[precision])
    launches = 1 + sum(flops.launches(graph, node) - 1 for node in kernels)
    cores = sheet.fp32_flops * CORE_EFFICIENCY
    tensor_cores = 0.0 if precision == "fp32" else sheet.matrix_flops(precision) * MATRIX_EFFICIENCY
    compute_s = matrix / max(cores, tensor_cores) + (total - matrix) / cores  # the builder picks the faster kernel
    memory_s = traffic / (sheet.memory_bytes_per_s * MEMORY_EFFICIENCY)
    latency_s = launches * sheet.kernel_launch_s + max(compute_s, memory_s)
    return Modelled(
        latency_s=latency_s,
        low_s=latency_s / INTERVAL,
        high_s=latency_s * INTERVAL,
        flops=total,
        bytes=traffic,
    )


def transfer_times(sheet: Datasheet) -> tuple[TransferModel, TransferModel]:
    """Return the modelled cost of pinned copies to the device and back, in this order."""
    link = sheet.link
    return (
        TransferModel(direction="h2d", pinned=True, fixed_s=link.fixed_s, bytes_per_s=link.h2d_bytes_per_s, source="modelled"),
        TransferModel(direction="d2h", pinned=True, fixed_s=link.fixed_s, bytes_per_s=link.d2h_bytes_per_s, source="modelled"),
    )


def _is_shape_tensor(graph: ModelGraph, name: str) -> bool:
    if graph.values[name].dtype not in _SHAPE_DTYPES or not graph.knows_shape(name):
        return False
    shape = graph.shape(name)
    return len(shape) <= 1 and math.prod(shape) <= SHAPE_TENSOR_ELEMENTS


def _is_quantized(graph: ModelGraph, node: OpNode) -> bool:
    writers = (graph.producer.get(name) for name in node.inputs)
    return node.op.known_type in _QUANTIZERS or any(
        writer is not None and graph.by_name[writer].op.known_type in _QUANTIZERS for writer in writers
    )


def _traffic_bytes(graph: ModelGraph, group: Sequence[OpNode], float_bytes: int) -> int:
    return sum(_resized(graph, value, size, float_bytes) for _, value, size in border(graph, group))


def border(graph: ModelGraph, group: Sequence[OpNode]) -> Iterator[tuple[OpNode, str, int]]:
    """Yield what one kernel of `group` moves: each value read from outside, once, and each written for outside.

    With each comes the node that reads it first or writes it, and its bytes in the model's type.

    Raises:
        UnknownShapeError: If a shape is not known.
    """
    names = {node.name for node in group}
    inside = {value for node in group for value in node.outputs}
    leaving = {spec.name for spec in graph.outputs}
    reads: dict[str, tuple[OpNode, int]] = {}
    for node in group:
        for value in node.inputs:
            if value not in inside:
                first, size = reads.get(value, (node, 0))
                reads[value] = first, max(size, flops.touched_bytes(graph, node, value))
        for value in node.outputs:
            if value in leaving or any(reader not in names for reader in graph.consumers.get(value, ())):
                yield node, value, graph.nbytes(value)
    for value, (node, size) in reads.items():
        yield node, value, size


def _resized(graph: ModelGraph, name: str, size: int, float_bytes: int) -> int:
    """Return `size` bytes of the model's type as bytes of the engine's type."""
    return size * float_bytes // 4 if graph.values[name].dtype == "float32" else size
