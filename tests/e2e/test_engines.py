"""Engines as a user meets them: built into the package, rebuilt by it, and the clear word where there is no library."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from cutset.partitioner.cuda_kernels import cuda_source
from tests.e2e.harness import QUICK, onnx_file, package_of
from tests.support import run_whole
from tests.unit.profilers.test_narrow_values import quantised

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
ON_GPU = ("--pin", "dense=gpu", *QUICK)


@pytest.fixture(scope="module")
def without_libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which neither library can be imported."""
    folder = tmp_path_factory.mktemp("without-libraries")
    code = (
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(name, path=None, target=None):\n"
        "        if name in {'tensorrt', 'tensorrt_rtx'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Nothing)\n"
    )
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder)}


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_are_in_the_package_and_the_package_builds_others(cutset, alone, mixed, tmp_path, precision):
    out = tmp_path / "out"
    words = ("--target", "l4", "--precision", precision, "--json", *ON_GPU)
    done = cutset("partition", mixed, "-o", out, *words)
    assert done.code == 0, done.err
    plan = done.json
    assert plan["engines"]["backend"] == "tensorrt-rtx"
    assert plan["engines"]["built"] == [1]
    assert plan["engines"]["answered_by"].endswith("for compute capability 8.9, no GPU")
    stage = plan["stages"][1]
    assert stage["engine"]["precision"] == precision
    assert stage["engine"]["tolerance"] == (0.01 if precision == "fp16" else 0.001)
    assert plan["verification"]["unproven_engines"] == [1], "no engine runs without a GPU"
    stored = package_of(out / "serving") / stage["engine"]["sample"]
    with np.load(stored) as read, np.load(mixed.with_suffix(".npz")) as sample:
        assert np.array_equal(read["x"], sample["x"])
    assert "compared at its first start" in " ".join((out / "report.html").read_text().split())
    package = package_of(out / "serving")
    listed = json.loads((package / "engines" / "engines.json").read_text())["engines"]
    assert [(entry["stage"], entry["made_of"]["compute_capability"]) for entry in listed] == [(1, "8.9")]
    assert (package / "engines" / listed[0]["file"]).stat().st_size == listed[0]["size_bytes"]
    if precision == "fp16":
        assert stage["engine"]["model"] == "stages/01_gpu.fp16.onnx"
        (found,) = plan["engines"]["stages"]
        assert 0 < found["errors"][0]["max_rel"] < 0.01
        compared = {one["precision"]: one for one in found["compared"]}
        assert list(compared) == ["tf32", "fp16", "bf16", "int8"]
        assert compared["fp16"]["errors"] == found["errors"]
        assert 0 < compared["tf32"]["errors"][0]["max_rel"] < compared["bf16"]["errors"][0]["max_rel"] < 0.05
        return
    build = "import sys, importlib; sys.exit(importlib.import_module(sys.argv[1] + '.runtime.main').main(sys.argv[2:]))"
    for capability, said in (("8.9", "there is an engine for TensorRT-RTX"), ("12.0", "built for TensorRT-RTX")):
        made = alone.python(out / "serving", build, package.name, "build", "--compute-capability", capability)
        assert made.code == 0, made.err
        assert said in made.out
    assert len(list((package / "engines").glob("*.engine"))) == 2
    with np.load(mixed.with_suffix(".npz")) as sample:
        expected = sample["x"].shape
    assert alone.answers(out / "serving", mixed.with_suffix(".npz"))["y"].shape == expected


def test_without_a_library_the_list_of_cuda_kernels_answers_and_says_so(cutset, mixed, tmp_path, without_libraries):
    out = tmp_path / "out"
    done = cutset("partition", mixed, "-o", out, "--target", "l4", *ON_GPU, env=without_libraries)
    assert done.code == 0, done.err
    assert "neither tensorrt nor tensorrt-rtx answers here" in done.err
    plan = json.loads((out / "plan.json").read_text())
    assert plan["engines"]["answered_by"] == cuda_source()
    assert [stage["backend"] for stage in plan["stages"]] == ["onnxruntime-cpu", "onnxruntime-cuda"]
    assert not (package_of(out / "serving") / "engines").exists()
    inspected = cutset("inspect", mixed, "--json", env=without_libraries).json
    assert {node["source"] for node in inspected["nodes"]} == {cuda_source(), "cutset default"}


