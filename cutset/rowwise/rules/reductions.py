"""Operators that combine the elements along dimensions: sums, normalisations, orders, scans."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from cutset.rowwise.flow import Flow, MixingError, carrying
from cutset.rowwise.operation import Operation, normal, require_constant, require_constant_rest, rule
from cutset.rowwise.size import ONE, Size


def keep_rows_from(flow: Flow, axes: Collection[int]) -> None:
    """Check that rows do not lie on dimensions that are combined.

    Raises:
        MixingError: If they do.
    """
    if flow.rows is not None and flow.rows.axis in axes:
        raise MixingError(f"it combines the elements along dimension {flow.rows.axis}, which carries the rows")


@rule(*(f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")))
def reduction(operation: Operation) -> Flow:
    """A reduction over given dimensions, or all."""
    flow = operation.need(0)
    if flow.rows is None:
        require_constant(operation, 0)
        return Flow()
    axes = operation.numbers(1, "axes")
    if not axes and operation.attribute("noop_with_empty_axes", 0):
        return flow
    return without_axes(flow, axes or range(flow.rank), keep=bool(operation.attribute("keepdims", 1)))


def without_axes(flow: Flow, axes: Collection[int], *, keep: bool) -> Flow:
    """Return the flow of a value whose dimensions `axes` are reduced to one, or dropped."""
    gone = {normal(axis, flow.rank) for axis in axes}
    keep_rows_from(flow, gone)
    if keep:
        return replace(flow, shape=tuple(ONE if axis in gone else size for axis, size in enumerate(flow.sizes)))
    shape = tuple(size for axis, size in enumerate(flow.sizes) if axis not in gone)
    axis = flow.carried.axis - sum(other < flow.carried.axis for other in gone)
    return carrying(replace(flow.carried, axis=axis), shape)


@rule("ArgMax", "ArgMin")
def position(operation: Operation) -> Flow:
    """A position along one dimension."""
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    return without_axes(flow, [int(operation.attribute("axis", 0))], keep=bool(operation.attribute("keepdims", 1)))


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(operation: Operation) -> Flow:
    """Along one dimension; before version 13 along all from there on."""
    flow = operation.need(0)
    if flow.rows is None:
        return flow
    axis = normal(int(operation.attribute("axis", -1 if operation.version >= 13 else 1)), flow.rank)
    keep_rows_from(flow, [axis] if operation.version >= 13 else range(axis, flow.rank))
    return flow


@rule("LayerNormalization", "RMSNormalization")
@rule("SimplifiedLayerNormalization")
def layer_normalization(operation: Operation) -> list[Flow]:
    """Over the last dimensions, with weights of their sizes; mean and deviation are further results."""
    require_constant_rest(operation, 1)
    flow = operation.need(0)
    if flow.rows is None:
        return [flow] * 3
    axis = normal(int(operation.attribute("axis", -1)), flow.rank)
    keep_rows_from(flow, range(axis, flow.rank))
    for weight in filter(None, (operation.get(1), operation.get(2))):
        if weight.rank > flow.rank - flow.rows.axis - 1 and weight.at(flow.rows.axis - flow.rank) != ONE:
            raise MixingError("its weights have a size of their own where the rows lie")
    statistics = without_axes(flow, range(axis, flow.rank), keep=True)
    return [flow, statistics, statistics]


@rule("InstanceNormalization", "GroupNormalization", "LRN")
def per_sample_normalization(operation: Operation) -> Flow:
    """Over everything but the first dimension, or near channels."""
    require_constant_rest(operation, 1)
    flow = operation.need(0)
    keep_rows_from(flow, range(1, flow.rank))
    return flow


@rule("MeanVarianceNormalization")
def mean_variance(operation: Operation) -> Flow:
    """Over given dimensions; by default over the first, too."""
    flow = operation.need(0)
    keep_rows_from(flow, [normal(axis, flow.rank) for axis in operation.attribute("axes", [0, 2, 3])])
    return flow


@rule("LpNormalization", "CumSum", "CumProd")
def along_one(operation: Operation) -> Flow:
    """Along one dimension, an attribute or the second input."""
    flow = operation.need(0)
    axes = operation.numbers(1, "axis") or [-1]
    keep_rows_from(flow, [normal(axis, flow.rank) for axis in axes])
    return flow


@rule("TopK")
def top(operation: Operation) -> Flow:
    """The largest along one dimension."""
    require_constant(operation, 1)
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    axis = normal(int(operation.attribute("axis", -1)), flow.rank)
    keep_rows_from(flow, [axis])
    return with_size(flow, axis, None)


def with_size(flow: Flow, axis: int, size: Size | None) -> Flow:
    """Return the flow with another size on one dimension, which is not that of the rows."""
    return replace(flow, shape=(*flow.sizes[:axis], size, *flow.sizes[axis + 1 :]))


@rule("Trilu")
def triangle(operation: Operation) -> Flow:
    """The last two dimensions tell what is kept."""
    require_constant(operation, 1)
    flow = operation.need(0)
    keep_rows_from(flow, (flow.rank - 2, flow.rank - 1))
    return flow


@rule("DFT")
def fourier(operation: Operation) -> Flow:
    """Along one dimension; the last one holds real and imaginary parts."""
    require_constant(operation, 1)
    flow = operation.need(0)
    axes = operation.numbers(2, "axis") or [1 if operation.version < 20 else -2]
    gone = [normal(axis, flow.rank) for axis in axes]
    keep_rows_from(flow, [*gone, flow.rank - 1])
    return with_size(with_size(flow, gone[0], None), flow.rank - 1, None) if flow.rows is not None else Flow()


@rule("STFT")
def short_time_fourier(operation: Operation) -> Flow:
    """Each signal of the first dimension alone."""
    require_constant_rest(operation, 1)
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    keep_rows_from(flow, range(1, flow.rank))
    return carrying(flow.rows, (None,) * 4)
