"""The engine backend: its copies and shapes over a driver made of host memory, its fallbacks, and the names that it calls."""

import ast
import importlib
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from cutset.codegen.runtime.backends import build_command, engine_build, engine_compile, tensorrt, tensorrt_run
from cutset.codegen.runtime.backends.base import BackendError
from cutset.codegen.runtime.backends.engine_build import BuildJob, build_apart
from cutset.codegen.runtime.backends.engine_cache import Builder, EngineCache
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.codegen.runtime.pipeline import Pipeline
from cutset.profilers.child import Failure, Limits, run_in_child
from tests.unit.codegen.runtime.fake_library import call_driver, run_engine, stage_in

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
BINDINGS = ("10.13.3.9.post1", "10.15.1.29", "11.4.0.106")
CALLED = {
    "ICudaEngine": [
        "create_execution_context", "num_io_tensors", "get_tensor_name", "get_tensor_dtype", "get_tensor_location",
        "get_tensor_profile_shape", "device_memory_size_v2",
    ],
    "IExecutionContext": [
        "set_input_shape", "set_tensor_address", "set_output_allocator", "get_max_output_size", "get_tensor_shape",
        "execute_async_v3", "set_device_memory",
    ],
    "Runtime": ["deserialize_cuda_engine"],
    "Builder": ["create_network", "create_builder_config", "create_optimization_profile", "build_serialized_network"],
    "INetworkDefinition": ["num_inputs", "get_input", "num_layers", "get_layer"],
    "ITensor": ["name", "shape", "is_shape_tensor"],
    "ILayer": ["metadata"],
    "OnnxParser": ["parse", "parse_from_file", "num_errors", "get_error"],
    "ParserError": ["node_operator", "desc"],
    "IBuilderConfig": [
        "set_flag", "clear_flag", "create_timing_cache", "set_timing_cache", "get_timing_cache", "profiling_verbosity",
        "add_optimization_profile",
    ],
    "IOptimizationProfile": ["set_shape", "set_shape_input"],
    "ITimingCache": ["combine", "serialize"],
    "DataType": ["FLOAT", "HALF", "BF16", "INT8", "INT32", "INT64", "UINT8", "BOOL"],
}  # fmt: skip


def test_inputs_and_outputs_of_any_size(fake_driver, tmp_path):
    found = run_in_child(run_engine, tmp_path, limits=Limits(time_s=60), environment={"LD_LIBRARY_PATH": str(fake_driver)})
    assert not isinstance(found, Failure), found
    assert found["gpu"][:2] == ("Fake GPU", "8.9")
    assert found["runs"] == [(True, rows, "int64", ()) for rows in (2, 8, 1)]
    assert found["kept its own"], "an output is still what it was after the next runs"
    assert found["none"] == (0,)
    assert found["errors"][0] == "the engine takes 'x' of shape (1, 4) to (8, 4), not (9, 4)"
    assert found["errors"][1] == "the engine does not run on these inputs"
    assert (found["max_batch"], found["jobs"]) == (1, [("", 2)]), "the second input has one row"
    assert found["builds"] == 1, "the second time the engine came from the cache"
    assert found["left"] == 0, "nothing stays allocated"


def test_every_call_of_the_driver(fake_driver):
    found = run_in_child(call_driver, None, limits=Limits(time_s=60), environment={"LD_LIBRARY_PATH": str(fake_driver)})
    assert not isinstance(found, Failure), found
    assert found["copied"]
    assert found["refused"][0].startswith("cuStreamEndCapture failed with CUDA error 401")
    assert "out of memory" in found["refused"][1]
    assert found["left"] == 1


def test_without_a_gpu_onnxruntime_runs_the_stage_and_says_why(chain):
    package = chain(2, ("cpu", "gpu"))
    entry = package.document["stages"][1]
    given = {"name": "t1", "shapes": [[1], [1], [9]], "values": [[], [], []]}
    entry["backend"] = "tensorrt"
    entry["engine"] = {"backend": "tensorrt", "model": entry["model"], "precision": "fp32", "inputs": [given]}
    package.write()
    with (
        pytest.warns(UserWarning, match="no engine runs it: .*(tensorrt cannot be used|no NVIDIA driver)"),
        Pipeline.load(package.folder) as pipeline,
    ):
        assert pipeline.run({"t0": np.ones(3, np.float32)})["t2"].tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("damage", [{"backend": "shell"}, {"inputs": [{"name": "t1"}]}, {"model": "../m.onnx"}])
def test_an_engine_entry_that_is_none_is_refused(chain, damage):
    package = chain(1, ("gpu",))
    entry = package.document["stages"][0]
    entry["engine"] = {"backend": "tensorrt", "model": entry["model"], "precision": "fp32", "inputs": [], **damage}
    package.write()
    with pytest.raises(RuntimeError, match=r"plan\.json: stages\[0\]\.engine"):
        package.plan()


