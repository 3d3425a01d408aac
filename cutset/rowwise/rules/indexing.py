"""Operators that pick, join or put elements at places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cutset.rowwise.flow import Element, Flow, MixingError, RowAxis, Shape, carrying, from_data, from_table
from cutset.rowwise.operation import Operation, normal, require_constant, require_constant_rest, rule
from cutset.rowwise.places import Places
from cutset.rowwise.rules.reductions import keep_rows_from, with_size
from cutset.rowwise.size import ONE, Size

_TO_THE_END = 10**9
"""Ends of a Slice from here on stand for the whole dimension: exporters write such numbers, and no run has as many rows."""


@rule("Concat")
def concat(operation: Operation) -> Flow:
    """Joined along another dimension than the rows'; everything that is joined carries rows."""
    flows = operation.given
    carriers = [flow for flow in flows if flow.rows is not None]
    if not carriers:
        data = [flow.data for flow in flows]
        if all(found is not None for found in data) and all(flow.shape != () for flow in flows):
            return from_data(tuple(element for found in data for element in found or ()), scalar=False)
        require_constant_rest(operation, 0)
        return Flow()
    first = carriers[0]
    if len(carriers) < len(flows) or len({(flow.rank, flow.rows) for flow in carriers}) > 1:
        raise MixingError("it joins rows with what has no rows, or has them elsewhere")
    axis = normal(int(operation.attribute("axis", 1)), first.rank)
    if axis == first.carried.axis:
        raise MixingError("it joins along the dimension that carries the rows")
    return with_size(first, axis, _sum([flow.at(axis) for flow in carriers]))


def _sum(sizes: Sequence[Size | None]) -> Size | None:
    numbers = [size.number if size is not None else None for size in sizes]
    known = [number for number in numbers if number is not None]
    return Size(sum(known)) if len(known) == len(numbers) else None


@rule("Split")
def split(operation: Operation) -> list[Flow]:
    """Parted along another dimension than the rows'."""
    flow, count = operation.need(0), len(operation.node.outputs)
    axis = int(operation.attribute("axis", 0))
    if flow.rows is None:
        require_constant_rest(operation, 0)
        return [Flow()] * count
    require_constant(operation, 1)
    axis = normal(axis, flow.rank)
    keep_rows_from(flow, [axis])
    sizes = operation.numbers(1, "split") if flow.at(axis) is not None and _known_parts(operation) else None
    whole = flow.at(axis)
    even = operation.get(1) is None and sizes is None
    each = whole.divide(Size(count)) if whole is not None and even else None
    return [with_size(flow, axis, Size(sizes[index]) if sizes is not None else each) for index in range(count)]


def _known_parts(operation: Operation) -> bool:
    given = operation.get(1)
    return "split" in operation.node.attributes or (given is not None and given.data is not None)


@rule("Slice")
def slicing(operation: Operation) -> Flow:
    """A part of other dimensions than the rows'."""
    flow = operation.need(0)
    if flow.rows is None:
        return _slice_data(operation, flow)
    if operation.version < 10:
        starts, ends = operation.attribute("starts"), operation.attribute("ends")
        axes: list[int] = list(operation.attribute("axes") or range(len(starts)))
        steps = [1] * len(axes)
        bounds: list[tuple[Size | None, Size | None]] = [(Size(a), Size(b)) for a, b in zip(starts, ends, strict=True)]
    else:
        given = operation.numbers(3)
        start, end = operation.need(1), operation.need(2)
        count = len(given) if given is not None else None if start.data is None else len(start.data)
        if count is None:
            raise MixingError("the dimensions that it cuts are unknown")
        axes = list(range(count)) if given is None else given
        steps = operation.numbers(4) or [1] * count
        bounds = [_bounds(start, end, index) for index in range(count)]
    found = flow
    for axis, step, (low, high) in zip([normal(axis, flow.rank) for axis in axes], steps, bounds, strict=True):
        if axis == flow.rows.axis:
            whole = step == 1 and low == Size(0) and (high == flow.rows.size or _is_end(high))
            if not whole:
                raise MixingError("it cuts the dimension that carries the rows")
        elif any(isinstance(bound, Size) and bound.counts_rows for bound in (low, high)):
            raise MixingError("it cuts as much as there are rows")
        else:
            found = with_size(found, axis, _sliced(flow.at(axis), low, high, step))
    return found


