"""Operators that lay elements out anew: reshapes, transposes, copies, sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cutset.rowwise.flow import Element, Flow, MixingError, RowAxis, Shape, carrying, from_data, from_table
from cutset.rowwise.operation import Operation, normal, require_constant, rule
from cutset.rowwise.places import Places
from cutset.rowwise.rules.elementwise import broadcast_shape
from cutset.rowwise.size import ONE, ONE_ROW, Size, product


@rule("Shape")
def shape_of(operation: Operation) -> Flow:
    """The sizes, of which that of the rows counts them."""
    flow = operation.need(0)
    if flow.shape is None:
        return Flow(counted=not flow.constant)
    start, end = operation.attribute("start", 0), operation.attribute("end")
    return from_data(flow.shape[slice(start, end)], scalar=False)


@rule("Size")
def element_count(operation: Operation) -> Flow:
    """The product of the sizes."""
    flow = operation.need(0)
    sizes = [size for size in flow.shape or () if size is not None]
    if flow.shape is None or len(sizes) < len(flow.shape):
        return Flow(shape=(), counted=not flow.constant)
    return from_data((product(sizes),), scalar=True)


@rule("Reshape")
def reshape(operation: Operation) -> Flow:
    """The rows must be one factor of one dimension of the result, with as many neighbours as they have."""
    flow, target = operation.need(0), operation.need(1)
    if flow.rows is None:
        return _reshape_rowless(flow, target)
    if target.rows is not None or target.data is None:
        raise MixingError("the shape it gives is unknown")
    sizes = target.data
    if not operation.attribute("allowzero", 0):
        sizes = tuple(_or_same(flow, axis, size) for axis, size in enumerate(sizes))
    return lay_out(flow, sizes)


def _or_same(flow: Flow, axis: int, size: Element) -> Element:
    """Return an element of a new shape, where zero stands for the size that is there; None where either may be meant.

    Raises:
        MixingError: If the number of rows may be meant, or may not.
    """
    own = flow.at(axis) if axis < flow.rank else None
    if size == Size(0) or size == own:
        return own
    if isinstance(size, Size) and (size.counts_rows or not size.may_be_zero):
        return size
    if own is not None and own.counts_rows:
        raise MixingError("a size that may be zero stands for the rows then")
    return size if isinstance(size, Size) and size.is_quotient else None


def _reshape_rowless(flow: Flow, target: Flow) -> Flow:
    """Return a value without rows in a new shape; a shape that counts rows only regroups equal elements if there is one."""
    if target.counted:
        raise MixingError("it lays out a constant by the number of rows")
    if flow.data is not None and target.data is not None and len(target.data) < 2:
        return replace(flow, shape=() if not target.data else (Size(len(flow.data)),))
    if flow.table and target.data is not None and len(target.data) == 1:
        return from_data(tuple(element for line in flow.table for element in line), scalar=False)
    if flow.data is not None and target.data is not None and len(target.data) == 2 and target.data[0] == Size(-1):
        width = target.data[1]
        columns = width.number if isinstance(width, Size) else None
        if columns is not None and columns > 0 and len(flow.data) % columns == 0:
            return from_table(tuple(flow.data[at : at + columns] for at in range(0, len(flow.data), columns)))
    if flow.counted:
        raise MixingError("it lays out the number of rows")
    return Flow(shape=None if target.data is None else _known(target.data))


def _known(sizes: Sequence[Element]) -> Shape:
    return tuple(size if isinstance(size, Size) and not size.may_be_negative else None for size in sizes)


def lay_out(flow: Flow, sizes: Sequence[Element]) -> Flow:
    """Return the flow of a value whose elements, in their order, are given a new shape.

    Row r of the value lies at the flat indices ``(p * rows + r) * q + i`` with ``p`` below P and ``i`` below q. The dimension
    of the result that holds the number of rows as a factor must divide P and q the same way, whatever the number of rows.

    Args:
        flow: Carries rows.
        sizes: The new shape; one size may be -1.

    Raises:
        MixingError: If the rows would not stay apart, or sizes are not known well enough to tell.
    """
    rows = flow.carried
    leading = _product_of(flow.sizes[: rows.axis])
    blocks = None if leading is None else leading.times(rows.before)
    holder, size = _row_dimension(flow, list(sizes))
    ahead = _product_of(sizes[:holder])
    outer = None if blocks is None or ahead is None else blocks.divide(ahead)
    around = size.around_rows
    inner = None if outer is None or around is None else around.divide(outer)
    if outer is None or inner is None:
        raise MixingError("the shape it gives does not keep rows together for sure")
    return carrying(RowAxis(axis=holder, before=outer, after=inner), _filled_in(flow, sizes, holder, size))


def _filled_in(flow: Flow, sizes: Sequence[Element], holder: int, size: Size) -> Shape:
    """Return the new shape, in which a size of -1 other than the rows' is what is left of the elements."""
    made = [*sizes[:holder], size, *sizes[holder + 1 :]]
    total, others = _product_of(flow.sizes), _product_of([each for each in made if each != Size(-1)])
    left = None if total is None or others is None else total.divide(others)
    return tuple(left if each == Size(-1) else known for each, known in zip(made, _known(made), strict=True))


