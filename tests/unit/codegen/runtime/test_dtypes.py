"""Plain values become tensors exactly, or not at all."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.codegen.runtime.dtypes import ELEMENT_TYPES, from_array, from_python

GOOD = [
    ([1, 2], "int8", np.array([1, 2], np.int8)),
    ([[1.5], [2]], "float32", np.array([[1.5], [2]], np.float32)),
    (3, "int64", np.array(3, np.int64)),
    (np.float32(0.1), "float32", np.array(0.1, np.float32)),
    ([np.int16(4)], "uint8", np.array([4], np.uint8)),
    (True, "bool", np.array(True)),
    ([], "float32", np.zeros(0, np.float32)),
    ([[], []], "int32", np.zeros((2, 0), np.int32)),
    ([0.1], "float32", np.array([0.1], np.float32)),
    ([float("inf")], "float16", np.array([np.inf], np.float16)),
    ([2**64 - 1], "uint64", np.array([2**64 - 1], np.uint64)),
    (["a", b"\xc3\xa9"], "string", np.array(["a", "é"], object)),
]


@pytest.mark.parametrize(("value", "dtype", "expected"), GOOD)
def test_what_fits_is_converted(value, dtype, expected):
    tensor = from_python(value, ELEMENT_TYPES[dtype])
    assert tensor.dtype == expected.dtype
    np.testing.assert_array_equal(tensor, expected)


BAD = [
    ([128], "int8"),
    ([-1], "uint64"),
    ([2**64], "uint64"),
    ([1.0], "int32"),
    ([True], "int32"),
    ([1], "bool"),
    ([1e39], "float32"),
    ([70000.0], "float16"),
    ([2**24 + 1], "float32"),
    ([10**400], "float64"),
    (["1"], "float32"),
    ([1], "string"),
    ([b"\xff"], "string"),
    (["\ud800"], "string"),
    ([[1], 2], "int8"),
    ([[1], [2, 3]], "int8"),
    ([None], "float32"),
    ([10**5000], "int64"),
    ([1.0], "bfloat16"),
    ({"a": 1}, "int8"),
    ([2**24 + 1, float("nan")], "float32"),
]


@pytest.mark.parametrize(("value", "dtype"), BAD, ids=range(len(BAD)))
def test_what_does_not_fit_is_refused(value, dtype):
    with pytest.raises(ValueError, match=r".+"):
        from_python(value, ELEMENT_TYPES[dtype])


def test_a_bottomless_list_is_refused():
    value: list = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValueError, match="deeper"):
        from_python(value, ELEMENT_TYPES["int8"])


@given(st.lists(st.integers(-(2**70), 2**70), max_size=8), st.sampled_from(["int8", "uint16", "int64", "float32", "float64"]))
def test_integers_survive_or_are_refused(values, dtype):
    try:
        tensor = from_python(values, ELEMENT_TYPES[dtype])
    except ValueError:
        return
    assert [int(item) for item in tensor.tolist()] == values


def test_arrays_keep_their_type_and_are_not_copied():
    array = np.ones((2, 3), np.float32)
    assert from_array(array, ELEMENT_TYPES["float32"]) is array
    with pytest.raises(ValueError, match="float64"):
        from_array(array.astype(np.float64), ELEMENT_TYPES["float32"])


def test_foreign_byte_order_is_turned():
    array = np.arange(3, dtype=">i4")
    turned = from_array(array, ELEMENT_TYPES["int32"])
    assert turned.dtype == np.dtype("<i4")
    np.testing.assert_array_equal(turned, array)


@pytest.mark.parametrize("array", [np.array(["a", "b"]), np.array([b"a", b"b"]), np.array(["a", b"b"], object)])
def test_every_kind_of_string_array_becomes_text(array):
    assert from_array(array, ELEMENT_TYPES["string"]).tolist() == ["a", "b"]


def test_an_empty_string_array_keeps_its_shape():
    assert from_array(np.empty((0, 3), object), ELEMENT_TYPES["string"]).shape == (0, 3)


def test_bfloat16_is_taken_as_bits():
    array = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert from_array(array, ELEMENT_TYPES["bfloat16"]).tolist() == [0x3F80, 0x4000]
    with pytest.raises(ValueError, match="float16"):
        from_array(np.ones(2, np.float16), ELEMENT_TYPES["bfloat16"])