def test_obtaining_an_engine(tmp_path, monkeypatch):
    """From the cache when it is for this very GPU, or for all of its kind; else built, and kept."""
    built = []

    def build(job):
        built.append(job)
        Path(job.engine).write_bytes(f"plan {len(built)}".encode())
        return engine_build.BuildReport(version="1", seconds=0.5, size_bytes=6)

    monkeypatch.setattr(tensorrt, "build_apart", build)
    engine = stage_in(tmp_path).engine
    here = Builder(backend="tensorrt-rtx", version="1.7", compute_capability="8.9", gpu="L4", driver="580")
    ahead = Builder(backend="tensorrt-rtx", version="1.7", compute_capability="8.9")
    assert tensorrt.rebuild(1, engine, ahead) == b"plan 1"
    assert tensorrt.obtain(1, engine, here) == b"plan 1"
    newer = Builder(backend="tensorrt-rtx", version="1.8", compute_capability="8.9", gpu="L4", driver="580")
    assert tensorrt.obtain(1, engine, newer) == b"plan 2"
    assert tensorrt.obtain(1, engine, newer) == b"plan 2"
    engine.model.write_bytes(b"another stage")
    assert tensorrt.obtain(1, engine, newer) == b"plan 3"
    assert [job.compute_capability for job in built] == ["8.9", "", ""]

    def fail(_job):
        raise BackendError("the builder refuses: no")

    monkeypatch.setattr(tensorrt, "build_apart", fail)
    other = Builder(backend="tensorrt-rtx", version="1.8", compute_capability="12.0", gpu="RTX 5090", driver="580")
    with pytest.raises(BackendError, match=r"engine is for .* 8\.9, .*, and this is .* 12\.0, .*failed: the builder"):
        tensorrt.obtain(1, engine, other)
    assert not list(engine.folder.glob("*.tmp"))


def test_a_damaged_engine_is_not_loaded(tmp_path):
    cache = EngineCache(tmp_path / "engines")
    made = tmp_path / "e"
    made.write_bytes(b"plan")
    entry = cache.add(0, {"part": "p", "backend": "tensorrt"}, made, 1.0)
    assert cache.find(entry.key) == b"plan"
    (cache.folder / entry.file).write_bytes(b"plam")
    assert cache.find(entry.key) is None
    (cache.folder / entry.file).unlink()
    assert cache.find(entry.key) is None
    (cache.folder / "engines.json").write_text("{")
    assert cache.entries() == []
    assert cache.why_none(0, {"part": "p"}) == "no engine was built"


def relu_job(folder: Path, op: str = "Relu") -> BuildJob:
    sides = [[helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4])] for name in "xy"]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="only")], "g", *sides)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "m.onnx")
    given = EngineInput(name="x", shapes=((1, 4), (2, 4), (8, 4)))
    return BuildJob(
        model=str(folder / "m.onnx"), engine=str(folder / "m.engine"), backend="tensorrt-rtx", inputs=(given,),
        compute_capability="8.9",
    )  # fmt: skip


@needs_rtx
def test_building_apart(tmp_path):
    report = build_apart(relu_job(tmp_path))
    assert (tmp_path / "m.engine").stat().st_size == report.size_bytes > 1000
    assert report.version
    with pytest.raises(BackendError, match=r"the parser refuses: .*NonZero"):
        build_apart(relu_job(tmp_path, "NonZero"))
    with pytest.raises(BackendError, match=r"did not finish within 0\.01 s"):
        build_apart(relu_job(tmp_path), timeout_s=0.01)


@needs_rtx
def test_a_build_that_wants_too_much_memory_is_refused_in_its_own_process(tmp_path):
    job = replace(relu_job(tmp_path), memory_bytes=1 << 20)
    with pytest.raises(BackendError, match=r"refuses: .*(std::bad_alloc|OutOfMemory)"):
        build_apart(job)
    assert build_apart(replace(job, memory_bytes=None)).size_bytes > 1000


def test_what_is_free_is_less_than_what_there_is():
    assert 1 << 20 < engine_build.free_memory_bytes() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_missing_library_is_an_error_of_the_build(tmp_path):
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed")
    job = relu_job(tmp_path)
    with pytest.raises(BackendError, match="cannot be used: No module named 'tensorrt'"):
        build_apart(BuildJob(model=job.model, engine=job.engine, backend="tensorrt", inputs=job.inputs))


@needs_rtx
def test_the_build_command(chain, capsys):
    package = chain(1, ("gpu",))
    assert build_command.main([], package.folder) == 0
    assert "nothing to build" in capsys.readouterr().out
    entry = package.document["stages"][0]
    given = {"name": "t0", "shapes": [[1], [2], [9]], "values": [[], [], []]}
    entry["engine"] = {"backend": "tensorrt-rtx", "model": entry["model"], "precision": "fp32", "inputs": [given]}
    package.write()
    assert build_command.main(["--compute-capability", "8.9"], package.folder) == 0
    assert "no engine was built; building" in capsys.readouterr().out
    assert build_command.main(["--compute-capability", "8.9"], package.folder) == 0
    assert "there is an engine for TensorRT-RTX" in capsys.readouterr().out
    assert build_command.main(["--compute-capability", "3.0"], package.folder) == 1
    assert "3.0 (SM30) not supported" in capsys.readouterr().err