def _row_dimension(flow: Flow, sizes: list[Element]) -> tuple[int, Size]:
    """Return which dimension of the result holds the number of rows, and its size; a size of -1 is worked out."""
    counted = [axis for axis, size in enumerate(sizes) if isinstance(size, Size) and size.counts_rows]
    free = [axis for axis, size in enumerate(sizes) if size == Size(-1)]
    if len(counted) == 1:
        size = sizes[counted[0]]
        assert isinstance(size, Size)
        return counted[0], size
    total = _product_of(flow.shape or ())
    others = _product_of([size for axis, size in enumerate(sizes) if axis not in free])
    left = None if total is None or others is None else total.divide(others)
    if counted or len(free) != 1 or left is None:
        raise MixingError("the shape it gives does not say where the rows are")
    return free[0], left


def _product_of(sizes: Sequence[Element]) -> Size | None:
    """Return the product, None if a size is unknown or may be negative."""
    known = [size for size in sizes if isinstance(size, Size) and not size.may_be_negative]
    return product(known) if len(known) == len(sizes) else None


@rule("Flatten")
def flatten(operation: Operation) -> Flow:
    """Two dimensions: those before `axis`, and the rest."""
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    axis = int(operation.attribute("axis", 1))
    axis += flow.rank if axis < 0 else 0
    first, second = _product_of(flow.sizes[:axis]), _product_of(flow.sizes[axis:])
    if flow.rows.axis == 0 and axis == 1:  # whatever the other sizes are
        return carrying(replace(flow.rows, axis=0), (None, second))
    return lay_out(flow, (first, second))


@rule("Transpose")
def transpose(operation: Operation) -> Flow:
    """The rows go where their dimension goes."""
    flow = operation.need(0)
    if flow.rows is None:
        if flow.table and list(operation.attribute("perm") or [1, 0]) == [1, 0]:
            return from_table(tuple(zip(*flow.table, strict=True)))
        return replace(flow, shape=None if flow.shape is None else (None,) * flow.rank, data=None, table=())
    order = list(operation.attribute("perm") or reversed(range(flow.rank)))
    return carrying(replace(flow.rows, axis=order.index(flow.rows.axis)), tuple(flow.sizes[axis] for axis in order))


@rule("Unsqueeze")
def unsqueeze(operation: Operation) -> Flow:
    """New dimensions of one."""
    flow, axes = operation.need(0), operation.numbers(1, "axes") or []
    if flow.rows is None:
        if flow.data is not None and flow.shape == ():
            return replace(flow, shape=(ONE,) * len(axes), data=flow.data if len(axes) == 1 else None)
        require_constant(operation, 0)
        return Flow(shape=None if flow.shape is None else _with_ones(flow.shape, axes))
    new = {normal(axis, flow.rank + len(axes)) for axis in axes}
    old = [axis for axis in range(flow.rank + len(axes)) if axis not in new]
    return carrying(replace(flow.rows, axis=old[flow.rows.axis]), _with_ones(flow.sizes, axes))


def _with_ones(shape: Shape, axes: Sequence[int]) -> Shape:
    rank = len(shape) + len(axes)
    new = {normal(axis, rank) for axis in axes}
    sizes = iter(shape)
    return tuple(ONE if axis in new else next(sizes) for axis in range(rank))


@rule("Squeeze")
def squeeze(operation: Operation) -> Flow:
    """Dimensions of one go; which, must be said, for the rows' is one where a request is alone."""
    flow, axes = operation.need(0), operation.numbers(1, "axes")
    if flow.rows is None:
        if flow.data is not None and len(flow.data) == 1:
            return replace(flow, shape=())
        require_constant(operation, 0)
        return Flow()
    if axes is None:
        raise MixingError("it drops every dimension of one, that of a lone row too")
    gone = {normal(axis, flow.rank) for axis in axes}
    if flow.rows.axis in gone:
        raise MixingError("it drops the dimension that carries the rows")
    shape = tuple(size for axis, size in enumerate(flow.sizes) if axis not in gone)
    return carrying(replace(flow.rows, axis=flow.rows.axis - sum(axis < flow.rows.axis for axis in gone)), shape)


