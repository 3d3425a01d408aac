"""The annotated models in one session each: equal answers, opened by the program that is emitted beside them."""

from __future__ import annotations

import importlib.util

import pytest

from tests.e2e.harness import assert_equal

CASES = ["tagger", pytest.param("orientation-jpeg", marks=pytest.mark.network)]
"""Strings, and a custom operator; that any model keeps its numbers is a matter of its metadata alone."""


@pytest.mark.parametrize("name", CASES)
def test_one_session_answers_as_the_whole_model(exported, name):
    sample = exported(name)
    spec = importlib.util.spec_from_file_location("open_session", sample.folder / "ort" / "open_session.py")
    opener = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(opener)
    session = opener.open_session()
    outputs = [output.name for output in session.get_outputs()]
    assert_equal(dict(zip(outputs, session.run(outputs, sample.inputs), strict=True)), sample.expected)
    assert sum(opener.assigned(session).values()) > 0