def calls_of(module) -> set[str]:
    return {node.attr for node in ast.walk(ast.parse(inspect.getsource(module))) if isinstance(node, ast.Attribute)}


def chains_of(module) -> set[str]:
    """Return the dotted names under `trt` that a module reads."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        chain, owner = [], node
        while isinstance(owner, ast.Attribute) and owner.attr != "_trt":
            chain.append(owner.attr)
            owner = owner.value
        if isinstance(owner, ast.Name) and owner.id == "trt" and chain:
            found.add(".".join(reversed(chain)))
        if isinstance(owner, ast.Attribute) and owner.attr == "_trt" and chain:
            found.add(".".join(reversed(chain)))
    return found


SOURCES = (tensorrt, tensorrt_run, engine_build, engine_compile)
ONLY_RTX = {"ComputeCapability"}
NAMES = sorted(set().union(*map(chains_of, SOURCES)) - ONLY_RTX) + [
    f"{owner}.{name}" for owner in CALLED for name in CALLED[owner]
]
CHECK = """
import functools, importlib, sys
trt = importlib.import_module(sys.argv[1])
def missing(name):
    try:
        functools.reduce(getattr, name.split("."), trt)
    except AttributeError:
        return True
print([name for name in sys.argv[2:] if missing(name)])
"""


def test_the_list_of_calls_is_that_of_the_source():
    called = {name for owner, names in CALLED.items() if owner != "DataType" for name in names}
    assert called <= set().union(*map(calls_of, SOURCES))
    assert {
        "Runtime",
        "IOutputAllocator",
        "Logger.ERROR",
        "BuilderFlag.TF32",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "ILogger.ERROR",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
    } <= set(NAMES)


@needs_rtx
def test_the_installed_library_has_everything_that_is_called():
    done = subprocess.run([sys.executable, "-c", CHECK, "tensorrt_rtx", *NAMES], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


STUB = """
#include <stddef.h>
#define NOTHING(name) void *name(void) { return NULL; }
NOTHING(createInferBuilder_INTERNAL) NOTHING(createInferRefitter_INTERNAL) NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL) NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(getBuilderPluginRegistry) NOTHING(getPluginRegistry)
int getNvOnnxParserVersion(void) { return 0; }
int getInferLibVersion(void) { return 0; }
_Bool initLibNvInferPlugins(void *logger, const char *name) { return 1; }
"""
"""What the bindings link to: with this in place of the libraries they load where there is no GPU."""


@pytest.mark.network
@pytest.mark.parametrize("version", BINDINGS)
def test_every_generation_of_tensorrt_has_everything_that_is_called(version, tmp_path):
    """The real Python bindings of TensorRT, over libraries that do nothing."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for the libraries with")
    wheel = cached_wheel(f"tensorrt-cu13-bindings=={version}")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "stub.c").write_text(STUB)
    for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin"):
        library = tmp_path / f"lib{name}.so.{version.split('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, tmp_path / "stub.c"], check=True)
    variables = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", CHECK, "tensorrt_bindings", *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def cached_wheel(requirement: str) -> Path:
    """Return the wheel of a requirement for the running interpreter, downloaded once for each interpreter."""
    cache = Path(os.environ.get("CUTSET_TEST_WHEELS") or Path.home() / ".cache" / "cutset-test-wheels")
    folder = cache / requirement
    if fitting_wheel(folder) is None:
        words = ["download", "--quiet", "--no-deps", "--disable-pip-version-check", "--only-binary", ":all:"]
        command = [sys.executable, "-m", "pip", *words, "--dest", str(folder), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no wheel of {requirement} for {sys.implementation.cache_tag}: {done.stderr.strip()[-200:]}")
    wheel = fitting_wheel(folder)
    assert wheel is not None, f"pip downloaded no wheel of {requirement} that this interpreter takes"
    return wheel


def fitting_wheel(folder: Path) -> Path | None:
    """Return a wheel of a folder that the running interpreter can install, None without one."""
    supported = frozenset(sys_tags())
    return next((file for file in sorted(folder.glob("*.whl")) if parse_wheel_filename(file.name)[3] & supported), None)


def test_a_wheel_of_another_interpreter_is_not_taken(tmp_path):
    here = next(sys_tags())
    for tag in ("cp27-cp27mu-manylinux1_x86_64", "cp38-cp38-win32"):
        (tmp_path / f"bindings-1.0-{tag}.whl").touch()
    assert fitting_wheel(tmp_path) is None
    (tmp_path / f"bindings-1.0-{here}.whl").touch()
    assert fitting_wheel(tmp_path) == tmp_path / f"bindings-1.0-{here}.whl"
    assert fitting_wheel(tmp_path / "absent") is None