def _bounds(start: Flow, end: Flow, index: int) -> tuple[Size | None, Size | None]:
    """Return where a slice begins and ends; None where unknown and the same for any rows."""
    found = []
    for flow in (start, end):
        if flow.rows is not None or (flow.counted and flow.data is None):
            raise MixingError("it cuts at places that hang on the rows")
        element = None if flow.data is None else flow.data[index]
        found.append(element if isinstance(element, Size) else None)
    return found[0], found[1]


def _is_end(size: Size | None) -> bool:
    return size is not None and size.number is not None and size.number >= _TO_THE_END


def _sliced(size: Size | None, low: Size | None, high: Size | None, step: int) -> Size | None:
    """Return the size of a slice of a dimension, None where one of the numbers is unknown."""
    numbers = [None if bound is None else bound.number for bound in (size, low, high)]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return None
    return Size(len(_cut(known[0], known[1], known[2], step)))


def _cut(length: int, start: int, end: int, step: int) -> range:
    """Return the places that a slice takes of a dimension."""
    low, high = (0, length) if step > 0 else (-1, length - 1)
    start = min(max(start + length * (start < 0), 0), high)
    return range(start, min(max(end + length * (end < 0), low), high), step)


def _slice_data(operation: Operation, flow: Flow) -> Flow:
    """Return a slice of a value without rows; of a small one element by element."""
    if flow.table and operation.version >= 10 and operation.numbers(3) == [0]:
        (start,), (end,) = operation.numbers(1) or [], operation.numbers(2) or []
        cut = _cut(len(flow.table), start, end, (operation.numbers(4) or [1])[0])
        return from_table(tuple(flow.table[place] for place in cut))
    if flow.data is not None and len(flow.shape or ()) == 1:
        if operation.version < 10:
            starts, ends, steps = operation.attribute("starts"), operation.attribute("ends"), None
        else:
            starts, ends, steps = operation.numbers(1), operation.numbers(2), operation.numbers(4)
        if len(starts) != 1 or len(ends) != 1:
            raise MixingError("it is no slice of one dimension")
        cut = _cut(len(flow.data), starts[0], ends[0], (steps or [1])[0])
        return from_data(tuple(flow.data[place] for place in cut), scalar=False)
    require_constant_rest(operation, 0)
    if flow.shape is None or operation.version < 10 or operation.get(3) is None:
        return Flow(shape=None if flow.shape is None else (None,) * flow.rank)
    axes = {normal(axis, flow.rank) for axis in operation.numbers(3) or []}
    return Flow(shape=tuple(None if axis in axes else size for axis, size in enumerate(flow.shape)))


@rule("Gather")
def gather(operation: Operation) -> Flow:
    """Constant places of another dimension than the rows', or each row's own places of a constant table."""
    flow, places = operation.need(0), operation.need(1)
    axis = int(operation.attribute("axis", 0))
    if flow.rows is None and places.rows is None:
        return _gather_data(operation, flow, places)
    if places.numbers_rows and flow.rows is None:
        raise MixingError("it looks up the number of a row")
    if flow.rows is not None and places.rows is not None:
        return _own_elements(flow, places, axis)
    if not (flow.constant or places.constant):
        raise MixingError("it picks places that hang on the number of rows")
    axis = normal(axis, flow.rank)
    keep_rows_from(flow, [axis])
    shape: Shape = (*flow.sizes[:axis], *(places.shape or ()), *flow.sizes[axis + 1 :])
    if places.rows is not None:
        return carrying(replace(places.rows, axis=axis + places.rows.axis), shape)
    shift = places.rank - 1 if axis < flow.carried.axis else 0
    return carrying(replace(flow.carried, axis=flow.carried.axis + shift), shape)


