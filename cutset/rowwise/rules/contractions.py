"""Products, convolutions, poolings and recurrences."""

from __future__ import annotations

from dataclasses import replace

from cutset.rowwise.flow import Flow, MixingError, RowAxis, Shape, carrying
from cutset.rowwise.operation import Operation, require_constant, require_constant_rest, rule
from cutset.rowwise.rules.elementwise import broadcast
from cutset.rowwise.rules.reductions import keep_rows_from
from cutset.rowwise.size import ONE


@rule("MatMul")
def matmul(operation: Operation) -> Flow:
    """The second-last dimension of the left and the last of the right stay; leading ones are broadcast."""
    return product_of(operation.need(0), operation.need(1))


@rule("MatMulInteger")
def matmul_integer(operation: Operation) -> Flow:
    """As MatMul, with constant zero points."""
    left, right = operation.need(0), operation.need(1)
    _require_one_scale(operation, left, 2)
    _require_one_scale(operation, right, 3)
    return product_of(left, right)


@rule("QLinearMatMul")
def qlinear_matmul(operation: Operation) -> Flow:
    """As MatMul, with constant scales and zero points."""
    left, right = operation.need(0), operation.need(3)
    made = product_of(left, right)
    for flow, indices in ((left, (1, 2)), (right, (4, 5)), (made, (6, 7))):
        _require_one_scale(operation, flow, *indices)
    return made


def _require_one_scale(operation: Operation, flow: Flow, *indices: int) -> None:
    """Check that scales and zero points are constants, and that a value with rows has a single one of each.

    Those for each line of a matrix would tell rows apart by their place.
    """
    require_constant(operation, *indices)
    for index in indices:
        given = operation.get(index)
        if given is not None and flow.rows is not None and given.shape not in {(), (ONE,)}:
            raise MixingError(f"input {index} has a number for each place where the others carry rows")


@rule("FusedMatMul", domain="com.microsoft")
def fused_matmul(operation: Operation) -> Flow:
    """As MatMul, of transposed inputs maybe."""
    if operation.attribute("transBatchA", 0) or operation.attribute("transBatchB", 0):
        raise MixingError("it transposes the leading dimensions")
    left, right = operation.need(0), operation.need(1)
    return product_of(
        transposed(left) if operation.attribute("transA", 0) else left,
        transposed(right) if operation.attribute("transB", 0) else right,
    )


@rule("MatMulNBits", domain="com.microsoft")
def matmul_packed(operation: Operation) -> Flow:
    """A product with a constant packed weight: the last dimension is combined."""
    require_constant_rest(operation, 1)
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    keep_rows_from(flow, [flow.rank - 1])
    return replace(flow, shape=(*flow.sizes[:-1], None))


def product_of(left: Flow, right: Flow) -> Flow:
    """Return the flow of the matrix product of two values."""
    if left.counted or right.counted:
        raise MixingError("an input is made of the number of rows")
    if left.rows is None and right.rows is None:
        return Flow()
    keep_rows_from(left, [left.rank - 1])
    keep_rows_from(right, [max(0, right.rank - 2)])
    if left.rank < 2 or right.rank < 2:
        return _with_vector(left, right)
    rank = max(left.rank, right.rank)
    ends: Shape = (left.sizes[-2], right.sizes[-1])
    if left.rows is not None and left.rows.axis == left.rank - 2:
        _no_rows(right)
        return carrying(replace(left.rows, axis=rank - 2), (*_leading(left, right), *ends))
    if right.rows is not None and right.rows.axis == right.rank - 1:
        _no_rows(left)
        return carrying(replace(right.rows, axis=rank - 1), (*_leading(left, right), *ends))
    met = broadcast([_without_last_two(left), _without_last_two(right)])
    return carrying(met.carried, (*met.sizes, *ends))


