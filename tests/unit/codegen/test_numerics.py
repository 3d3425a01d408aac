"""Equal up to what reordering floating-point sums may change; everything else must be exactly equal."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutset.codegen.numerics import TOLERANCES, Tolerance, compare

FLOATS = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def reason(reference, actual, **tolerance):
    return compare("y", reference, actual, Tolerance(**tolerance)).reason


def array(*values, dtype=np.float32):
    return np.array(values, dtype=dtype)


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize(("share", "close"), [(0.5, True), (3.0, False)])
def test_the_tolerance_of_each_type(name, share, close):
    reference = np.array([1.0, -100.0, 100.0], np.float64)
    off = reference * (1 + share * TOLERANCES[name])
    found = compare("y", reference.astype(FLOATS[name]), off.astype(FLOATS[name]))
    assert (found.reason == "") is close
    assert found.max_abs == pytest.approx(100 * share * TOLERANCES[name], rel=0.5)
    assert found.max_rel == pytest.approx(found.max_abs / 100)


def test_types_are_ordered_by_their_precision():
    assert TOLERANCES["float64"] < TOLERANCES["float32"] < TOLERANCES["float16"] < TOLERANCES["bfloat16"]


def test_small_numbers_beside_large_ones_may_have_the_error_of_large_ones():
    assert reason(array(1000, 0), array(1000, 0.05)) == ""
    assert "1 of 2 elements differ by up to 0.5" in reason(array(1000, 0), array(1000, 0.5))
    assert reason(array(1, 0), array(1, 0.05)) != ""


@pytest.mark.parametrize(
    ("tolerance", "close"),
    [({}, False), ({"rtol": 0.1}, True), ({"atol": 0.1}, True), ({"atol": 0.01}, False), ({"rtol": 0.0, "atol": 0.0}, False)],
)
def test_a_given_tolerance(tolerance, close):
    assert (reason(array(1, 2), array(1.05, 2.05), **tolerance) == "") is close


def test_zero_tolerance_takes_equal_numbers():
    assert reason(array(1, 0.1), array(1, 0.1), rtol=0.0, atol=0.0) == ""


@pytest.mark.parametrize(
    ("reference", "actual", "close"),
    [
        ([np.nan, 1], [np.nan, 1], True),
        ([np.inf, -np.inf], [np.inf, -np.inf], True),
        ([np.nan, np.nan], [np.nan, np.nan], True),
        ([np.nan, 1], [1, 1], False),
        ([1, 1], [np.nan, 1], False),
        ([np.inf, 1], [-np.inf, 1], False),
        ([np.inf, 1], [3e38, 1], False),
        ([1, 1], [np.inf, 1], False),
        ([np.inf, 1], [np.nan, 1], False),
    ],
)
def test_infinities_and_not_a_numbers(reference, actual, close):
    assert (reason(array(*reference), array(*actual)) == "") is close


def test_complex_numbers():
    one = array(1 + 2j, dtype=np.complex64)
    assert reason(one, one * (1 + 1e-5)) == ""
    assert reason(one, one.conj()) != ""


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.bool_])
def test_other_types_are_exact(dtype):
    assert reason(array(1, 0, 1, dtype=dtype), array(1, 0, 1, dtype=dtype)) == ""
    assert reason(array(1, 0, 1, dtype=dtype), array(1, 1, 0, dtype=dtype), rtol=10, atol=10) == "2 of 3 elements differ"


def test_large_integers_are_not_compared_as_floats():
    assert reason(array(2**62, dtype=np.int64), array(2**62 + 1, dtype=np.int64)) != ""


def test_strings():
    words = np.array(["a", "日本", ""], dtype=object)
    assert reason(words, words.copy()) == ""
    assert reason(words, words.astype(str)) == ""
    assert reason(words, np.array(["a", "日本", " "], dtype=object)) == "1 of 3 elements differ"
    assert reason(words, array(1, 2, 3)) == "type float32, expected object"


@pytest.mark.parametrize(
    ("actual", "words"),
    [
        (np.ones((2, 3), np.float64), "type float64, expected float32"),
        (np.ones((2, 3), np.int32), "type int32"),
        (np.ones((3, 2), np.float32), "shape [3, 2], expected [2, 3]"),
        (np.ones(6, np.float32), "shape [6]"),
        (np.ones((1, 2, 3), np.float32), "shape [1, 2, 3]"),
        (np.ones((), np.float32), "shape []"),
        (None, "one of the two is missing"),
        ([np.ones((2, 3), np.float32)], "shape [1, 2, 3]"),
    ],
)
def test_type_and_shape(actual, words):
    found = compare("y", np.ones((2, 3), np.float32), actual)
    assert words in found.reason
    assert found.max_abs == found.max_rel == float("inf")


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_, object])
def test_empty_tensors(dtype):
    assert reason(np.empty((0, 3), dtype), np.empty((0, 3), dtype)) == ""
    assert reason(np.empty((0, 3), dtype), np.empty((0, 4), dtype)) != ""


def test_sequences():
    pair = [array(1, 2), array(3)]
    assert reason(pair, [array(1, 2), array(3)]) == ""
    assert reason(pair, [array(1, 2), array(4)]).startswith("y[1]: 1 of 1 elements differ")
    for other in (pair[:1], [*pair, pair[0]], array(1, 2), tuple(pair), None):
        assert reason(pair, other) == "expected a sequence of 2"
    assert reason([], []) == ""


def test_sequences_of_maps_as_onnxruntime_gives_them():
    """The values of a ZipMap are plain floats that hold float32 numbers."""
    rows = [{0: 0.25, 1: 0.75}, {0: 0.5, 1: 0.5}]
    assert reason(rows, [dict(row) for row in rows]) == ""
    near = [{0: 0.25 * (1 + 5e-5), 1: 0.75}, rows[1]]
    assert reason(rows, near) == ""
    assert reason(rows, [rows[0], {0: 0.4, 1: 0.6}]).startswith("y[1]: y[1][0]: 1 of 1 elements differ")
    assert "different keys" in reason(rows, [rows[0], {0: 0.5, 2: 0.5}])
    assert "different keys" in reason(rows, [rows[0], [0.5, 0.5]])


def test_maps_of_strings():
    assert reason({"a": "x"}, {"a": "x"}) == ""
    assert reason({"a": "x"}, {"a": "y"}).startswith("y['a']")


def test_missing_optionals():
    assert reason(None, None) == ""
    assert reason(None, array(1)) == "one of the two is missing"


def test_the_worst_part_of_a_sequence_counts():
    found = compare("y", [array(1), array(10)], [array(1), array(10.005)])
    assert found.max_abs == pytest.approx(0.005, rel=1e-3)
    assert found.reason == ""


ARRAYS = hnp.arrays(
    st.sampled_from([np.float32, np.float16, np.int64, np.bool_]), hnp.array_shapes(min_dims=0, min_side=0, max_side=4)
)


@given(ARRAYS)
def test_everything_equals_itself_exactly(values):
    found = compare("y", values, values.copy(), Tolerance(rtol=0.0, atol=0.0))
    assert (found.reason, found.max_abs, found.max_rel) == ("", 0.0, 0.0)


@given(ARRAYS.filter(lambda values: values.size and values.dtype.kind == "f"), st.data())
def test_one_number_far_off_is_always_found(values, data):
    index = tuple(data.draw(st.integers(0, size - 1)) for size in values.shape)
    finite = np.abs(values[np.isfinite(values)].astype(np.float64)).max(initial=1.0)
    other = values.astype(np.float64)
    other[index] = 2 * finite + 1 if np.isfinite(values[index]) else 0.0
    assert compare("y", values.astype(np.float64), other).reason
