"""What can be used here is asked of real child processes; what is missing or broken has a name and a way out."""

import importlib.metadata
import shutil
import subprocess

import pytest
from packaging.requirements import Requirement

from cutset.devices import Availability
from cutset.profilers import availability as module


def test_a_probe_returns_the_last_line_of_json():
    assert module.run_probe("print('banner'); print('{\"a\": 1}')").data == {"a": 1}


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
    probe = module.run_probe(code)
    assert probe.data is None
    assert failure in probe.failure


def test_a_probe_that_hangs_is_ended():
    probe = module.run_probe("import time; time.sleep(60)", timeout_s=0.5)
    assert "0.5 s" in probe.failure


def test_availability_of_this_machine():
    found = {item.name: item for item in module.availability()}
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
    got = module._tensorrt_rtx()
    assert (got.state, got.ready) == ("library-broken", False)
    assert "signal 6" in got.detail


def test_a_tensorrt_that_loads_is_ready(shadow):
    shadow(
        "tensorrt_rtx",
        "__version__ = '9.9'\nclass Logger:\n    ERROR = 1\n    def __init__(self, level): pass\n"
        "class Builder:\n    def __init__(self, logger): pass\n",
    )
    got = module._tensorrt_rtx()
    assert got.ready
    assert "9.9" in got.detail


def test_full_tensorrt_without_a_driver_names_the_driver(shadow):
    shadow("tensorrt", "raise ImportError('never imported without a driver')")
    driver = Availability(name="nvidia-driver", state="no-driver", detail="no libcuda", hint="install it")
    assert module._tensorrt(driver).state == "no-driver"
    ready = Availability(name="nvidia-driver", state="ready", detail="driver 1")
    assert module._tensorrt(ready).state == "library-broken"


def test_the_cuda_provider_needs_build_driver_and_session():
    ready = Availability(name="nvidia-driver", state="ready", detail="driver 1")
    none = Availability(name="nvidia-driver", state="no-device", detail="no card", hint="look")
    plain = module.Probe(data={"version": "1", "cuda": None, "providers": ["CPUExecutionProvider"]})
    cuda = module.Probe(data={"version": "1", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]})
    assert module._cuda_provider(plain, ready).state == "no-library"
    assert module._cuda_provider(cuda, none).state == "no-device"
    assert module._cuda_provider(module.Probe(data=None, failure="boom"), ready).state == "library-broken"


def test_a_driver_that_is_older_than_the_provider_s_cuda(monkeypatch):
    ready = Availability(name="nvidia-driver", state="ready", detail="driver 1")
    providers = module.Probe(data={"version": "1.99", "cuda": "13.0", "providers": ["CUDAExecutionProvider"]})
    monkeypatch.setattr(module, "cuda_of_driver", lambda: "12.8")
    got = module._cuda_provider(providers, ready)
    assert got.state == "too-old"
    assert "12.8" in got.detail
    assert "update the NVIDIA driver" in got.hint
    monkeypatch.setattr(module, "cuda_of_driver", lambda: "13.2")
    assert module._cuda_provider(providers, ready).state == "library-broken", "there is no GPU here to run a session on"


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Make the driver's library answer with a status, a number of devices and a version of CUDA."""

    def install(status=0, count=1, version=12040):
        source = tmp_path / "cuda.c"
        source.write_text(
            f"int cuInit(unsigned f) {{ return {status}; }}\n"
            f"int cuDeviceGetCount(int *n) {{ *n = {count}; return 0; }}\n"
            f"int cuDriverGetVersion(int *v) {{ *v = {version}; return 0; }}\n"
        )
        command = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "libcuda.so.1"), str(source)]
        subprocess.run(command, check=True)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))

    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler to build a driver of our own")
    return install


@pytest.mark.parametrize(
    ("answers", "visible", "state", "word"),
    [
        ({}, None, "ready", "1 device"),
        ({"count": 0}, None, "no-device", "sees no GPU"),
        ({"status": 100}, None, "no-device", "sees no GPU"),
        ({"count": 0}, "", "disabled", "CUDA_VISIBLE_DEVICES=''"),
        ({"status": 100, "count": 0}, "-1", "disabled", "CUDA_VISIBLE_DEVICES='-1'"),
        ({"status": 803}, None, "library-broken", "error 803"),
    ],
)
def test_what_the_driver_says(driver, monkeypatch, answers, visible, state, word):
    driver(**answers)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    got = module.nvidia_driver(())
    assert (got.state, got.ready) == (state, state == "ready")
    assert word in got.detail
    assert module.cuda_of_driver() == "12.4"


@pytest.mark.parametrize(
    ("version", "minimum", "older"),
    [
        ("1.9.1", "1.20", True),
        ("1.20", "1.20", False),
        ("1.20.0rc1", "1.20", False),
        ("2", "1.20", False),
        ("10.13.3.9", "10.13", False),
    ],
)
def test_releases_are_compared_by_number(version, minimum, older):
    assert module.is_older(version, minimum) is older


def test_a_library_that_is_too_old_says_how_to_get_a_newer_one(shadow):
    shadow(
        "tensorrt_rtx",
        "__version__ = '1.0'\nclass Logger:\n    ERROR = 1\n    def __init__(self, level): pass\n"
        "class Builder:\n    def __init__(self, logger): pass\n",
    )
    got = module._tensorrt_rtx()
    assert (got.state, got.hint) == ("too-old", "pip install --upgrade tensorrt-rtx")
    assert "older than" in got.detail


def test_the_oldest_releases_are_those_that_are_installed():
    required = {}
    for text in importlib.metadata.requires("cutset") or []:
        requirement = Requirement(text)
        required[requirement.name] = {str(bound) for bound in requirement.specifier}
    for name, minimum in module.MINIMUM.items():
        assert required.get(name, {f">={minimum}"}) == {f">={minimum}"}, name


def test_the_extras_that_hints_name_exist():
    source = module.__file__
    with open(source, encoding="utf-8") as file:  # noqa: PTH123
        named = {part.split("]")[0] for part in file.read().split("cutset[")[1:]}
    assert named
    assert named <= set(importlib.metadata.metadata("cutset").get_all("Provides-Extra") or [])
