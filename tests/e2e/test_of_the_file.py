"""What a file holds beside its graph reaches the server: inputs that may be left out, and what the file says about itself."""

import json
import urllib.request

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.grpc_messages import MESSAGES
from tests.e2e.harness import package_of
from tests.e2e.test_runtime_grpc import running, triton

grpc_library = pytest.importorskip("grpc", reason="the extra `grpc` is not installed")
FLOAT = TensorProto.FLOAT
METADATA = {"names": "{0: 'cat', 1: 'dög'}", "stride": "32", "<img onerror=alert(1)>": '"; rm -rf /\n'}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "gain": np.array([1], np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv", pads=[1] * 4),
        helper.make_node("Mul", ["a", "gain"], ["b"], name="mul"),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["batch", 3, 8, 8]), helper.make_tensor_value_info("gain", FLOAT, [1])]
    outputs = [helper.make_tensor_value_info("y", FLOAT, ["batch", 8, 8, 8])]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(made, METADATA)
    path = tmp_path_factory.mktemp("of-the-file") / "scaled.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture(scope="module", params=["split", "whole"])
def package(request, model, long_cutset):
    pins = ("--pin", "conv=gpu", "--pin", "mul=cpu") if request.param == "split" else ("--pin", "*=cpu")
    done = long_cutset.partition(model, model.parent / request.param, *pins)
    assert done.code == 0, done.err
    assert done.json["verification"]["passed"]
    return package_of(model.parent / request.param / "serving")


FEEDS = [{}, {"gain": np.array([5], np.float32)}]


def whole(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


@pytest.mark.filterwarnings("ignore::cutset.codegen.runtime.DegradedWarning")
def test_an_input_with_a_default_is_taken_and_may_be_left_out(model, package):
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    with Pipeline.load(package) as pipeline, running(pipeline) as (grpc, http):
        answers = []
        for given in FEEDS:
            feeds = {"x": x, **given}
            expected = whole(model, feeds)
            tensors = [triton.InferInput(name, list(array.shape), "FP32") for name, array in feeds.items()]
            for tensor, array in zip(tensors, feeds.values(), strict=True):
                tensor.set_data_from_numpy(array)
            with triton.InferenceServerClient(grpc) as client:
                found = client.infer("scaled", tensors).as_numpy("y")
            body = {"inputs": [
                {"name": name, "datatype": "FP32", "shape": list(array.shape), "data": array.ravel().tolist()}
                for name, array in feeds.items()
            ]}  # fmt: skip
            asked = urllib.request.Request(f"http://{http}/v2/models/scaled/infer", json.dumps(body).encode())
            with urllib.request.urlopen(asked) as answer:
                over_http = np.array(json.load(answer)["outputs"][0]["data"], np.float32).reshape(found.shape)
            for one in (pipeline.run(feeds)["y"], found, over_http):
                np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-5)
            answers.append(found)
        assert not np.allclose(*answers)


@pytest.mark.filterwarnings("ignore::cutset.codegen.runtime.DegradedWarning")
def test_what_the_file_says_is_announced_and_in_every_stage(package):
    expected = METADATA | {"optional_inputs": '["gain"]'}
    with Pipeline.load(package) as pipeline, running(pipeline) as (grpc, http):
        with urllib.request.urlopen(f"http://{http}/v2/models/scaled") as answer:
            assert json.load(answer)["properties"] == expected
        with urllib.request.urlopen(f"http://{http}/v2/models/scaled/config") as answer:
            assert [entry.get("optional", False) for entry in json.load(answer)["input"]] == [False, True]
        with triton.InferenceServerClient(grpc) as client:
            assert [tensor.name for tensor in client.get_model_metadata("scaled").inputs] == ["x", "gain"]
            assert [entry.optional for entry in client.get_model_config("scaled").config.input] == [False, True]
        with grpc_library.insecure_channel(grpc) as channel:
            read = MESSAGES["ModelMetadataResponse"].FromString
            ask = channel.unary_unary("/inference.GRPCInferenceService/ModelMetadata", response_deserializer=read)
            assert dict(ask(MESSAGES["ModelMetadataRequest"](name="scaled").SerializeToString()).properties) == expected
        assert dict(pipeline.plan.metadata) == METADATA
    stages = sorted((package / "stages").glob("*.onnx"))
    assert stages
    for stage in stages:
        assert {entry.key: entry.value for entry in onnx.load(stage).metadata_props} == METADATA


def test_listed_weights_are_said_to_be_frozen(model, long_cutset, tmp_path):
    listed = onnx.load(model)
    listed.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [8, 3, 3, 3]))
    path = tmp_path / "listed.onnx"
    path.write_bytes(listed.SerializeToString())
    done = long_cutset.partition(path, tmp_path / "out", "--pin", "*=cpu")
    assert done.code == 0, done.err
    assert done.json["frozen_inputs"] == ["gain", "w"]
    assert "`gain`, `w` are frozen" in " ".join(done.err.split())
    assert [entry["name"] for entry in done.json["inputs"]] == ["x"]


@pytest.mark.filterwarnings("ignore::cutset.codegen.runtime.DegradedWarning")
def test_a_model_in_a_hubs_cache_is_served(model, long_cutset, tmp_path):
    """The model and its weights are links into one folder of blobs, whose names say nothing."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    onnx.save(onnx.load(model), blobs / "aaa", save_as_external_data=True, location="scaled.onnx_data", size_threshold=0)
    (blobs / "scaled.onnx_data").rename(blobs / "bbb")
    for name, blob in (("scaled.onnx", "aaa"), ("scaled.onnx_data", "bbb")):
        (snapshot / name).symlink_to(blobs / blob)
    pins = ("--pin", "conv=gpu", "--pin", "mul=cpu")
    done = long_cutset.partition(snapshot / "scaled.onnx", tmp_path / "out", *pins, "--emit", "ort")
    assert done.code == 0, done.err
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    with (
        Pipeline.load(package_of(tmp_path / "out" / "serving")) as pipeline,
        running(pipeline) as (grpc, _),
        triton.InferenceServerClient(grpc) as client,
    ):
        found = client.infer("scaled", [tensor]).as_numpy("y")
    np.testing.assert_allclose(found, whole(model, {"x": x}), rtol=1e-5, atol=1e-5)
    assert np.array_equal(whole(tmp_path / "out" / "ort" / "annotated.onnx", {"x": x}), whole(model, {"x": x}))
