"""A symbol whose sizes differ in a sample is no symbol; one whose sizes agree stays."""

from __future__ import annotations

import numpy as np

from cutset.codegen.loose_symbols import free_loose_symbols


def entries():
    return [
        {"name": "a", "shape": ["N", 3, "m"]},
        {"name": "b", "shape": ["N", None, "m"]},
        {"name": "c", "shape": None},
        {"name": "d", "shape": []},
    ]


def sample(rows):
    return {"a": np.zeros((2, 3, 5)), "b": np.zeros((rows, 7, 5)), "c": np.zeros(4), "d": np.float32(1)}


def test_sizes_that_agree_keep_their_symbol():
    inputs = entries()
    assert free_loose_symbols(inputs, [sample(2), sample(2)]) == []
    assert inputs == entries()


def test_sizes_that_differ_in_one_sample_are_free_of_each_other():
    inputs = entries()
    assert free_loose_symbols(inputs, [sample(2), sample(9)]) == ["N"]
    assert [entry["shape"] for entry in inputs] == [[None, 3, "m"], [None, None, "m"], None, []]