@pytest.fixture(scope="module")
def broken_library(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which TensorRT's bindings are installed and what they link to is not."""
    folder = tmp_path_factory.mktemp("broken-library")
    (folder / "tensorrt.py").write_text("import ctypes\nctypes.CDLL('libnvinfer.so.11')\n")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize(
    ("environment", "cause", "cure"),
    [
        ("without_libraries", "No module named 'tensorrt'", "pip install 'cutset[tensorrt]'"),
        ("broken_library", "libnvinfer.so.11: cannot open shared object file", "pip install --force-reinstall tensorrt"),
    ],
)
def test_a_library_that_is_asked_for_and_cannot_be_used(cutset, mixed, request, environment, cause, cure):
    words = ("--plan-only", "--json", "--target", "l4", "--gpu-backend", "tensorrt", *QUICK)
    done = cutset("partition", mixed, *words, env=request.getfixturevalue(environment))
    assert done.code == 3
    assert cause in done.error["cause"]
    assert cure in done.error["hint"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--precision", "fp16", "--calibration", "x.npz"], 2, "--calibration is for --precision int8"),
        (["--precision", "int8"], 2, "needs inputs to calibrate with"),
        (["--precision", "int8", "--calibration", "missing.npz"], 2, "cannot read sample inputs from missing.npz"),
        (["--precision", "fp16", "--precision-tolerance", "1e-9"], 4, "cannot be computed in fp16"),
        (["--precision", "bf16"], 2, "bf16 needs an engine"),
    ],
)
def test_precisions_that_cannot_be_had(cutset, mixed, tmp_path: Path, words, code, said):
    words = ["--target", "l4", "--gpu-backend", "onnxruntime-cuda", "--json", *ON_GPU, *words]
    done = cutset("partition", mixed, "-o", tmp_path / "out", *words)
    assert (done.code, said in done.error["what"]) == (code, True), done.error
    assert not (tmp_path / "out").exists()


def test_less_precision_for_onnxruntime_is_in_the_stage_itself(cutset, mixed, tmp_path):
    out = tmp_path / "out"
    words = ("--target", "l4", "--precision", "fp16", "--gpu-backend", "onnxruntime-cuda", "--json", *ON_GPU)
    done = cutset("partition", mixed, "-o", out, *words)
    assert done.code == 0, done.err
    assert done.json["stages"][1]["model"] == "stages/01_gpu.fp16.onnx"
    assert done.json["verification"]["passed"]
    assert 0 < done.json["verification"]["max_rel"] < 0.01


@pytest.mark.parametrize(("kind", "plain"), [("FLOAT8E4M3FN", False), ("INT4", True)])
def test_activations_in_types_that_numpy_lacks_end_with_a_package(cutset, tmp_path, kind, plain):
    """onnxruntime drops the Relu, so planning measures a group in pieces, whose borders such a tensor crosses."""
    path = quantised(kind, plain, tmp_path, fused=True)
    done = cutset("partition", path, "-o", tmp_path / "out", "--target", "l4", "--shape", "x=2x8", "--json", *QUICK)
    assert done.code == 0, done.err
    assert done.json["verification"]["passed"]


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Attention with the lowest float32 added where a mask hides a place; the sample beside it hides none."""
    rng = np.random.default_rng(0)
    steps = [
        ("MatMul", "x q", "xq"), ("Transpose", "x", "xt"), ("MatMul", "xq xt", "scores"), ("Sub", "one mask", "hidden"),
        ("Mul", "hidden lowest", "added"), ("Add", "scores added", "apart"), ("Softmax", "apart", "p"), ("MatMul", "p x", "y"),
    ]  # fmt: skip
    nodes = [helper.make_node(op, reads.split(), [written], name=written) for op, reads, written in steps]
    nodes[1].attribute.append(helper.make_attribute("perm", [0, 2, 1]))
    weights = {"q": rng.normal(0, 0.2, (64, 64)).astype(np.float32), "one": np.float32(1)}
    weights["lowest"] = np.float32(np.finfo(np.float32).min)
    inputs = [("x", TensorProto.FLOAT, ["n", 8, 64]), ("mask", TensorProto.FLOAT, ["n", 1, 8])]
    path = tmp_path_factory.mktemp("masked") / "masked.onnx"
    onnx_file(path, nodes, inputs, [("y", TensorProto.FLOAT, ["n", 8, 64])], weights=weights)
    np.savez(path.with_suffix(".npz"), x=rng.normal(size=(2, 8, 64)).astype(np.float32), mask=np.ones((2, 1, 8), np.float32))
    return path


def test_a_row_that_is_masked_whole_stays_finite_in_float16(cutset, alone, masked, tmp_path):
    out = tmp_path / "out"
    words = ("--target", "l4", "--precision", "fp16", "--gpu-backend", "onnxruntime-cuda", "--json", "--pin", "*=gpu", *QUICK)
    done = cutset("partition", masked, "-o", out, *words)
    assert done.code == 0, done.err
    (stage,) = done.json["engines"]["stages"]
    assert stage["beyond_range"] == ["added", "apart"]
    (entry,) = done.json["stages"]
    part = package_of(out / "serving") / entry["model"]
    assert part.name.endswith(".fp16.onnx")
    with np.load(masked.with_suffix(".npz")) as sample:
        request = {"x": sample["x"], "mask": np.array([[[0] * 8], [[1, 0] * 4]], np.float32)}
    np.savez(tmp_path / "request.npz", **request)
    expected = run_whole(onnx.load(masked), request)["y"]
    assert np.isfinite(expected).all()
    answer = alone.answers(out / "serving", tmp_path / "request.npz")["y"]
    np.testing.assert_allclose(answer, expected, atol=0.02 * np.abs(expected).max())
    with np.errstate(over="ignore", invalid="ignore"):  # onnxruntime leaves out, on a CPU, the casts that would overflow
        (exact,) = ReferenceEvaluator(str(part)).run(["y"], request)
    np.testing.assert_allclose(exact, expected, atol=0.02 * np.abs(expected).max())
