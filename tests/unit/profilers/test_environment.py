"""The environment is read from the real machine; what it lacks is exercised through real child processes."""

import importlib.metadata
import os
import subprocess
import sys

import pytest

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


def test_importing_the_module_loads_no_runtime():
    code = (
        "import sys, cutset.profilers.environment as e; e.environment();"
        "sys.exit(any(m in sys.modules for m in ('onnxruntime', 'onnx', 'numpy', 'tensorrt')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
