"""The environment is read from the real machine; what it lacks is exercised through real child processes."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

from cutset.devices import Availability
from cutset.profilers import environment as env
from cutset.serde import convert, to_builtins


def test_the_environment_of_this_machine():
    here = env.environment()
    assert here.cpu
    assert 1 <= here.usable_cores <= here.logical_cores == os.cpu_count()
    assert here.memory_bytes > 1 << 28
    assert here.packages["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert here.python == sys.version.split()[0]
    assert convert(to_builtins(here), env.Environment, where="test") == here


def test_affinity_limits_the_usable_cores():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert env.environment().usable_cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("text", "cores"), [("150000 100000", 1.5), ("max 100000", None), ("", None), ("50000 100000", 0.5)])
def test_a_cgroup_quota_is_read_in_cores(text, cores):
    assert env.cgroup_cores(text) == cores


def test_the_cpu_model_is_found_or_empty():
    assert env.cpu_model("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) @ 2.0: x\n") == "Intel(R) Xeon(R) @ 2.0: x"
    assert env.cpu_model("processor : 0\nBogoMIPS : 50\n") == ""


def test_the_drivers_table_is_parsed():
    text = "NVIDIA A100-SXM4-80GB, 81920, 8.0, 550.54.15\nOrin, [N/A], 8.7, [N/A]\n\nno devices were found\n"
    first, second = env.parse_smi(text)
    assert first == env.Gpu(name="NVIDIA A100-SXM4-80GB", memory_bytes=80 << 30, compute_capability="8.0", driver="550.54.15")
    assert (second.memory_bytes, second.driver) == (0, "")


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put an `nvidia-smi` that runs the given shell line first on the path."""

    def install(line):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\n{line}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_gpus_are_asked_for_by_field(smi):
    smi("case $1 in --query-gpu=name,memory.total,compute_cap,driver_version) echo 'T4, 15360, 7.5, 535';; esac")
    assert [gpu.name for gpu in env.gpus()] == ["T4"]


def test_a_driver_tool_that_fails_means_no_gpu(smi):
    smi("echo 'NVIDIA-SMI has failed'; exit 9")
    assert env.gpus() == ()


def test_a_probe_returns_the_last_line_of_json():
    assert env.run_probe("print('banner'); print('{\"a\": 1}')").data == {"a": 1}


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os; os.abort()", "signal 6"),
        ("import no_such_library", "no_such_library"),
        ("print('not json')", "not json"),
        ("import sys; sys.exit(3)", "status 3"),
        ("", "status 0"),
    ],
)
def test_a_probe_survives_what_a_library_does(code, failure):
    probe = env.run_probe(code)
    assert probe.data is None
    assert failure in probe.failure


def test_a_probe_that_hangs_is_ended():
    probe = env.run_probe("import time; time.sleep(60)", timeout_s=0.5)
    assert "0.5 s" in probe.failure


def test_availability_of_this_machine():
    found = {item.name: item for item in env.availability()}
    assert list(found) == [
        "onnxruntime-cpu", "nvidia-driver", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "onnxruntime-extensions",
        "serving",
    ]  # fmt: skip
    assert found["onnxruntime-cpu"].ready
    for item in found.values():
        assert item.detail
        assert item.ready == (item.hint == "")


def library(folder, name, source):
    package = folder / name
    package.mkdir()
    (package / "__init__.py").write_text(source)


@pytest.fixture
def shadow(tmp_path, monkeypatch):
    """Make packages of our own importable here and in child processes."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return lambda name, source: library(tmp_path, name, source)


def test_a_tensorrt_that_crashes_is_reported_and_not_fatal(shadow):
    shadow("tensorrt_rtx", "import os; os.abort()")
    got = env._tensorrt_rtx()
    assert (got.state, got.ready) == ("library-broken", False)
    assert "signal 6" in got.detail


def test_a_tensorrt_that_loads_is_ready(shadow):
    shadow(
        "tensorrt_rtx",
        "__version__ = '9.9'\nclass Logger:\n    ERROR = 1\n    def __init__(self, level): pass\n"
        "class Builder:\n    def __init__(self, logger): pass\n",
    )
    got = env._tensorrt_rtx()
    assert got.ready
    assert "9.9" in got.detail


def test_full_tensorrt_without_a_driver_names_the_driver(shadow):
    shadow("tensorrt", "raise ImportError('never imported without a driver')")
    driver = Availability(name="nvidia-driver", state="no-driver", detail="no libcuda", hint="install it")
    assert env._tensorrt(driver).state == "no-driver"
    ready = Availability(name="nvidia-driver", state="ready", detail="driver 1")
    assert env._tensorrt(ready).state == "library-broken"


def test_the_cuda_provider_needs_build_driver_and_session():
    ready = Availability(name="nvidia-driver", state="ready", detail="driver 1")
    none = Availability(name="nvidia-driver", state="no-device", detail="no card", hint="look")
    plain = env.Probe(data={"version": "1", "providers": ["CPUExecutionProvider"]})
    cuda = env.Probe(data={"version": "1", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})
    assert env._cuda_provider(plain, ready).state == "no-library"
    assert env._cuda_provider(cuda, none).state == "no-device"
    assert env._cuda_provider(env.Probe(data=None, failure="boom"), ready).state == "library-broken"


def test_the_extras_that_hints_name_exist():
    source = env.__file__
    with open(source, encoding="utf-8") as file:  # noqa: PTH123
        named = {part.split("]")[0] for part in file.read().split("cutset[")[1:]}
    assert named
    assert named <= set(importlib.metadata.metadata("cutset").get_all("Provides-Extra") or [])


def test_importing_the_module_loads_no_runtime():
    code = (
        "import sys, cutset.profilers.environment as e; e.environment();"
        "sys.exit(any(m in sys.modules for m in ('onnxruntime', 'onnx', 'numpy', 'tensorrt')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
