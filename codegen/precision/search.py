"""Find few elements whose removal makes a test pass: here, the nodes that must stay in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def fewest(candidates: Sequence[T], passes: Callable[[frozenset[T]], bool], *, most_tests: int) -> frozenset[T]:
    """Return a set of candidates, of which none of its halves will do, for which the test passes.

    Args:
        candidates: For all of them together the test passes, for none of them it does not.
        passes: The test of a set.
        most_tests: After so many tests the sets found so far are taken whole.

    Source:
        Zeller and Hildebrandt, "Simplifying and isolating failure-inducing input", IEEE TSE 28(2), 2002 (the search for
        interfering changes).
    """
    left = most_tests

    def tried(chosen: frozenset[T]) -> bool:
        nonlocal left
        left -= 1
        return passes(chosen)

    def search(part: Sequence[T], around: frozenset[T]) -> frozenset[T]:
        if len(part) == 1 or left <= 0:
            return frozenset(part)
        first, second = part[: len(part) // 2], part[len(part) // 2 :]
        for half in (first, second):
            if tried(around | frozenset(half)):
                return search(half, around)
        found = search(first, around | frozenset(second))
        return found | search(second, around | found)

    return search(candidates, frozenset())
