"""The comparison of the case studies finds what differs, and forgives the order of equals alone."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnxruntime_extensions")
photographs = pytest.importorskip("benchmarks.photographs")
case_studies = pytest.importorskip("benchmarks.case_studies")

ANSWER = {
    "boxes": np.array([[0, 0, 9, 9], [50, 0, 60, 9]], np.float32),
    "scores": np.array([0.9, 0.9], np.float32),
    "upright": np.eye(4, dtype=np.float32)[:2],
    "dropped": np.array([0]),
}


def changed(**arrays):
    return ANSWER | {name: np.asarray(value) for name, value in arrays.items()}


def test_equals_may_change_places():
    swapped = {name: value[::-1] if len(value) == 2 else value for name, value in ANSWER.items()}
    assert case_studies._difference(swapped, ANSWER) == ""
    assert case_studies._difference(ANSWER, ANSWER) == ""


DIFFERENT = {
    "a box is elsewhere": ({"boxes": ANSWER["boxes"] + 0.2}, "boxes: 0.2"),
    "a box is missing": ({"boxes": ANSWER["boxes"][:1]}, "boxes: 1 for 2"),
    "a row has another's score": ({"upright": ANSWER["upright"][::-1]}, "upright: 1"),
    "a score is another": ({"scores": [0.9, 0.8]}, "scores: 0.1"),
    "a count is another": ({"dropped": [1]}, "dropped"),
    "a score is no number": ({"scores": [0.9, np.nan]}, "scores: nan"),
}


@pytest.mark.parametrize(("arrays", "words"), DIFFERENT.values(), ids=DIFFERENT)
def test_what_differs_is_found(arrays, words):
    assert case_studies._difference(changed(**arrays), ANSWER).startswith(words)


def test_the_photographs_are_repeatable_and_of_many_sizes():
    pytest.importorskip("skimage")
    one, two = photographs.faces(4), photographs.faces(4)
    assert [file.tobytes() for file in one] == [file.tobytes() for file in two]
    assert len({file.size for file in one}) == 4
