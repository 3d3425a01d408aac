"""The repository is what Triton's own messages can read, its stages are packages that run, and the impossible is refused."""

import json
import re
import warnings

import numpy as np
import pytest
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from cutset.codegen.export.triton import write_triton
from cutset.codegen.runtime import DegradedWarning
from cutset.codegen.runtime.replica import StageReplica
from cutset.errors import UsageError

PLACEMENT = {"dense": "gpu", "bias_add": "gpu", "softmax": "cpu"}
BATCHABLE = {"batching": {"proven": True}}
HOSTILE = '"; } # \n\\x\x01 é'


def configs(folder):
    files = sorted(folder.glob("model_repository/*/config.pbtxt"))
    found = [text_format.Parse(file.read_text("utf-8"), ModelConfig()) for file in files]
    assert [config.name for config in found] == [file.parent.name for file in files]
    return found


@pytest.fixture
def cnn(make_source, cnn_path):
    sample = {"x": np.random.default_rng(0).random((2, 3, 16, 16), np.float32)}
    stages = {0: {"service_s": 3.0}, 1: BATCHABLE, 2: {"service_s": 1.0}}
    return make_source(cnn_path, sample, PLACEMENT, name="The CNN", stages=stages, cpu_workers=4)


def test_the_ensemble_joins_the_stages(cnn, tmp_path):
    write_triton(cnn, tmp_path / "triton", "python")
    ensemble, *stages = configs(tmp_path / "triton")
    assert ensemble.name == "The~20CNN"
    assert [stage.name for stage in stages] == ["The~20CNN.00_cpu", "The~20CNN.01_gpu", "The~20CNN.02_cpu"]
    known = {tensor.name for tensor in ensemble.input}
    for step, stage in zip(ensemble.ensemble_scheduling.step, stages, strict=True):
        assert step.model_name == stage.name
        assert set(step.input_map) == {tensor.name for tensor in stage.input}
        assert set(step.input_map.values()) <= known
        assert set(step.output_map) == {tensor.name for tensor in stage.output}
        known |= set(step.output_map.values())
    assert {tensor.name for tensor in ensemble.output} <= known


def test_sizes_batches_and_instances(cnn, tmp_path):
    write_triton(cnn, tmp_path / "triton", "python")
    ensemble, first, second, third = configs(tmp_path / "triton")
    assert list(ensemble.input[0].dims) == [-1, 3, 16, 16]
    assert (first.max_batch_size, second.max_batch_size) == (0, 8)
    assert (len(first.output[0].dims), list(second.output[0].dims)) == (2, [5])
    assert second.HasField("dynamic_batching")
    assert not first.HasField("dynamic_batching")
    assert [config.instance_group[0].count for config in (first, second, third)] == [3, 1, 1]
    kinds = ModelInstanceGroup.Kind
    assert [c.instance_group[0].kind for c in (first, second)] == [kinds.KIND_CPU, kinds.KIND_AUTO]


def test_each_stage_is_a_package_that_runs_and_is_warmed_up_with_what_it_gets(cnn, tmp_path):
    write_triton(cnn, tmp_path / "triton", "python")
    repository = tmp_path / "triton" / "model_repository"
    tensors = dict(cnn.sample)
    for config in configs(tmp_path / "triton")[1:]:
        folder = repository / config.name
        (warm_up,) = config.model_warmup
        for name, given in warm_up.inputs.items():
            rows = tensors[name][:1] if config.max_batch_size else tensors[name]
            assert (folder / "warmup" / given.input_data_file).read_bytes() == rows.tobytes()
            assert list(given.dims) == list(rows.shape[1:] if config.max_batch_size else rows.shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegradedWarning)
            replica = StageReplica.load(folder / "1")
        (outputs,) = replica.run([tensors])
        replica.close()
        tensors |= outputs
    np.testing.assert_allclose(tensors["y"].sum(axis=1), 1, rtol=1e-5)


