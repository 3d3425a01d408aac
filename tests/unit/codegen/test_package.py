"""An emitted folder is complete, proven and described by its manifest; one that cannot be proven never appears."""

import json
import keyword
import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen import package
from cutset.codegen.package import EmitOptions, emit, package_name
from cutset.digest import sha256_file
from cutset.errors import UsageError, VerificationError
from cutset.graph.load import load
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import parse_pin, resolve
from cutset.partitioner.planner import plan
from cutset.partitioner.support import gpu_support
from cutset.profilers.datasheets import datasheet
from cutset.profilers.inputs import collect
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from tests.support import load_pipeline


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet-50", "resnet_50_serving"),
        ("ResNet 50.v2", "resnet_50_v2_serving"),
        ("50cent", "m_50cent_serving"),
        ("", "m_serving"),
        ("../../etc/passwd", "etc_passwd_serving"),
        ("日本", "m_serving"),
        ("--force", "force_serving"),
        ("a\nb", "a_b_serving"),
        ("$(reboot)", "reboot_serving"),
        ("class", "class_serving"),
        ("___", "m_serving"),
        ("x" * 255, "x" * 100 + "_serving"),
    ],
)
def test_the_name_of_a_package(name, expected):
    assert package_name(name) == expected


@given(st.text(max_size=300))
def test_any_name_makes_a_module(name):
    found = package_name(name)
    assert re.fullmatch(r"[a-z_][a-z0-9_]*", found)
    assert found.isidentifier()
    assert not keyword.iskeyword(found)
    assert len(found) < 128


@pytest.fixture(scope="module")
def costed(cnn_path):
    """A graph, its samples and its costs."""
    graph = load(cnn_path)
    samples = collect(graph.inputs, model=cnn_path)
    graph, table = profile(graph, samples.samples[0], target=datasheet("t4"), options=ProfileOptions(budget_s=0.02))
    return graph, samples, table


def forced_plan(graph, table, name, *pins):
    """A plan whose placement the pins decide."""
    found = resolve(graph, [parse_pin(pin) for pin in pins])
    options = PlanOptions(name=name, machine=Machine(cpu_workers=1, cores=2))
    return plan(graph, table, gpu_support(graph), found, options)


def write(costed, target, graph=None, **options):
    whole, samples, table = costed
    pins = ["conv1=cpu", "relu1=cpu", "conv2=gpu", "skip=gpu", "relu2=gpu", "pool=gpu", "*_add=cpu", "softmax=cpu"]
    made = forced_plan(whole, table, "The CNN", *pins)
    return emit(graph or whole, made, table, samples, target, EmitOptions(**options))


@pytest.fixture(scope="module")
def emitted(costed, tmp_path_factory):
    target = tmp_path_factory.mktemp("emit") / "out"
    said = []
    proof = write(costed, target, command=["cutset", "partition"], seconds={"load": 0.12345}, progress=said.append)
    return target, proof, said


def test_what_is_written(emitted):
    target, _, said = emitted
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    package_files = {
        name.removeprefix("serving/the_cnn_serving/") for name in files if name.startswith("serving/the_cnn_serving/")
    }
    assert {"plan.json", "profile.json", "report.html", "manifest.json", "serving/pyproject.toml", "serving/README.md"} <= files
    assert {"plan.json", "stages/00_cpu.onnx", "stages/01_gpu.onnx", "stages/02_cpu.onnx", "__main__.py"} <= package_files
    runtime = {path.relative_to(package.RUNTIME).as_posix() for path in package.RUNTIME.rglob("*.py")}
    assert {name.removeprefix("runtime/") for name in package_files if name.startswith("runtime/")} == runtime
    assert not [name for name in files if "__pycache__" in name or name.endswith(".pyc")]
    assert said == [
        "writing the stages",
        "proving which stages can be batched",
        "trying inputs of no rows",
        "verifying that the parts equal the whole",
    ]


def test_the_manifest_lists_every_file(emitted):
    target, _, _ = emitted
    manifest = json.loads((target / "manifest.json").read_text("utf-8"))
    files = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == files - {"manifest.json"}
    assert all(sha256_file(target / name) == digest for name, digest in manifest["files"].items())
    assert manifest["command"] == ["cutset", "partition"]
    assert manifest["seconds"] == {"load": 0.123}


def test_the_proof_is_in_the_plan(emitted):
    target, proof, _ = emitted
    assert proof.passed
    documents = [json.loads(path.read_text("utf-8")) for path in sorted(target.rglob("plan.json"))]
    assert len(documents) == 2
    assert documents[0] == documents[1]
    assert documents[0]["verification"]["passed"] is True
    assert documents[0]["verification"]["samples"] == proof.samples == 3


