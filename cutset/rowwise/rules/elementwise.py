"""Operators that compute each element of the result from the elements at the same place, after broadcasting."""

from __future__ import annotations

from collections.abc import Sequence

from cutset.rowwise.flow import Flow, MixingError, RowAxis, Shape, carrying
from cutset.rowwise.operation import Operation, require_constant, require_constant_rest, rule
from cutset.rowwise.size import ONE, Size


def broadcast(flows: Sequence[Flow]) -> Flow:
    """Return the flow of the elementwise combination of values.

    The dimensions that carry rows must meet, counted from the end and in one layout; values without rows must not have a
    size of their own there, for such a value tells rows apart by their place.

    Raises:
        MixingError: If rows would meet other rows, or a value that is made of the number of rows.
    """
    places = {(flow.rows.axis - flow.rank, *flow.rows.layout) for flow in flows if flow.rows is not None}
    if len(places) > 1:
        raise MixingError("its inputs carry the rows on different dimensions")
    if not places:
        return Flow(shape=_broadcast_shape(flows), counted=any(flow.counted for flow in flows))
    if any(flow.counted for flow in flows):
        raise MixingError("an input is made of the number of rows")
    ((place, before, after),) = places
    for flow in flows:
        if flow.rows is None and flow.rank >= -place and flow.at(place) != ONE:
            raise MixingError("an input has a size of its own where the others carry rows")
    shape = _broadcast_shape(flows)
    assert shape is not None
    return carrying(RowAxis(axis=len(shape) + place, before=before, after=after), shape)


def _broadcast_shape(flows: Sequence[Flow]) -> Shape | None:
    known = [flow.shape for flow in flows if flow.shape is not None]
    return broadcast_shape(known) if len(known) == len(flows) else None


def broadcast_shape(known: Sequence[Shape]) -> Shape:
    """Return the shape of values that are broadcast against each other."""
    rank = max(map(len, known), default=0)
    return tuple(_meet([shape[axis - rank] for shape in known if len(shape) >= rank - axis]) for axis in range(rank))


def _meet(sizes: Sequence[Size | None]) -> Size | None:
    """Return the size of a broadcast dimension: the one that is not one, if only one is known not to be."""
    others = list(dict.fromkeys(size for size in sizes if size != ONE))
    if not others:
        return ONE
    numbers = [size for size in others if size is not None and size.number is not None]
    return others[0] if len(others) == 1 else numbers[0] if numbers else None


@rule(
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Cast",
    "Ceil",
    "Celu",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "IsInf",
    "IsNaN",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Shrink",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
)
@rule("Gelu", "QuickGelu", domain="com.microsoft")
def unary(operation: Operation) -> Flow:
    """One input, one result, nothing else read."""
    return operation.need(0)


@rule(
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "Pow",
    "PRelu",
    "StringConcat",
    "Sub",
    "Sum",
    "Where",
    "Xor",
)
@rule("BiasGelu", "FastGelu", domain="com.microsoft")
def combination(operation: Operation) -> Flow:
    """Several inputs, broadcast against each other."""
    if operation.attribute("broadcast", 0):
        raise MixingError("it is broadcast in the way of old operator sets")
    return broadcast(operation.given)


@rule("CastLike")
def cast_like(operation: Operation) -> Flow:
    """The second input gives a type alone."""
    return operation.need(0)


@rule("Clip")
def clip(operation: Operation) -> Flow:
    """Bounds are scalars."""
    require_constant(operation, 1, 2)
    return operation.need(0)


@rule("Dropout")
def dropout(operation: Operation) -> Flow:
    """Without training Dropout hands its input on; with training no two runs agree."""
    training = operation.get(2)
    if (training is not None and operation.numbers(2) != [0]) or operation.version < 7:
        raise MixingError("it may draw at random")
    return operation.need(0)


@rule("BatchNormalization")
def batch_normalization(operation: Operation) -> Flow:
    """Statistics are inputs, unless it trains: then they are taken from the batch."""
    if operation.attribute("training_mode", 0) or len(operation.node.outputs) > 1 or operation.version < 7:
        raise MixingError("it takes its statistics from the batch")
    require_constant_rest(operation, 1)
    if operation.need(0).rank < 2 or not operation.attribute("spatial", 1):
        raise MixingError("it has a scale for each place")
    return along_channels(operation)


def along_channels(operation: Operation, channel: int = 1) -> Flow:
    """Return the first input's flow, if its rows do not lie on the dimension of the channels."""
    flow = operation.need(0)
    if flow.rows is not None and flow.rows.axis == channel:
        raise MixingError("the rows lie where it takes channels")
    return flow


@rule("QuantizeLinear", "DequantizeLinear")
@rule("QuantizeLinear", "DequantizeLinear", domain="com.microsoft")
def quantisation(operation: Operation) -> Flow:
    """Scale and zero point are constants, and none of a row's own."""
    require_constant_rest(operation, 1)
    flow, scale = operation.need(0), operation.need(1)
    if flow.rows is None or scale.rank == 0:
        return flow
    axis = int(operation.attribute("axis", 1))
    blocked = bool(operation.attribute("block_size", 0)) or scale.rank > 1
    one = scale.at(0) == ONE and not blocked
    if not one and (blocked or axis % flow.rank == flow.rows.axis):
        raise MixingError("it has a scale for each place among the rows")
    return flow


@rule("StringNormalizer", "StringSplit")
def opaque_text(operation: Operation) -> Flow:
    """Words are dropped, or as many are made as the longest text has: sizes hang on all rows."""
    if operation.need(0).rows is None:
        return Flow()
    raise MixingError("the size of its result depends on the content of all rows")


@rule("RegexFullMatch")
def match(operation: Operation) -> Flow:
    """Each string is matched alone."""
    return operation.need(0)
