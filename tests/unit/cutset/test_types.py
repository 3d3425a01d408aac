"""Tensor types and sizes, and errors that name the tensor and the dimension."""

import ml_dtypes
import numpy as np
import pytest

from cutset.errors import UnknownShapeError
from cutset.graph.types import OpId, TensorSpec, element_bytes


def spec(dtype="float32", shape=(2, 3)):
    return TensorSpec(name="t", dtype=dtype, shape=shape)


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float32", 4), ("float64", 8), ("float16", 2), ("bfloat16", 2), ("int64", 8), ("uint8", 1), ("bool", 1), ("string", 32),
     ("complex64", 8), ("int4", 1), ("float8e4m3fn", 1)],
)  # fmt: skip
def test_bytes_of_an_element(dtype, size):
    assert element_bytes(dtype) == size
    assert spec(dtype).nbytes({}) == 6 * size


def test_numpy_types():
    assert spec("float32").numpy_dtype == np.float32
    assert spec("bfloat16").numpy_dtype == ml_dtypes.bfloat16
    assert spec("string").numpy_dtype.kind == "O"
    with pytest.raises(UnknownShapeError, match="`t` has type seq"):
        _ = spec("seq(float32)").numpy_dtype


@pytest.mark.parametrize(("dtype", "plain"), [("string", True), ("seq(float32)", False), ("map(int64,float32)", False)])
def test_what_is_a_tensor(dtype, plain):
    assert spec(dtype).is_tensor is plain


def test_sizes_bind_symbols():
    assert spec(shape=("N", 3)).sizes({"N": 5}) == (5, 3)
    assert spec(shape=()).nbytes({}) == 4
    assert spec(shape=(0, 3)).nbytes({}) == 0


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, "M"), "dimension 1 (`M`)"), ((None,), "dimension 0"), (None, "no known rank")],
)
def test_an_unknown_size_names_tensor_and_dimension(shape, words):
    with pytest.raises(UnknownShapeError) as caught:
        spec(shape=shape).sizes({"N": 2})
    assert "`t`" in caught.value.what
    assert words in caught.value.what
    assert "--inputs" in caught.value.hint


def test_an_operator_prints_its_domain():
    assert str(OpId(domain="", op_type="Conv")) == "ai.onnx::Conv"
    assert str(OpId(domain="acme", op_type="Magic")) == "acme::Magic"