@rule("Expand")
def expand(operation: Operation) -> Flow:
    """Broadcast to a shape; a constant that is copied for each row carries rows from there on."""
    flow, target = operation.need(0), operation.need(1)
    if target.rows is not None or (target.data is None and target.counted):
        raise MixingError("the shape it gives is unknown")
    if flow.rows is None:
        return _copied(flow, target)
    if target.data is None:
        raise MixingError("the shape it gives is unknown")
    rank = max(flow.rank, len(target.data))
    place = flow.rows.axis - flow.rank
    for axis, size in enumerate(target.data, start=-len(target.data)):
        if axis == place and size not in {ONE, flow.rows.size}:
            raise MixingError("the shape it gives has a size of its own where the rows lie")
        if axis != place and isinstance(size, Size) and size.counts_rows:
            raise MixingError("it copies rows as often as there are rows")
    return carrying(replace(flow.carried, axis=rank + place), _widened(flow, target.data))


def _widened(flow: Flow, target: Sequence[Element]) -> Shape:
    """Return the broadcast of a value's shape against a target."""
    return broadcast_shape([flow.sizes, _known(target)])


def _copied(flow: Flow, target: Flow) -> Flow:
    """Return a value without rows in a larger shape: one that counts rows copies the value for each."""
    if flow.counted:
        raise MixingError("it copies the number of rows")
    sizes = target.data
    if sizes is None or not target.counted:
        return Flow(shape=None if sizes is None or flow.shape is None else _widened(flow, sizes))
    axis = _only_counted(sizes)
    place, rank = axis - len(sizes), max(flow.rank, len(sizes))
    if flow.rank >= -place and flow.at(place) != ONE:
        raise MixingError("a constant has a size of its own where the rows lie")
    size = sizes[axis]
    assert isinstance(size, Size)
    return copies(size, rank + place, _widened(flow, sizes))


def copies(size: Size, axis: int, shape: Shape) -> Flow:
    """Return the flow of a value that is the same along a dimension whose size is a multiple of the number of rows.

    Raises:
        MixingError: If the size is no known multiple.
    """
    around = size.around_rows
    if around is None:
        raise MixingError("a size hangs on the number of rows in an unknown way")
    return carrying(RowAxis(axis=axis, after=around), shape)


def _only_counted(sizes: Sequence[Element]) -> int:
    counted = [axis for axis, size in enumerate(sizes) if isinstance(size, Size) and size.counts_rows]
    if len(counted) != 1:
        raise MixingError("several sizes count the rows")
    return counted[0]


@rule("ConstantOfShape")
def filled(operation: Operation) -> Flow:
    """One value everywhere, for each row too."""
    target = operation.need(0)
    if target.rows is not None or (target.counted and target.data is None):
        raise MixingError("the shape it gives is unknown")
    sizes = target.data
    if sizes is None:
        return Flow()
    if target.counted:
        axis = _only_counted(sizes)
        size = sizes[axis]
        assert isinstance(size, Size)
        return copies(size, axis, _known(sizes))
    return _small_fill(operation, sizes)


def _small_fill(operation: Operation, sizes: Sequence[Element]) -> Flow:
    """Return a constant of one value; its elements too where they are few, for exporters compute shapes from such."""
    counts = [size.number if isinstance(size, Size) else None for size in sizes]
    value = operation.attribute("value")
    element = 0 if value is None else value.numpy().reshape(-1)[0]
    whole = value is not None and value.dtype.is_integer()
    if whole and len(counts) == 1 and counts[0] is not None and counts[0] <= 64:
        return Flow(shape=_known(sizes), data=(Size(int(element)),) * counts[0])
    return Flow(shape=_known(sizes))


@rule("Tile")
def tile(operation: Operation) -> Flow:
    """Repeated along dimensions, but not along the rows'; a constant may be, for each row."""
    flow, repeats = operation.need(0), operation.need(1)
    if repeats.rows is not None or repeats.data is None:
        raise MixingError("the repeats are unknown")
    if flow.rows is not None:
        if repeats.counted or repeats.data[flow.rows.axis] != ONE:
            raise MixingError("it repeats rows")
        return carrying(flow.rows, _repeated(flow, repeats.data))
    require_constant(operation, 0)
    if not repeats.counted:
        return Flow(shape=_repeated(flow, repeats.data))
    axis = _only_counted(repeats.data)
    size = repeats.data[axis]
    if flow.at(axis) != ONE or not isinstance(size, Size):
        raise MixingError("it repeats a constant that has a size of its own where the rows lie")
    return copies(size, axis, _repeated(flow, repeats.data))


