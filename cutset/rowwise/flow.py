"""What is known about where the rows of a joint run lie in one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cutset.rowwise.places import Places
from cutset.rowwise.size import ONE, ONE_ROW, Size

Element: TypeAlias = Size | float | None
"""One element of a small tensor: an integer, maybe of named sizes; a float; None where unknown and the same for any rows."""

Shape: TypeAlias = tuple[Size | None, ...]
"""Sizes of a value's dimensions; None where unknown."""


class MixingError(Exception):
    """A node may mix rows, or nobody described that it does not. The message says why, without the node's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAxis:
    """The dimension that carries the rows; row r is at the indices ``(b * rows + r) * after + a``.

    Args:
        axis: The dimension, from zero.
        before: Number of blocks that hold each row once, as after merging ``[blocks, rows]``.
        after: Neighbours of one row, as after merging ``[rows, positions]``.
    """

    axis: int
    before: Size = ONE
    after: Size = ONE

    @property
    def size(self) -> Size:
        """Size of the dimension."""
        return self.before.times(ONE_ROW).times(self.after)

    @property
    def layout(self) -> tuple[Size, Size]:
        """What two values must share besides the dimension for their rows to meet."""
        return self.before, self.after


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Where the rows lie in one value.

    Args:
        rows: The dimension that carries them; None for a value that no row's content reaches.
        shape: Sizes of the dimensions; None where the rank is unknown.
        data: The elements of a small tensor (rank zero or one) that no row's content reaches; None where unknown.
        table: The same for rank two, line by line; exporters lay out what a Pad adds in two columns.
        counted: Whether the content depends on the number of rows. Such a value may say a size, and nothing else.
        mixed: Why rows may have mixed in this value; empty where they have not.
        places: What the integers say as places; None where nothing is known.
        columns: The same for each column of the last dimension, where columns differ.
    """

    rows: RowAxis | None = None
    shape: Shape | None = None
    data: tuple[Element, ...] | None = None
    table: tuple[tuple[Element, ...], ...] = ()
    counted: bool = False
    mixed: str = ""
    places: Places | None = None
    columns: tuple[Places | None, ...] = ()

    @property
    def numbers_rows(self) -> bool:
        """Whether the content tells rows apart by their place."""
        return any(places is not None and places.number_rows for places in (self.places, *self.columns))

    @property
    def rank(self) -> int:
        """Number of dimensions.

        Raises:
            MixingError: If the rank is unknown.
        """
        return len(self.sizes)

    @property
    def sizes(self) -> Shape:
        """Sizes of the dimensions.

        Raises:
            MixingError: If the rank is unknown.
        """
        if self.shape is None:
            raise MixingError("the rank of an input is unknown")
        return self.shape

    @property
    def carried(self) -> RowAxis:
        """The dimension that carries the rows.

        Raises:
            MixingError: If there is none.
        """
        if self.rows is None:
            raise MixingError("an input carries no rows")
        return self.rows

    @property
    def constant(self) -> bool:
        """Whether the value is the same whatever rows there are and however many."""
        return self.rows is None and not self.counted and not self.mixed

    def at(self, axis: int) -> Size | None:
        """Return the size of a dimension, counted from the end where negative; None where unknown."""
        return None if self.shape is None else self.shape[axis]


def carrying(axis: RowAxis, shape: Shape) -> Flow:
    """Return the flow of a value that carries rows on `axis`.

    Args:
        axis: The dimension and its layout.
        shape: Sizes of all dimensions; the one of the rows is replaced by that of `axis`.
    """
    sizes = list(shape)
    sizes[axis.axis] = axis.size
    return Flow(rows=axis, shape=tuple(sizes))


def counted_in(data: tuple[Element, ...]) -> bool:
    """Return whether an element depends on the number of rows."""
    return any(isinstance(element, Size) and element.counts_rows for element in data)


def from_table(table: tuple[tuple[Element, ...], ...]) -> Flow:
    """Return the flow of a small tensor of rank two with these lines; one without elements says nothing."""
    if not table or not table[0]:
        raise MixingError("it is empty")
    counted = any(counted_in(line) for line in table)
    return Flow(shape=(Size(len(table)), Size(len(table[0]))), table=table, counted=counted)


def from_data(data: tuple[Element, ...], *, scalar: bool) -> Flow:
    """Return the flow of a small tensor with these elements."""
    return Flow(shape=() if scalar else (Size(len(data)),), data=data, counted=counted_in(data))
