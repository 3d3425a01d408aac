"""ONNX's own backend tests, split at random: one test for each first letter, so that one failure hides no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.backend_cases import BackendCase, Outcome, backend_cases, try_case, versions

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "backend-node-tests.md"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def letter(case: BackendCase) -> str:
    return case.name.removeprefix("test_")[0].lower()


@pytest.fixture(scope="module")
def by_letter() -> dict[str, list[BackendCase]]:
    found: dict[str, list[BackendCase]] = {}
    for case in backend_cases():
        found.setdefault(letter(case), []).append(case)
    return found


@pytest.fixture(scope="module")
def outcomes(by_letter: dict[str, list[BackendCase]]) -> Callable[[str], list[Outcome]]:
    """Return the outcomes of a letter's cases; they run once."""
    done: dict[str, list[Outcome]] = {}

    def of(first: str) -> list[Outcome]:
        if first not in done:
            done[first] = [try_case(case) for case in by_letter.get(first, [])]
        return done[first]

    return of


def test_every_case_has_a_letter(by_letter: dict[str, list[BackendCase]]) -> None:
    assert set(by_letter) <= set(LETTERS)
    assert sum(map(len, by_letter.values())) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("first", LETTERS)
def test_parts_give_the_expected_outputs(first: str, outcomes: Callable[[str], list[Outcome]]) -> None:
    assert {outcome.case: outcome.failure for outcome in outcomes(first) if outcome.failure} == {}


@pytest.mark.slow
@pytest.mark.parametrize("first", LETTERS)
def test_no_case_is_left_out_that_the_documentation_does_not_list(first: str, outcomes: Callable[[str], list[Outcome]]) -> None:
    text = DOCUMENT.read_text("utf-8")
    if f"Versions: {versions()}\n" not in text:
        pytest.skip(f"{DOCUMENT.name} is about other versions than {versions()}")
    documented = set(re.findall(r"^- `(.+)`$", text, re.MULTILINE))
    assert {
        outcome.case: outcome.left_out for outcome in outcomes(first) if outcome.left_out and outcome.case not in documented
    } == {}