def test_the_package_runs(emitted, costed):
    _, samples, _ = costed
    with load_pipeline(emitted[0] / "serving" / "the_cnn_serving") as pipeline:
        got = pipeline.run(samples.samples[1])["y"]
    assert got.shape == (1, 5)
    assert got.sum() == pytest.approx(1, rel=1e-5)


def test_an_existing_folder_is_not_replaced(emitted, costed):
    before = sha256_file(emitted[0] / "manifest.json")
    with pytest.raises(UsageError, match="already exists"):
        write(costed, emitted[0])
    assert sha256_file(emitted[0] / "manifest.json") == before


def test_parts_that_differ_leave_nothing(costed, tmp_path, monkeypatch):
    real = package.write_stages

    def damaged(graph, stages, folder):
        files = real(graph, stages, folder)
        model = onnx.load(files[-1])
        weight = next(tensor for tensor in model.graph.initializer if tensor.name == "bias")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32([1, 1, 3, 1, 1]), "bias"))
        onnx.save(model, files[-1])
        return files

    monkeypatch.setattr(package, "write_stages", damaged)
    with pytest.raises(VerificationError, match="output `y` of the parts differs") as caught:
        write(costed, tmp_path / "new" / "out")
    assert "drawn at random" in caught.value.where
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_its_weights_outside(cnn_path, costed, tmp_path):
    (tmp_path / "model").mkdir()
    path = tmp_path / "model" / "cnn.onnx"
    onnx.save(onnx.load(cnn_path), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert write(costed, tmp_path / "out", graph=load(path)).passed


def test_random_outputs_are_left_out_of_the_proof(save_model, tmp_path):
    """Their numbers depend on the place of the node in its session, so no split gives the whole model's."""
    info = TensorProto.FLOAT, [1, 4]
    nodes = [
        helper.make_node("Abs", ["x"], ["a"], name="abs"),
        helper.make_node("RandomNormalLike", ["a"], ["noise"], name="random"),
        helper.make_node("Neg", ["a"], ["y"], name="neg"),
    ]
    path = save_model(nodes, [("x", *info)], [("noise", *info), ("y", *info)])
    graph = load(path)
    samples = collect(graph.inputs, model=path)
    graph, table = profile(graph, samples.samples[0], target=datasheet("t4"), options=ProfileOptions(budget_s=0.02))
    made = forced_plan(graph, table, "noisy", "abs=gpu", "neg=gpu", "random=cpu")
    proof = emit(graph, made, table, samples, tmp_path / "out", EmitOptions())
    assert (proof.outputs, proof.unrepeatable) == (("y",), ("noise",))


def test_custom_operator_libraries_travel(costed, tmp_path):
    library = tmp_path / "lib; rm -rf.so"
    library.write_bytes(b"\x7fELF")
    graph = replace(costed[0], custom_ops=("/site/onnxruntime_extensions/_ext.so", str(library)))
    found = package._copy_custom_ops(graph, tmp_path)
    assert found == [{"module": "onnxruntime_extensions"}, {"file": "custom_ops/01.so"}]
    assert (tmp_path / "custom_ops" / "01.so").read_bytes() == b"\x7fELF"


@pytest.mark.parametrize("training", [True, False])
def test_dropout_that_is_meant_to_draw_still_draws_in_the_package(save_model, tmp_path, training):
    """ONNX Runtime takes every Dropout out, except where it writes an output of a stage: both must be one model."""
    weights = {"w": np.eye(64, dtype=np.float32), "ratio": np.float32(0.5), "training": np.array(training)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Dropout", ["a", "ratio", "training"], ["d"], name="drop"),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="last"),
    ]
    path = save_model(nodes, [("x", TensorProto.FLOAT, ["n", 64])], [("y", TensorProto.FLOAT, ["n", 64])], weights)
    graph = load(path)
    samples = collect(graph.inputs, model=path)
    graph, table = profile(graph, samples.samples[0], target=datasheet("t4"), options=ProfileOptions(budget_s=0.02))
    for name, pins in (("cut", ["first=cpu", "drop=cpu", "last=gpu"]), ("whole", ["first=cpu", "drop=cpu", "last=cpu"])):
        made = forced_plan(graph, table, name, *pins)
        proof = emit(graph, made, table, samples, tmp_path / name, EmitOptions())
        assert proof.unrepeatable == (("y",) if training else ())
        with load_pipeline(tmp_path / name / "serving" / f"{name}_serving") as pipeline:
            feeds = {"x": np.ones((1, 64), np.float32)}
            first, second = (pipeline.run(feeds)["y"] for _ in range(2))
        assert np.array_equal(first, second) != training