def _with_vector(left: Flow, right: Flow) -> Flow:
    """Return the flow of a product with a vector, whose single dimension is combined."""
    if left.rank < 2 and right.rank >= 2 and right.rows is not None:
        flow, gone = right, right.rank - 2
    elif right.rank < 2 and left.rows is not None:
        flow, gone = left, left.rank - 1
    else:
        raise MixingError("it combines the elements along the rows")
    shape = (*flow.sizes[:gone], *flow.sizes[gone + 1 :])
    return carrying(replace(flow.carried, axis=flow.carried.axis - (flow.carried.axis > gone)), shape)


def _no_rows(flow: Flow) -> None:
    if flow.rows is not None:
        raise MixingError("each row of one input meets each row of the other")


def _without_last_two(flow: Flow) -> Flow:
    return replace(flow, shape=flow.sizes[:-2])


def _leading(left: Flow, right: Flow) -> Shape:
    """Return the leading dimensions of a product one side of which carries rows further behind."""
    free = [replace(_without_last_two(flow), rows=None) for flow in (left, right)]
    return broadcast(free).shape or ()


def transposed(flow: Flow) -> Flow:
    """Return the flow with the last two dimensions swapped."""
    if flow.shape is None or flow.rank < 2:
        return flow
    order = [*range(flow.rank - 2), flow.rank - 1, flow.rank - 2]
    shape = tuple(flow.shape[axis] for axis in order)
    return Flow(shape=shape) if flow.rows is None else carrying(replace(flow.rows, axis=order.index(flow.rows.axis)), shape)


@rule("Gemm")
@rule("FusedGemm", domain="com.microsoft")
def gemm(operation: Operation) -> Flow:
    """A product of two matrices and what is added."""
    left, right = operation.need(0), operation.need(1)
    left = transposed(left) if operation.attribute("transA", 0) else left
    right = transposed(right) if operation.attribute("transB", 0) else right
    made, added = product_of(left, right), operation.get(2)
    if made.rows is None or added is None:
        require_constant(operation, 2)
        return made
    total = broadcast([made, added])
    if total.rank != made.rank:
        raise MixingError("what is added has more dimensions than the product")
    return total


@rule("QGemm", domain="com.microsoft")
def qgemm(operation: Operation) -> Flow:
    """A product with constant scales, zero points and bias."""
    require_constant(operation, *(index for index in range(len(operation.flows)) if index not in {0, 3}))
    left, right = operation.need(0), operation.need(3)
    _require_one_scale(operation, left, 1, 2)
    _require_one_scale(operation, right, 4, 5)
    left = transposed(left) if operation.attribute("transA", 0) else left
    made = product_of(left, transposed(right) if operation.attribute("transB", 0) else right)
    _require_one_scale(operation, made, 7, 8)
    bias = operation.get(6)
    return made if bias is None or made.rows is None else broadcast([made, bias])


@rule("Einsum")
def einsum(operation: Operation) -> Flow:
    """The letter of the rows must stay, and every input that has the letter must carry rows there."""
    equation = str(operation.attribute("equation")).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    told = len(letters) == len(operation.given)
    if not arrow or "." in equation or not told or any(len(t) != f.rank for t, f in zip(letters, operation.given, strict=True)):
        raise MixingError("its equation has no explicit result, or an ellipsis")
    carriers = [(term, flow) for term, flow in zip(letters, operation.given, strict=True) if flow.rows is not None]
    if not carriers:
        require_constant_rest(operation, 0)
        return Flow()
    found = {(term[flow.rows.axis], *flow.rows.layout) for term, flow in carriers if flow.rows is not None}
    if len(found) > 1:
        raise MixingError("its inputs carry the rows on different letters")
    ((letter, before, after),) = found
    require_constant(operation, *(i for i, flow in enumerate(operation.given) if flow.rows is None))
    elsewhere = any(term.count(letter) != (flow.rows is not None) for term, flow in zip(letters, operation.given, strict=True))
    if elsewhere or result.count(letter) != 1:
        raise MixingError(f"it combines the letter `{letter}`, which carries the rows")
    return carrying(RowAxis(axis=result.index(letter), before=before, after=after), (None,) * len(result))


