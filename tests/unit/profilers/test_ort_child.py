"""Sessions as the measuring child runs them, here on the CPU provider."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cutset.errors import ModelError, ProfileError, UnavailableError
from cutset.profilers.ort_child import CUDA_PROVIDER, SessionJob, bound_run, time_session, trace_session


def job(path, feed, **settings):
    return SessionJob(model=path, feed=feed, budget_s=0.0, **settings)


IMAGE = {"x": np.ones((2, 3, 16, 16), np.float32)}


def test_a_session_is_timed(cnn_path):
    found = time_session(job(cnn_path, IMAGE))
    assert 0 < found.latency.p10 <= found.latency.median
    assert (found.device_bytes, found.state) == (None, None)


def test_a_trace_names_kernels_and_their_provider(cnn_path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    events = trace_session(job(cnn_path, IMAGE, level="none"))
    assert {event.name for event in events} >= {"conv1", "relu1", "softmax"}
    assert {event.provider for event in events} == {"CPUExecutionProvider"}
    assert list(tmp_path.iterdir()) == [], "onnxruntime's trace must not stay behind"


def test_the_optimised_graph_is_saved(cnn_path, tmp_path):
    trace_session(job(cnn_path, IMAGE, optimised_model=tmp_path / "optimised.onnx"))
    assert (tmp_path / "optimised.onnx").stat().st_size > 0


def test_models_and_inputs_that_are_refused(cnn_path, tmp_path):
    with pytest.raises(ProfileError, match="cannot run"):
        time_session(job(cnn_path, {"x": np.ones((1, 9, 16, 16), np.float32)}))
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError):
        time_session(job(tmp_path / "m.onnx", {}))


def test_cuda_that_is_not_there(cnn_path):
    if CUDA_PROVIDER in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(UnavailableError, match="was built without CUDA") as caught:
        trace_session(job(cnn_path, IMAGE, cuda_device=0))
    assert "onnxruntime-gpu" in caught.value.hint


@pytest.mark.parametrize("text", [False, True])
def test_every_kind_of_value_can_be_fed(save_model, text):
    kinds = {
        "f": (TensorProto.FLOAT, np.arange(6, dtype=np.float32).reshape(2, 3).T),
        "i": (TensorProto.INT64, np.array(5)),
        "b": (TensorProto.BFLOAT16, np.array([1.5, 2.5], ml_dtypes.bfloat16)),
        "t": (TensorProto.BOOL, np.array([True])),
    }
    if text:  # which cannot be bound, as bfloat16 cannot be run without
        kinds["b"] = (TensorProto.STRING, np.array(["a", "bc"], object))
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds]
    inputs = [(name, kind, list(array.shape)) for name, (kind, array) in kinds.items()]
    outputs = [(f"{name}_out", kind, list(array.shape)) for name, (kind, array) in kinds.items()]
    session = ort.InferenceSession(save_model(nodes, inputs, outputs), providers=["CPUExecutionProvider"])
    bindings = []
    spy = SimpleNamespace(
        io_binding=lambda: bindings.append(session.io_binding()) or bindings[-1], get_outputs=session.get_outputs,
        get_inputs=session.get_inputs, run=session.run, run_with_iobinding=session.run_with_iobinding,
    )  # fmt: skip
    found = bound_run(spy, {name: array for name, (_, array) in kinds.items()}, "cpu", 0)()
    if not text:
        (binding,) = bindings
        values = zip(kinds, binding.get_outputs(), strict=True)
        found = {f"{name}_out": value.numpy() for name, value in values if value.data_type() != "tensor(bfloat16)"}
    for name, (_, array) in kinds.items():
        if name != "b" or text:
            np.testing.assert_array_equal(found[f"{name}_out"], array)


def test_a_bound_run_that_fails(cnn_path):
    session = ort.InferenceSession(cnn_path, providers=["CPUExecutionProvider"])
    call = bound_run(session, {"x": np.ones((1, 9, 16, 16), np.float32)}, "cpu", 0)
    with pytest.raises(ProfileError, match="cannot run the model on the device"):
        call()
