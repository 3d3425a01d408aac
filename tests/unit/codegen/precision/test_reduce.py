"""A precision within a tolerance: what goes back to float32, when there is none, and int8 with calibration."""

import itertools

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.precision.error import OutputError, errors_of, is_distribution
from cutset.codegen.precision.quantise import is_quantised, quantise
from cutset.codegen.precision.reduce import reduce_part
from cutset.codegen.precision.search import fewest
from cutset.errors import UsageError, VerificationError

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def node(op, inputs, outputs, name, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name, **attributes)


@pytest.fixture
def overflowing(save_model):
    """Two products, and between them a square that leaves float16's range and comes back."""
    weights = {"a": RNG.normal(size=(8, 8)).astype(np.float32), "b": RNG.normal(size=(8, 8)).astype(np.float32)}
    weights |= {"up": np.float32(3000), "down": np.float32(1 / 9e6)}
    nodes = [
        node("MatMul", "x a", "h", "first"),
        node("Mul", "h up", "i", "up"),
        node("Mul", "i i", "j", "square"),
        node("Mul", "j down", "k", "down"),
        node("MatMul", "k b", "y", "second"),
    ]
    return save_model(nodes, [("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 8])], weights)


FEEDS = [{"x": RNG.normal(size=(4, 8)).astype(np.float32)} for _ in range(2)]


def test_the_offending_nodes_go_back(overflowing):
    found = reduce_part(overflowing, "fp16", FEEDS)
    assert set(found.beyond) == {"up", "square", "down"}, "what makes the large numbers, and what takes them back"
    assert found.reduced == ("first", "second")
    assert found.kept == ()
    assert found.errors[0].max_rel <= found.tolerance == 0.01
    wide = reduce_part(overflowing, "bf16", FEEDS)
    assert wide.kept == wide.beyond == (), "bfloat16 has the range of float32"


def test_no_product_left_is_a_failure(overflowing):
    with pytest.raises(VerificationError, match="cannot be computed in fp16 within a tolerance of 1e-07"):
        reduce_part(overflowing, "fp16", FEEDS, tolerance=1e-7)


def test_what_needs_no_change(overflowing, save_model):
    assert reduce_part(overflowing, "fp32", []).model is None
    path = save_model([node("Relu", "x", "y", "relu")], [("x", FLOAT, [3])], [("y", FLOAT, [3])])
    assert reduce_part(path, "int8", []).model is None, "nothing to quantise, so nothing to calibrate"


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.data())
def test_the_search_finds_a_set_that_passes_and_cannot_lose_one(size, data):
    """For tests that ask for some of several sets of culprits: the found set is minimal."""
    culprits = data.draw(st.lists(st.frozensets(st.integers(0, size - 1), min_size=1), min_size=1, max_size=3))

    def passes(chosen):
        return any(one <= chosen for one in culprits)

    found = fewest(range(size), passes, most_tests=10_000)
    assert passes(found)
    if len(culprits) == 1:
        assert found == culprits[0]
    assert all(not passes(found - {one}) for one in found) or len(culprits) > 1


def test_the_search_ends_when_its_tests_do():
    asked = itertools.count()
    found = fewest(range(64), lambda chosen: next(asked) < 0 or chosen >= set(range(64)), most_tests=10)
    assert found == frozenset(range(64))
    assert next(asked) <= 12


def test_errors_and_distributions():
    reference = [{"p": np.array([[0.2, 0.8], [0.6, 0.4]], np.float32), "i": np.array([1, 2]), "y": np.array([np.nan, 4.0])}]
    actual = [{"p": np.array([[0.3, 0.7], [0.4, 0.6]], np.float32), "i": np.array([1, 3]), "y": np.array([np.nan, 3.0])}]
    found = {error.name: error for error in errors_of(reference, actual)}
    assert found["p"].top1 == 0.5
    assert found["p"].max_abs == pytest.approx(0.2)
    assert found["i"] == OutputError(name="i", max_abs=0.5, max_rel=0.5, mean_abs=0.5, top1=None)
    assert (found["y"].max_abs, found["y"].max_rel, found["y"].mean_abs) == (1.0, 0.25, 0.5)
    assert not is_distribution(np.ones((2, 3), np.float32))
    lost = errors_of([{"y": np.ones(2, np.float32)}], [{"y": np.array([1, np.nan], np.float32)}])
    assert lost[0].max_rel == np.inf


def test_int8_is_symmetric_and_calibrated(overflowing):
    model = onnx.load(overflowing)
    assert not is_quantised(model)
    found = quantise(model, FEEDS, keep=["second"])
    assert is_quantised(found)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in found.graph.initializer}
    pairs = [one for one in found.graph.node if one.op_type == "DequantizeLinear"]
    assert {one.input[0].removesuffix("_QuantizeLinear_Output") for one in pairs} == {"x", "a_quantized", "h"}
    assert all(weights[one.input[2]].dtype == np.int8 and not weights[one.input[2]].any() for one in pairs)
    reduced = reduce_part(overflowing, "int8", FEEDS, calibration=FEEDS, tolerance=0.2)
    assert reduced.reduced == ("first", "second")
    assert 0 < reduced.errors[0].max_rel <= 0.2


def test_int8_needs_something_to_calibrate_with(overflowing, tmp_path):
    with pytest.raises(UsageError, match="--calibration"):
        reduce_part(overflowing, "int8", FEEDS)
    onnx.save(quantise(onnx.load(overflowing), FEEDS), tmp_path / "q.onnx")
    assert reduce_part(tmp_path / "q.onnx", "int8", FEEDS).model is None, "it carries its own"