def test_the_onnxruntime_backend(cnn, tmp_path):
    write_triton(cnn, tmp_path / "triton", "onnxruntime")
    ensemble, first, second, _ = configs(tmp_path / "triton")
    assert ensemble.platform == "ensemble"
    assert (first.backend, second.instance_group[0].kind) == ("onnxruntime", ModelInstanceGroup.Kind.KIND_GPU)
    assert first.parameters["intra_op_thread_count"].string_value == "1"
    version = tmp_path / "triton" / "model_repository" / first.name / "1"
    assert [path.name for path in version.iterdir()] == ["model.onnx"]


def test_the_sample_for_perf_analyzer_and_the_readme(cnn, tmp_path):
    write_triton(cnn, tmp_path / "triton", "python")
    (entry,) = json.loads((tmp_path / "triton" / "perf_analyzer.json").read_text())["data"]
    assert entry["x"]["shape"] == [2, 3, 16, 16]
    readme = (tmp_path / "triton" / "README.md").read_text("utf-8")
    assert "perf_analyzer -m 'The~20CNN'" in readme
    assert "stage 1, planned for the GPU, 1 instance, up to 8 rows a run" in readme


def test_names_and_texts_of_a_model_are_quoted(make_source, save_model, tmp_path):
    nodes = [helper.make_node("StringConcat", [HOSTILE, "suffix"], [f"{HOSTILE} out"], name=HOSTILE)]
    text = TensorProto.STRING, []
    path = save_model(nodes, [(HOSTILE, *text)], [(f"{HOSTILE} out", *text)], {"suffix": np.array("!", object)})
    source = make_source(path, {HOSTILE: np.array("a", object)}, {}, name=HOSTILE.replace("\n", "").replace("\x01", ""))
    write_triton(source, tmp_path / "triton", "python")
    ensemble, stage = configs(tmp_path / "triton")
    assert re.fullmatch(r"[A-Za-z0-9~_-]+", ensemble.name)
    assert (stage.input[0].name, list(stage.input[0].dims)) == (HOSTILE, [1])
    assert (stage.output[0].name, list(ensemble.output[0].dims)) == (f"{HOSTILE} out", [1])


@pytest.mark.parametrize(
    ("backend", "kind", "reason"),
    [("onnxruntime", TensorProto.FLOAT, "custom operators"), ("python", TensorProto.BFLOAT16, "`x` is bfloat16")],
)
def test_what_a_backend_cannot(make_source, save_model, tmp_path, backend, kind, reason):
    path = save_model([helper.make_node("Identity", ["x"], ["y"], name="same")], [("x", kind, [2])], [("y", kind, [2])])
    source = make_source(path, {"x": np.zeros(2)}, {}, custom_ops=[{"module": "onnxruntime_extensions"}])
    with pytest.raises(UsageError, match=reason) as caught:
        write_triton(source, tmp_path / "triton", backend)
    assert "try --triton-backend" in caught.value.hint
    assert not (tmp_path / "triton").exists()


def test_tritons_onnxruntime_would_take_dropout_out(make_source, save_model, tmp_path):
    weights = {"ratio": np.float32(0.5), "on": np.array(True)}
    nodes = [helper.make_node("Dropout", ["x", "ratio", "on"], ["y"], name="drop")]
    path = save_model(nodes, [("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])], weights)
    source = make_source(path, {"x": np.zeros(2, np.float32)}, {})
    with pytest.raises(UsageError, match="a Dropout that draws"):
        write_triton(source, tmp_path / "triton", "onnxruntime")
    write_triton(source, tmp_path / "triton", "python")


@pytest.mark.parametrize("abs_on", ["cpu", "gpu"])
def test_an_input_that_nothing_reads(make_source, save_model, tmp_path, abs_on):
    info = TensorProto.FLOAT, [2]
    nodes = [helper.make_node("Neg", ["x"], ["h"], name="neg"), helper.make_node("Abs", ["h"], ["y"], name="abs")]
    path = save_model(nodes, [("x", *info), ("z", *info)], [("y", *info)])
    source = make_source(path, {"x": np.ones(2, "f"), "z": np.ones(2, "f")}, {"abs": abs_on})
    if abs_on == "cpu":  # left whole, the model itself asks for it
        write_triton(source, tmp_path / "triton", "python")
        return
    with pytest.raises(UsageError, match="no stage reads the input `z`"):
        write_triton(source, tmp_path / "triton", "python")
