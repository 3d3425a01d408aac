"""The difference of two fingerprints is that of the outputs, wherever it is."""

import ml_dtypes
import numpy as np
import pytest

from cutset.codegen.ci.fingerprint import LENGTH, digest_inputs, distances, fingerprints

RNG = np.random.default_rng(0)


def distance(before, after):
    (found,) = distances(fingerprints([{"y": before}]), fingerprints([{"y": after}]))
    return found


@pytest.mark.parametrize("size", [7, LENGTH, LENGTH + 1, 50_000])
@pytest.mark.parametrize("spread", [1.0, 0.001])
def test_the_error_is_the_relative_norm(size, spread):
    before = RNG.normal(size=size).astype(np.float32)
    hit = RNG.random(size) < max(spread, 3 / size)
    after = (before + 0.01 * hit * RNG.normal(size=size)).astype(np.float32)
    truth = np.linalg.norm(after - before) / np.linalg.norm(before)
    assert distance(before, after).error == pytest.approx(truth, rel=0.3)


def test_equal_outputs_are_at_no_distance():
    assert distance(np.ones((3, 400), np.float32), np.ones((3, 400), np.float32)).error == 0


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (np.array([1, 2]), np.array([1, 3]), "elements differ"),
        (np.array(["a"], object), np.array(["b"], object), "elements differ"),
        (np.array([True]), np.array([False]), "elements differ"),
        (np.ones(3, np.float32), np.ones((3, 1), np.float32), "shape [3, 1], was [3]"),
        (np.ones(3, np.float32), np.ones(3), "type float64, was float32"),
        (np.array([1, np.nan]), np.array([1, np.inf]), "infinities or not-a-numbers differ"),
        (np.array([1, np.nan]), np.array([np.nan, 1]), "infinities or not-a-numbers differ"),
    ],
)
def test_what_has_to_be_equal(before, after, reason):
    found = distance(before, after)
    assert (found.error, found.reason, found.exact) == (float("inf"), reason, True)


@pytest.mark.parametrize(
    "value", [np.array([1, np.nan, np.inf]), np.array(["a", "b"], object), np.array([1j]), np.zeros((0, 4)),
              np.array([1, 2], ml_dtypes.bfloat16), np.array(3), [{1: 0.5}, {1: 0.25}]],
)  # fmt: skip
def test_every_kind_of_output(value):
    assert all(found.error == 0 for found in distances(fingerprints([{"y": value}]), fingerprints([{"y": value}])))


def test_outputs_that_came_or_went():
    found = distances(fingerprints([{"a": np.ones(1)}]), fingerprints([{"b": np.ones(1)}]))
    assert {entry.name: entry.reason for entry in found} == {"a": "there is no such output any more", "b": "a new output"}


def test_the_digest_of_inputs():
    asked = [{"x": np.ones(3), "s": np.array(["a"], object)}]
    assert digest_inputs(asked) == digest_inputs([dict(reversed(asked[0].items()))])
    assert digest_inputs(asked) != digest_inputs([{**asked[0], "x": np.zeros(3)}])
    assert digest_inputs(asked) != digest_inputs([{**asked[0], "s": np.array(["b"], object)}])
