"""Products of sizes: equal to what they stand for at any value of their names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.rowwise.size import ONE, ONE_ROW, ROWS, Size, named, opaque, product

NAMES = st.sampled_from([ONE_ROW, named("length"), named("heads")])
SIZES = st.builds(lambda factor, names: product([Size(factor), *names]), st.integers(1, 12), st.lists(NAMES, max_size=3))
VALUES = st.fixed_dictionaries({name: st.integers(1, 9) for name in (ROWS, "dim:length", "dim:heads")})


def value(size: Size, values: dict[str, int]) -> int:
    """What a size is where its names are these numbers."""
    total = size.factor
    for name, power in size.names:
        total *= values[name] ** power
    return total


@given(SIZES, SIZES, VALUES)
def test_products_and_quotients_are_those_of_the_numbers(a: Size, b: Size, values: dict[str, int]) -> None:
    assert value(a.times(b), values) == value(a, values) * value(b, values)
    assert a.times(b).divide(b) == a
    quotient = a.divide(b)
    if quotient is not None:
        assert value(quotient, values) * value(b, values) == value(a, values)


@given(SIZES)
def test_what_is_around_the_rows_has_none(a: Size) -> None:
    around = a.around_rows
    assert (around is None) == (dict(a.names).get(ROWS, 0) != 1)
    assert around is None or around.times(ONE_ROW) == a


@pytest.mark.parametrize(
    ("size", "counts"), [(ONE, False), (named("length"), False), (ONE_ROW, True), (Size(3).times(ONE_ROW), True)]
)
def test_an_expression_counts_rows_if_an_operand_does(size: Size, counts: bool) -> None:
    made = opaque("floor(a / 2)", [size, named("other")])
    assert (made.counts_rows, made.around_rows) == (counts, None)
    assert made == opaque("floor(a / 2)", [size])
    assert made != opaque("floor(a / 3)", [size])
