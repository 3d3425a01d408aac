"""Integers that say places, as exporters index a batch: row r's are ``r * stride + e`` with a bounded ``e``.

Frameworks write ``mask[batch_index, position]`` and ``flat[batch_index * width + channel]``, where ``batch_index`` counts the
rows. Such a value tells rows apart and may feed nothing but an index, where it picks each row's own elements.
"""

from __future__ import annotations

from dataclasses import dataclass

from cutset.rowwise.size import ONE, Size

ZERO = Size(0)
_TOO_FAR = 1 << 31
"""Numbers from here on do not fit in 32 bits."""


@dataclass(frozen=True, slots=True)
class Places:
    """Integers ``r * stride + e`` with ``0 <= e < below``.

    Args:
        stride: Step from one row to the next; zero where the integers are the same for each row.
        below: Bound of ``e``.
    """

    stride: Size
    below: Size

    @property
    def number_rows(self) -> bool:
        """Whether the integers tell rows apart."""
        return self.stride != ZERO

    def times(self, factor: Size) -> Places | None:
        """Return the places multiplied by a size."""
        if factor.may_be_negative or factor == ZERO:
            return None
        return Places(self.stride.times(factor), self.below if self.below == ONE else self.below.times(factor))

    def plus(self, other: Places) -> Places | None:
        """Return the sum of places, one of which must hold ``e`` = 0 and one of which is the same for each row."""
        if self.number_rows and other.number_rows:
            return None
        first, second = (self, other) if self.number_rows else (other, self)
        if ONE not in (first.below, second.below):
            return None
        return Places(first.stride, second.below if first.below == ONE else first.below)

    def stay_within(self, width: Size) -> bool:
        """Return whether each row's places lie among the row's own `width` elements."""
        small = self.below.number is not None and width.number is not None and self.below.number <= width.number
        return self.stride == width and (small or self.below == width)


def bounded(low: int, high: int) -> Places | None:
    """Return the places of constants between two integers, both included; None where one is negative or huge."""
    return None if low < 0 or high >= _TOO_FAR else Places(ZERO, Size(high + 1))
