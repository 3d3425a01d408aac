"""Sizes of tensors as products: a number times named sizes, one of which may be the number of rows of a joint run.

A reshape keeps rows apart where such products divide without a remainder, for every number of rows. Sums, quotients with
a remainder and sizes that nobody knows become names of their own: equal only to themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

ROWS = "\0rows"
"""Name of the number of rows; no dimension of a model can have a name that begins so."""

_COUNTED = "\0counted:"
_SIGNED = "\0signed:"
_DIMENSIONS = ("dim:", "value:")


@dataclass(frozen=True, slots=True)
class Size:
    """A product of an integer and powers of named sizes, each of which is at least zero unless `opaque` was told otherwise.

    Args:
        factor: The integer, which may be negative (-1 is a sentinel of Reshape).
        names: Names with their powers, sorted.
    """

    factor: int = 1
    names: tuple[tuple[str, int], ...] = ()

    @property
    def number(self) -> int | None:
        """The value of a size without names, else None."""
        return None if self.names else self.factor

    @property
    def counts_rows(self) -> bool:
        """Whether the size depends on the number of rows, in a known or an unknown way."""
        return any(name == ROWS or name.startswith(_COUNTED) for name, _ in self.names)

    @property
    def may_be_negative(self) -> bool:
        """Whether the value may lie below zero: such a number is no size of a dimension."""
        return self.factor < 0 or any(_SIGNED in name for name, _ in self.names)

    @property
    def may_be_zero(self) -> bool:
        """Whether the value may be zero where no dimension is empty: 4 % 2 is, a dimension of the model is not."""
        return self.factor == 0 or any(name != ROWS and not name.startswith(_DIMENSIONS) for name, _ in self.names)

    @property
    def is_quotient(self) -> bool:
        """Whether the value is zero only where a size is below what divides it, as windows of an image are counted."""
        return self.factor != 0 and all(name.startswith((*_DIMENSIONS, "Div(")) for name, _ in self.names)

    @property
    def around_rows(self) -> Size | None:
        """The other factors of a size that holds the number of rows exactly once, else None."""
        rest = self.divide(ONE_ROW)
        return None if rest is None or rest.counts_rows or rest.may_be_negative else rest

    def times(self, other: Size) -> Size:
        """Return the product of two sizes."""
        powers = dict(self.names)
        for name, power in other.names:
            powers[name] = powers.get(name, 0) + power
        return Size(self.factor * other.factor, tuple(sorted(powers.items())) if self.factor * other.factor else ())

    def divide(self, other: Size) -> Size | None:
        """Return the quotient of two sizes, None where the division may leave a remainder."""
        if other.factor == 0 or self.factor % other.factor:
            return None
        powers = dict(self.names)
        for name, power in other.names:
            powers[name] = powers.get(name, 0) - power
        if any(power < 0 for power in powers.values()):
            return None
        return Size(self.factor // other.factor, tuple(sorted((name, power) for name, power in powers.items() if power)))


ONE = Size(1)
ONE_ROW = Size(1, ((ROWS, 1),))


def named(name: str) -> Size:
    """Return the size that a model gives this name, which is never taken for a name of this module's own."""
    return Size(1, ((f"dim:{name}", 1),))


def unnamed(value: str, axis: int) -> Size:
    """Return the size of a dimension of which nothing is known but whose dimension it is."""
    return Size(1, ((f"value:{value}\0{axis}", 1),))


def opaque(key: str, parts: Iterable[Size], *, signed: bool = False) -> Size:
    """Return the name for an expression that is no product; equal keys are equal sizes.

    Args:
        key: Says the expression, its operands included.
        parts: The operands: where one of them counts rows, the expression does.
        signed: Whether the value may lie below zero.
    """
    found = list(parts)
    return Size(1, ((f"{_COUNTED if any(part.counts_rows for part in found) else ''}{_SIGNED if signed else ''}{key}", 1),))


def product(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes."""
    total = ONE
    for size in sizes:
        total = total.times(size)
    return total