@rule("Conv", "ConvTranspose")
@rule("FusedConv", domain="com.microsoft")
def convolution(operation: Operation) -> Flow:
    """Constant weights; the first dimension is that of samples. A fused sum (the fourth input) is elementwise."""
    require_constant(operation, 1, 2)
    made, weight = first_dimension(operation), operation.need(1)
    channels = weight.at(0) if operation.node.op_type != "ConvTranspose" else None
    if made.rows is not None and made.shape is not None:
        made = replace(made, shape=(made.shape[0], channels, *made.shape[2:]))
    added = operation.get(3)
    return made if added is None else broadcast([made, added])


@rule("ConvInteger")
def convolution_integer(operation: Operation) -> Flow:
    """Constant weights and zero points."""
    require_constant_rest(operation, 1)
    return first_dimension(operation)


@rule("QLinearConv")
def qlinear_convolution(operation: Operation) -> Flow:
    """Constant weights, scales and zero points."""
    require_constant_rest(operation, 1)
    return first_dimension(operation)


@rule("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "AveragePool", "LpPool", "DepthToSpace", "SpaceToDepth")
def per_sample(operation: Operation) -> Flow:
    """Each sample of the first dimension alone."""
    return first_dimension(operation)


@rule("QLinearAveragePool", "QLinearGlobalAveragePool", domain="com.microsoft")
def qlinear_pool(operation: Operation) -> Flow:
    """Each sample alone, with constant scales."""
    require_constant_rest(operation, 1)
    return first_dimension(operation)


@rule("MaxPool")
def max_pool(operation: Operation) -> list[Flow]:
    """Each sample alone; the positions that the second output gives count through all samples."""
    flow = first_dimension(operation)
    return [flow, Flow(mixed="its positions count through all rows") if flow.rows is not None else Flow()]


def first_dimension(operation: Operation) -> Flow:
    """Return the flow of a result whose first dimension is that of the first input; other sizes are left open."""
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    keep_rows_from(flow, range(1, flow.rank))
    return carrying(flow.rows, (None,) * flow.rank)


@rule("DeformConv")
def deformable(operation: Operation) -> Flow:
    """Input, offset and mask of one sample belong together."""
    require_constant(operation, 1, 3)
    return samples_together(operation, 0, 2, 4)


@rule("GridSample")
def grid_sample(operation: Operation) -> Flow:
    """Each sample has a grid of its own."""
    return samples_together(operation, 0, 1)


def samples_together(operation: Operation, *indices: int) -> Flow:
    """Return the flow of a result of several inputs that all carry rows on the first dimension, in one layout."""
    flows = [flow for flow in map(operation.get, indices) if flow is not None]
    if all(flow.constant for flow in flows):
        return Flow()
    if any(flow.rows is None or flow.rows.axis != 0 for flow in flows):
        raise MixingError("not all of its inputs carry rows on the first dimension")
    layouts = {flow.rows.layout for flow in flows if flow.rows is not None}
    if len(layouts) > 1:
        raise MixingError("its inputs carry rows in different layouts")
    first = flows[0]
    return carrying(first.carried, (None,) * first.rank)


@rule("LSTM", "GRU", "RNN")
def recurrence(operation: Operation) -> list[Flow]:
    """The batch is the second dimension, or the first with layout 1; states have the batch second, or first."""
    require_constant(operation, 1, 2, 3, 7)
    batch_first = bool(operation.attribute("layout", 0))
    place = 0 if batch_first else 1
    flow = operation.need(0)
    if flow.rows is None:
        require_constant_rest(operation, 0)
        return [Flow()] * 3
    for index, axis in ((0, place), (4, 0), (5, place), (6, place)):
        state = operation.get(index)
        if state is not None and (state.rows is None or state.rows.axis != axis or state.rows.layout != flow.rows.layout):
            raise MixingError(f"input {index} does not carry the rows where it takes the batch")
    outputs = carrying(replace(flow.rows, axis=0 if batch_first else 2), (None,) * 4)
    states = carrying(replace(flow.rows, axis=place), (None,) * 3)
    return [outputs, states, states]
