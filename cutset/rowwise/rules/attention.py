"""Attention and what onnxruntime's optimisers fuse around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cutset.rowwise.flow import Flow, MixingError, RowAxis, carrying
from cutset.rowwise.operation import Operation, require_constant, require_constant_rest, rule
from cutset.rowwise.rules.elementwise import broadcast
from cutset.rowwise.rules.reductions import keep_rows_from
from cutset.rowwise.size import ONE

_MICROSOFT = "com.microsoft"


@rule("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=_MICROSOFT)
def skip_normalization(operation: Operation) -> list[Flow]:
    """A sum, normalised over the last dimension; the sum is the last of four results."""
    require_constant_rest(operation, 2)
    total = broadcast([operation.need(0), operation.need(1)])
    if total.rows != operation.need(0).rows:
        raise MixingError("what is added carries rows that its input has not")
    if total.rows is None:
        return [total] * 4
    keep_rows_from(total, [total.rank - 1])
    statistics = replace(total, shape=(*total.sizes[:-1], ONE))
    return [total, statistics, statistics, total]


@rule("SimplifiedLayerNormalization", "LayerNormalization", domain=_MICROSOFT)
def last_dimension(operation: Operation) -> Flow:
    """Over the last dimension, with constants."""
    require_constant_rest(operation, 1)
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    keep_rows_from(flow, [flow.rank - 1])
    return carrying(flow.rows, (None,) * flow.rank)


@rule("EmbedLayerNormalization", domain=_MICROSOFT)
def embedding(operation: Operation) -> list[Flow]:
    """Words, segments and positions of each sequence; tables are constants."""
    require_constant(operation, 2, 3, 4, 5, 6)
    axis = _first_axes(operation, {0: 0, 1: 0, 7: 0, 8: 0})
    return [carrying(axis, (None,) * 3), carrying(axis, (None,)), carrying(axis, (None,) * 3)]


@rule("Attention", domain=_MICROSOFT)
def fused_attention(operation: Operation) -> list[Flow]:
    """Self-attention with constant weights; the past and present states have the batch second."""
    require_constant(operation, 1, 2, 6)
    mask, bias = operation.get(3), operation.get(5)
    if mask is not None and (mask.rows is None or mask.rank < 2):
        raise MixingError("its mask does not carry the rows on the first of several dimensions")
    axis = _first_axes(operation, {0: 0, 3: 0, 4: 1, **({5: 0} if bias is not None and bias.rows is not None else {})})
    _one_for_all(bias)
    return [carrying(axis, (None,) * 3), carrying(replace(axis, axis=1), (None,) * 5)]


@rule("MultiHeadAttention", domain=_MICROSOFT)
def multi_head(operation: Operation) -> list[Flow]:
    """Attention over given queries, keys and values."""
    require_constant(operation, 3, 8)
    if operation.get(9) is not None:
        raise MixingError("its cache tells beams apart by their place")
    bias, mask = operation.get(5), operation.get(4)
    if mask is not None and (mask.rows is None or mask.rank < 2):
        raise MixingError("its mask does not carry the rows on the first of several dimensions")
    places = dict.fromkeys((0, 1, 2, 4, 6, 7), 0) | ({5: 0} if bias is not None and bias.rows is not None else {})
    axis = _first_axes(operation, places)
    _one_for_all(bias)
    return [carrying(axis, (None,) * 3), carrying(axis, (None,) * 4), carrying(axis, (None,) * 4), carrying(axis, (None,) * 4)]


@rule("Attention")
def attention(operation: Operation) -> list[Flow]:
    """Attention over given queries, keys and values, of three or four dimensions."""
    mask = operation.get(3)
    if mask is not None and mask.rows is not None and mask.rank != 4:
        raise MixingError("its mask carries rows on another dimension than the batch")
    places = dict.fromkeys((0, 1, 2, 4, 5), 0) | ({3: 0} if mask is not None and mask.rows is not None else {})
    if operation.get(6) is not None:
        raise MixingError("it has a length for each sequence")
    axis = _first_axes(operation, places)
    _one_for_all(mask)
    return [carrying(axis, (None,) * operation.need(0).rank), *[carrying(axis, (None,) * 4)] * 3]


@rule("RotaryEmbedding")
@rule("RotaryEmbedding", domain=_MICROSOFT)
def rotary(operation: Operation) -> Flow:
    """Turned by tables: those of each row's own without positions, else constants in which positions look up."""
    if operation.attribute("is_packed_batching", 0):
        raise MixingError("its sequences are packed")
    tables, at = ((2, 3), 1) if operation.node.domain else ((1, 2), 3)
    positions = operation.get(at)
    if positions is None:
        places = {0: 0} | dict.fromkeys(tables, 0)
    elif positions.rows is not None:
        require_constant(operation, *tables)
        places = {0: 0, at: 0}
    else:
        require_constant(operation, *tables, at)
        places = {0: 0}
        if positions.shape not in {(), (ONE,)}:
            raise MixingError("its positions are not each row's own")
    return carrying(_first_axes(operation, places), (None,) * operation.need(0).rank)


def _first_axes(operation: Operation, places: Mapping[int, int]) -> RowAxis:
    """Return the rows of the first input, which each given input must carry at its place in the same layout."""
    first = operation.need(0)
    for index, place in places.items():
        flow = operation.get(index)
        if flow is None:
            continue
        if flow.rows is None or flow.rows.axis != place or first.rows is None or flow.rows.layout != first.rows.layout:
            raise MixingError(f"input {index} does not carry the rows where it takes the batch")
    return first.carried


def _one_for_all(flow: Flow | None) -> None:
    """Check that a bias or mask without rows is the same for each row."""
    if flow is not None and flow.rows is None and (not flow.constant or (flow.rank >= 4 and flow.at(-4) != ONE)):
        raise MixingError("its mask has a size of its own where the others carry rows")


@rule("QLinearAdd", "QLinearMul", domain=_MICROSOFT)
def qlinear_pair(operation: Operation) -> Flow:
    """Elementwise on two tensors of 8 bits."""
    require_constant(operation, 1, 2, 4, 5, 6, 7)
    return broadcast([operation.need(0), operation.need(3)])


@rule("QLinearSigmoid", "QLinearLeakyRelu", domain=_MICROSOFT)
def qlinear_unary(operation: Operation) -> Flow:
    """Elementwise on one tensor of 8 bits."""
    require_constant_rest(operation, 1)
    return operation.need(0)


@rule("DynamicQuantizeLinear")
@rule("DynamicQuantizeMatMul", "DynamicQuantizeLSTM", domain=_MICROSOFT)
def dynamic_quantisation(operation: Operation) -> Flow:
    """One scale for the whole tensor, from its largest and smallest element."""
    raise MixingError("it takes one scale from all rows")


@rule("ReverseSequence")
def reverse_sequence(operation: Operation) -> Flow:
    """Each sequence has a length of its own."""
    flow, lengths = operation.need(0), operation.need(1)
    place = int(operation.attribute("batch_axis", 1))
    if flow.rows is None or lengths.rows is None or flow.rows.axis != place or flow.rows.layout != lengths.rows.layout:
        raise MixingError("its input and its lengths do not carry the rows where it takes the batch")
    return flow
