"""Sessions run as they are deployed, and every refusal of onnxruntime becomes an error with a way out."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cutset.errors import ModelError, ProfileError, UnavailableError
from cutset.profilers.session import explain_refusal, open_session, register_libraries, run, session_options

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def square(save_model):
    path = save_model([helper.make_node("MatMul", ["x", "w"], ["y"])], [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 4])],
                      {"w": 2 * np.eye(4, dtype=np.float32)})  # fmt: skip
    return open_session(path)


def test_options_are_the_deployed_ones():
    options = session_options(threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    plain = session_options(level="none")
    assert plain.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_outputs_by_name(square):
    assert run(square, {"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[2, 2, 2, 2]]
    assert list(run(square, {"x": np.ones((1, 4), np.float32)}, ["y"])) == ["y"]


@pytest.mark.parametrize(
    "inputs",
    [{}, {"z": np.ones(1)}, {"x": np.ones((1, 4))}, {"x": np.ones((1, 5), np.float32)}, {"x": np.ones(4, np.float32)}],
    ids=["none", "name", "type", "size", "rank"],
)
def test_inputs_that_the_model_refuses(square, inputs):
    with pytest.raises(ProfileError, match="cannot run the model") as caught:
        run(square, inputs)
    assert "--inputs" in caught.value.hint
    assert "\n" not in caught.value.cause
    for array in inputs.values():
        assert f"{array.dtype}{list(array.shape)}" in caught.value.where


def test_an_unknown_operator_is_named(save_model):
    nodes = [helper.make_node("Magic", ["x"], ["y"], domain="acme")]
    path = save_model(nodes, [("x", FLOAT, [1])], [("y", FLOAT, [1])], opsets={"": 20, "acme": 1})
    with pytest.raises(ModelError, match=r"operator acme[.:]Magic") as caught:
        open_session(path)
    assert caught.value.where == str(path)
    assert "--custom-ops" in caught.value.hint


def test_a_model_that_does_not_load():
    with pytest.raises(ModelError, match="does not load"):
        open_session(b"not a model", where="here")


def test_a_missing_kernel_is_said():
    error = explain_refusal(
        "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED :\n Could not find an implementation for Foo(1)", where="m"
    )
    assert "no kernel" in error.what
    assert "Foo(1)" in error.cause


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF"])
def test_a_library_that_cannot_be_loaded(tmp_path, content):
    path = tmp_path / "lib.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnavailableError, match="cannot be loaded") as caught:
        register_libraries(session_options(), [str(path)])
    assert "--custom-ops" in caught.value.hint
