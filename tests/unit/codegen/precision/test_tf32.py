"""Products whose operands are rounded to tf32: the numbers, against bits that are masked by hand."""

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.precision.error import run_part
from cutset.codegen.precision.reduce import Original, compare_part, reduce_part
from cutset.codegen.precision.tf32 import emulated_tf32
from cutset.errors import VerificationError

FLOAT = TensorProto.FLOAT
TYPES = dict.fromkeys(("x", "r", "w", "p", "y"), "float32")


def product(weight: np.ndarray, opset: int = 17) -> onnx.ModelProto:
    """y = relu(x) w + x, so that one operand is read by another node, too."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["p"], name="product"),
        helper.make_node("Add", ["p", "x"], ["y"], name="sum"),
    ]
    size = weight.shape[0]
    sides = [[helper.make_tensor_value_info(name, FLOAT, ["n", size])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *sides, [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def tf32(array: np.ndarray) -> np.ndarray:
    """Round to eleven significant bits, half to even, by arithmetic on the number."""
    fraction, exponent = np.frexp(array.astype(np.float64))
    return np.ldexp(np.rint(fraction * 2**11) / 2**11, exponent).astype(np.float32)


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60).filter(
    lambda value: value == 0 or abs(value) > 2.0**-60
)


@settings(max_examples=50)
@example([1 + 2**-11, 1 + 3 * 2**-11], [1 + 5 * 2**-11])
@given(st.lists(numbers, min_size=1, max_size=8), st.lists(numbers, min_size=1, max_size=1))
def test_operands_are_rounded_to_tf32_and_nothing_else_is(left, right):
    x = np.array(left, np.float32)[:, None]
    weight = np.array([right], np.float32)
    (found,) = run_part(emulated_tf32(product(weight), TYPES)[0], [{"x": x}])
    expected = tf32(np.maximum(x, 0)) * tf32(weight) + x
    assert np.array_equal(found["y"], expected)


def test_the_part_is_a_valid_model_and_names_its_products():
    model, products = emulated_tf32(product(np.eye(3, dtype=np.float32), opset=7), TYPES)
    onnx.checker.check_model(model, full_check=True)
    assert products == ("product",)


def test_tf32_is_compared_and_is_all_or_nothing(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    onnx.save(product(rng.normal(size=(64, 64)).astype(np.float32)), path)
    feeds = [{"x": rng.normal(size=(4, 64)).astype(np.float32)}]
    found = reduce_part(path, "tf32", feeds)
    assert found.model is None, "a switch of the builder, not another file"
    assert (found.reduced, found.kept) == (("product",), ())
    assert 1e-6 < found.errors[0].max_rel < 2**-10
    assert compare_part(Original(path), "tf32", run_part(path, feeds), feeds) == (found.errors, found.reduced)
    with pytest.raises(VerificationError, match="cannot be computed in tf32 within a tolerance of 1e-08"):
        reduce_part(path, "tf32", feeds, tolerance=1e-8)


@pytest.mark.parametrize("element", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_products_of_other_types_are_left_alone(element, tmp_path):
    """tf32 is about float32: a model in another type is compared in it, with nothing in tf32."""
    kind = helper.tensor_dtype_to_np_dtype(element)
    model = product(np.eye(3, dtype=kind))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = element
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    feeds = [{"x": np.ones((2, 3), kind)}]
    errors, products = compare_part(Original(path), "tf32", run_part(path, feeds), feeds)
    assert products == ()
    assert [error.max_abs for error in errors] == [0.0]
