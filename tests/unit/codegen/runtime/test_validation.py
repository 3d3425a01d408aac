"""A request that does not fit is refused before anything runs, and the message says how it should be."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.codegen.runtime import InputError
from cutset.codegen.runtime.config import TensorConfig
from cutset.codegen.runtime.validation import check_inputs, shared_symbols

SIGNATURE = (
    TensorConfig(name="a", dtype="float32", shape=("batch", 3, None)),
    TensorConfig(name="b b", dtype="int64", shape=()),
    TensorConfig(name="any", dtype="uint8", shape=None),
    TensorConfig(name="seq", dtype="seq(tensor(float))", shape=None),
)
GOOD = {"a": np.zeros((2, 3, 4), np.float32), "b b": 3, "any": [[1]], "seq": [np.zeros(2, np.float32)]}


def test_a_fitting_request_passes():
    checked = check_inputs(SIGNATURE, GOOD)
    assert checked["a"] is GOOD["a"]
    assert checked["b b"].dtype == np.int64
    assert checked["any"].shape == (1, 1)
    assert checked["seq"] is GOOD["seq"]


@pytest.mark.parametrize(
    ("name", "value", "got"),
    [
        ("a", np.zeros((2, 4, 4), np.float32), r"shape \[2, 4, 4\], expected float32 of shape \[batch, 3, \?\]"),
        ("a", np.zeros((2, 3), np.float32), r"shape \[2, 3\]"),
        ("a", np.zeros((2, 3, 4)), "elements of type float64"),
        ("b b", [3], r"shape \[1\], expected int64 of shape \[\]"),
        ("b b", 2.5, "values of type float"),
        ("any", [300], "the value 300, expected uint8 of any shape"),
        ("any", None, "NoneType"),
        ("seq", np.zeros(3), "an array, expected seq"),
    ],
)
def test_a_misfit_names_the_tensor_what_came_and_what_was_expected(name, value, got):
    with pytest.raises(InputError, match=got) as caught:
        check_inputs(SIGNATURE, {**GOOD, name: value})
    assert caught.value.tensor == name


def test_missing_and_unknown_names_are_refused():
    with pytest.raises(InputError, match="'any': got nothing"):
        check_inputs(SIGNATURE, {name: value for name, value in GOOD.items() if name != "any"})
    with pytest.raises(InputError, match="'extra': got an unknown name"):
        check_inputs(SIGNATURE, {**GOOD, "extra": 1})


def test_a_size_below_the_least_one_is_refused():
    signature = (TensorConfig(name="a", dtype="float32", shape=("batch", 3, None), least=(1, 0, 2)),)
    check_inputs(signature, {"a": np.zeros((1, 3, 2), np.float32)})
    for shape in ((0, 3, 2), (1, 3, 1)):
        with pytest.raises(InputError, match=r"expected float32 of shape \[batch >= 1, 3, \? >= 2\]"):
            check_inputs(signature, {"a": np.zeros(shape, np.float32)})


def test_inputs_that_disagree_on_a_symbol():
    signature = (
        TensorConfig(name="a", dtype="float32", shape=("n", "m")),
        TensorConfig(name="b", dtype="float32", shape=("k", "n")),
        TensorConfig(name="c", dtype="float32", shape=("m", "m")),
        TensorConfig(name="d", dtype="float32", shape=(None, None)),
        TensorConfig(name="e", dtype="float32", shape=None),
    )
    assert shared_symbols(signature) == (("n", (("a", 0), ("b", 1))), ("m", (("a", 1), ("c", 0), ("c", 1))))
    shapes = {"a": (2, 3), "b": (9, 2), "c": (3, 3), "d": (1, 7), "e": (4,)}
    good = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    check_inputs(signature, good)
    for name, shape, words in (("b", (9, 3), "size 3 for 'n' on dimension 1"), ("c", (3, 4), "size 4 for 'm' on dimension 1")):
        with pytest.raises(InputError, match=f"input '{name}': got {words}, expected ., which input 'a' has on dimension"):
            check_inputs(signature, {**good, name: np.zeros(shape, np.float32)})


def test_an_input_with_a_default_may_be_left_out():
    gain = TensorConfig(name="gain", dtype="float32", shape=(None,), default=np.array([2], np.float32))
    signature = (SIGNATURE[1], gain)
    assert check_inputs(signature, {"b b": 3})["gain"].tolist() == [2]
    assert check_inputs(signature, {"b b": 3, "gain": [5.0]})["gain"].tolist() == [5]
    with pytest.raises(InputError, match="'b b': got nothing"):
        check_inputs(signature, {"gain": [5.0]})
    with pytest.raises(InputError, match="'more': got an unknown name"):
        check_inputs(signature, {"b b": 3, "more": 1})


def test_a_default_does_not_disagree_with_what_was_given():
    """Its size is the file's, which onnxruntime spreads over any other."""
    mask = TensorConfig(name="mask", dtype="float32", shape=("n",), default=np.ones(1, np.float32))
    signature = (TensorConfig(name="x", dtype="float32", shape=("n",)), mask)
    assert check_inputs(signature, {"x": np.zeros(3, np.float32)})["mask"].shape == (1,)
    with pytest.raises(InputError, match="'mask': got size 2"):
        check_inputs(signature, {"x": np.zeros(3, np.float32), "mask": np.zeros(2, np.float32)})