def _own_elements(flow: Flow, places: Flow, axis: int) -> Flow:
    """Return the flow of a gather along merged rows, whose places are counted from the row's own first element.

    Raises:
        MixingError: If that is not known of the places.
    """
    rows, known = flow.carried, places.places
    own = known is not None and rows.before == ONE and axis % flow.rank == rows.axis == 0
    if not own or known is None or not known.stay_within(rows.after):
        raise MixingError("its places come from rows and its elements too: one row may pick another's")
    return carrying(places.carried, (*places.sizes, *flow.sizes[1:]))


def _gather_data(operation: Operation, flow: Flow, places: Flow) -> Flow:
    if flow.data is not None and places.data is not None and len(flow.shape or ()) == 1:
        numbers = operation.numbers(1) or []
        if all(-len(flow.data) <= number < len(flow.data) for number in numbers):
            return from_data(tuple(flow.data[number] for number in numbers), scalar=places.shape == ())
    require_constant_rest(operation, 0)
    if flow.shape is None or places.shape is None:
        return Flow()
    axis = normal(int(operation.attribute("axis", 0)), flow.rank)
    return Flow(shape=(*flow.shape[:axis], *places.shape, *flow.shape[axis + 1 :]))


@rule("GatherElements")
def gather_elements(operation: Operation) -> Flow:
    """Places along one dimension, which is not the rows', one for each element."""
    flow, places = operation.need(0), operation.need(1)
    if flow.constant and places.constant:
        return Flow(shape=places.shape)
    axis = normal(int(operation.attribute("axis", 0)), flow.rank)
    if flow.rows is None or flow.rows != places.rows:
        raise MixingError("its places and its elements do not carry the same rows")
    keep_rows_from(flow, [axis])
    return carrying(flow.rows, places.shape or ())


@rule("GatherND")
def gather_nd(operation: Operation) -> Flow:
    """Places of a constant, or of the same row where the leading dimensions are shared."""
    flow, places = operation.need(0), operation.need(1)
    if flow.constant and places.constant:
        return Flow()
    batch = int(operation.attribute("batch_dims", 0))
    last = places.at(-1)
    picked = None if last is None else last.number
    if places.rows is None or picked is None:
        raise MixingError("it picks elements by place among the rows")
    keep_rows_from(places, [places.rank - 1])
    shared = flow.rows is not None and flow.rows == places.rows and places.rows.axis < batch
    numbered = flow.rows == RowAxis(axis=0) and not batch and places.columns[:1] == (Places(ONE, ONE),)
    if places.numbers_rows and not numbered:
        raise MixingError("it looks up the number of a row")
    if not shared and not numbered and not (flow.constant and (places.rows.axis >= batch)):
        raise MixingError("its places come from rows and its elements too: one row may pick another's")
    return carrying(places.rows, (*places.sizes[:-1], *flow.sizes[batch + picked :]))


@rule("ScatterElements")
def scatter_elements(operation: Operation) -> Flow:
    """Everything carries the same rows, and places lie along another dimension."""
    flows = operation.given
    if all(flow.constant for flow in flows):
        return Flow()
    first = flows[0]
    if first.rows is None or any(flow.rows != first.rows for flow in flows):
        raise MixingError("its inputs do not carry the same rows")
    keep_rows_from(first, [normal(int(operation.attribute("axis", 0)), first.rank)])
    return first


@rule("Pad")
def pad(operation: Operation) -> Flow:
    """Nothing is added along the rows."""
    require_constant(operation, 2)
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    axes = operation.numbers(3) if len(operation.flows) > 3 else None
    named = [normal(axis, flow.rank) for axis in axes] if axes is not None else list(range(flow.rank))
    given = operation.get(1)
    amounts: list[Element] = [Size(number) for number in operation.attribute("pads") or ()]
    amounts = amounts or list((given.data if given else None) or ())
    if len(amounts) != 2 * len(named):
        raise MixingError("how much it adds is unknown")
    if any(isinstance(amount, Size) and amount.counts_rows for amount in amounts):
        raise MixingError("it adds as much as there are rows")
    if flow.rows.axis in named:
        place = named.index(flow.rows.axis)
        if amounts[place] != Size(0) or amounts[place + len(named)] != Size(0):
            raise MixingError("it adds along the dimension that carries the rows")
    return carrying(flow.rows, (None,) * flow.rank)