def _repeated(flow: Flow, repeats: Sequence[Element]) -> Shape:
    sizes = zip(flow.sizes, _known(repeats), strict=True)
    return tuple(None if size is None or times is None else size.times(times) for size, times in sizes)


_KEEPS_COORDINATES = frozenset({"align_corners", "asymmetric", "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel"})
"""Ways to map coordinates that leave a dimension as it is whose size stays."""


@rule("Resize", "Upsample")
def resize(operation: Operation) -> Flow:
    """The rows' dimension must keep its size."""
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    if _text(operation, "coordinate_transformation_mode", "half_pixel") not in _KEEPS_COORDINATES:
        raise MixingError("its coordinates may shift where the size stays")
    _same_for_all(operation)
    axes = operation.attribute("axes")
    place = flow.rows.axis if axes is None else None
    if axes is not None:
        named = [normal(axis, flow.rank) for axis in axes]
        place = named.index(flow.rows.axis) if flow.rows.axis in named else -1
    assert place is not None
    stretches = _text(operation, "keep_aspect_ratio_policy", "stretch") == "stretch"
    if place >= 0 and not (stretches and _keeps(operation, flow, place)):
        raise MixingError("it resizes the dimension that carries the rows, or may")
    return carrying(flow.rows, (None,) * flow.rank)


def _text(operation: Operation, name: str, default: str) -> str:
    value = operation.attribute(name, default)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _same_for_all(operation: Operation) -> None:
    """Check that at most one size or scale counts the rows: `_keeps` asks whether that one is the rows'."""
    for given in operation.flows[1:]:
        if given is None or given.constant:
            continue
        counted = [each for each in given.data or () if isinstance(each, Size) and each.counts_rows]
        if given.rows is not None or given.data is None or len(counted) != 1 or operation.attribute("axes") is not None:
            raise MixingError("it resizes by the rows or by their number")


def _keeps(operation: Operation, flow: Flow, place: int) -> bool:
    """Return whether scales or sizes leave the dimension of the rows as it is."""
    if operation.node.op_type == "Upsample" or operation.version < 11:
        given = operation.attribute("scales")
        if given is not None:
            return bool(given[place] == 1)
        candidates = [(operation.get(1), {1.0, ONE})]
    else:
        candidates = [(operation.get(2), {1.0, ONE}), (operation.get(3), {flow.carried.size})]
    known = [(found.data, right) for found, right in candidates if found is not None and found.shape != (Size(0),)]
    return bool(known) and all(data is not None and len(data) > place and data[place] in right for data, right in known)


@rule("EyeLike")
def eye_like(operation: Operation) -> Flow:
    """Ones on a diagonal tell rows apart."""
    if operation.need(0).constant:
        return Flow()
    raise MixingError("it tells rows apart by their place")


@rule("Range")
def numbering(operation: Operation) -> Flow:
    """Numbers up to a limit; up to the number of rows, they number the rows."""
    if any(flow.rows is not None for flow in operation.given):
        raise MixingError("its limits come from rows")
    start, limit, step = (flow.data[0] if flow.data else None for flow in operation.given)
    from_zero = start == Size(0) and step == ONE
    if all(flow.constant for flow in operation.given):
        known = from_zero and isinstance(limit, Size) and limit.factor >= 0
        return Flow(shape=(limit if known and isinstance(limit, Size) else None,), places=_below(limit) if known else None)
    if not from_zero or limit != ONE_ROW:
        raise MixingError("it numbers the rows")
    return Flow(rows=RowAxis(axis=0), shape=(ONE_ROW,), places=Places(ONE, ONE))


def _below(limit: Element) -> Places | None:
    return Places(Size(0), limit) if isinstance(limit, Size) else None


@rule("OneHot")
def one_hot(operation: Operation) -> Flow:
    """A new dimension for the classes."""
    require_constant(operation, 1, 2)
    flow = operation.need(0)
    if flow.rows is None:
        return Flow()
    axis = normal(int(operation.attribute("axis", -1)), flow.rank + 1)
    shape = (*flow.sizes[:axis], None, *flow.sizes[axis:])
    return carrying(replace(flow.rows, axis=flow.rows.axis + (axis <= flow.rows.axis)), shape)
