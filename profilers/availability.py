"""What can be used on this machine, and for the rest why not and what would bring it: `cutset doctor`.

Libraries that can crash or hang while they load are tried in a child process.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from cutset.devices import Availability
from cutset.profilers.environment import Gpu, gpus, installed_versions

PROBE_TIMEOUT_S = 60.0
"""Longest a library may take to load in its child process; TensorRT takes seconds on a cold disk."""

MINIMUM: Mapping[str, str] = {
    "onnxruntime": "1.25",
    "onnxruntime-extensions": "0.13",
    "tensorrt": "10.13",
    "tensorrt-rtx": "1.4",
}
"""The oldest release of each library that Cutset works with; those that it installs have the same bound there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Outcome of a snippet of Python run in a child process: the JSON it printed last, or why it printed none."""

    data: Mapping[str, object] | None
    failure: str = ""


def run_probe(code: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> Probe:
    """Return what `code` prints as its last line of JSON when a fresh interpreter runs it.

    A crash, a hang and a library that does not load all end in `Probe.failure`, never in this process.
    """
    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return Probe(data=None, failure=f"did not answer within {timeout_s:g} s")
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        try:
            return Probe(data=json.loads(lines[-1]))
        except json.JSONDecodeError:
            return Probe(data=None, failure=f"printed {lines[-1][:200]!r}")
    if done.returncode < 0:
        return Probe(data=None, failure=f"crashed with signal {-done.returncode}")
    errors = done.stderr.strip().splitlines()
    return Probe(data=None, failure=errors[-1][:300] if errors else f"ended with status {done.returncode}")


def is_older(version: str, minimum: str) -> bool:
    """Return whether a release comes before another; what is not a number ends the comparison."""

    def parts(text: str) -> list[int]:
        return [int(part) for part in takewhile(str.isdecimal, text.split("."))]

    return parts(version) < parts(minimum)


def _too_old(name: str, library: str, version: str) -> Availability | None:
    """Return the refusal of a library that is older than Cutset works with."""
    if not is_older(version, MINIMUM[library]):
        return None
    return Availability(
        name=name,
        state="too-old",
        detail=f"{library} {version} is older than {MINIMUM[library]}",
        hint=f"pip install --upgrade {library}",
    )


def availability() -> tuple[Availability, ...]:
    """Return what can be used here, and for the rest why not and what would bring it.

    In this order: onnxruntime-cpu, nvidia-driver, onnxruntime-cuda, tensorrt, tensorrt-rtx, onnxruntime-extensions,
    serving.
    """
    driver = nvidia_driver(gpus())
    providers = run_probe(_PROVIDERS)
    return (
        _onnxruntime(providers),
        driver,
        _cuda_provider(providers, driver),
        _tensorrt(driver),
        _tensorrt_rtx(),
        _extensions(),
        _serving(),
    )


def cuda_provider() -> Availability:
    """Return whether onnxruntime can use a GPU of this machine."""
    return _cuda_provider(run_probe(_PROVIDERS), nvidia_driver(gpus()))


_PROVIDERS = """
import json, onnxruntime as ort
import onnxruntime.capi.build_and_package_info as built
cuda = getattr(built, "cuda_version", None)
print(json.dumps({"version": ort.__version__, "providers": ort.get_available_providers(), "cuda": cuda}))
"""

_CUDA_SESSION = """
import json, onnxruntime as ort
from onnx import TensorProto, helper
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
for attempt in range(2):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" in session.get_providers() or not hasattr(ort, "preload_dlls"):
        break
    ort.preload_dlls()
print(json.dumps({"version": ort.__version__, "providers": session.get_providers()}))
"""

_TENSORRT = """
import json, {module} as trt
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
print(json.dumps({{"version": trt.__version__, "builder": builder is not None}}))
"""

_DRIVER = """
import ctypes, json
cuda, count, version = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(0), ctypes.c_int(0)
status = cuda.cuInit(0)
cuda.cuDriverGetVersion(ctypes.byref(version))
if status == 0:
    cuda.cuDeviceGetCount(ctypes.byref(count))
print(json.dumps({"status": status, "count": count.value, "version": version.value}))
"""

_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE of the driver interface."""


def nvidia_driver(found: Sequence[Gpu]) -> Availability:
    """Return whether CUDA's driver loads and sees a device.

    Args:
        found: What `gpus` returned; it gives the names.
    """
    name = "nvidia-driver"
    probe = run_probe(_DRIVER)
    if probe.data is None and "libcuda.so.1" in probe.failure:
        return Availability(
            name=name,
            state="no-driver",
            detail="libcuda.so.1 is not on this machine",
            hint="install the NVIDIA driver; in a container, start it with GPU access",
        )
    if probe.data is None:
        return Availability(
            name=name, state="library-broken", detail=probe.failure, hint="reinstall the NVIDIA driver, then reboot"
        )
    status, count = probe.data["status"], probe.data["count"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not count and visible is not None:
        return Availability(
            name=name,
            state="disabled",
            detail=f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU",
            hint="unset CUDA_VISIBLE_DEVICES, or give it the number of a GPU",
        )
    if status == _NO_DEVICE or (status == 0 and not count):
        return Availability(
            name=name,
            state="no-device",
            detail="the driver is installed and sees no GPU",
            hint="check the card with nvidia-smi, and CUDA_VISIBLE_DEVICES",
        )
    if status != 0:
        return Availability(
            name=name,
            state="library-broken",
            detail=f"cuInit returned CUDA error {status}",
            hint="driver library and kernel module differ in version as a rule: reboot, or reinstall the driver",
        )
    names = ", ".join(gpu.name for gpu in found) or f"{count} device(s)"
    version = f" {found[0].driver}" if found else ""
    return Availability(name=name, state="ready", detail=f"driver{version}: {names}")


def cuda_of_driver() -> str:
    """Return the newest CUDA that the driver runs, such as ``12.4``; empty where it does not say."""
    probe = run_probe(_DRIVER)
    number = int(str(probe.data["version"])) if probe.data is not None else 0
    return f"{number // 1000}.{number % 1000 // 10}" if number else ""


def _onnxruntime(providers: Probe) -> Availability:
    name = "onnxruntime-cpu"
    if providers.data is None:
        return Availability(
            name=name,
            state="library-broken",
            detail=providers.failure,
            hint="reinstall one of them alone: onnxruntime and onnxruntime-gpu overwrite each other's files",
        )
    version = str(providers.data["version"])
    return _too_old(name, "onnxruntime", version) or Availability(name=name, state="ready", detail=f"onnxruntime {version}")


def _cuda_provider(providers: Probe, driver: Availability) -> Availability:
    name = "onnxruntime-cuda"
    if providers.data is None:
        return Availability(name=name, state="library-broken", detail=providers.failure, hint="see onnxruntime-cpu first")
    if "CUDAExecutionProvider" not in _texts(providers.data["providers"]):
        return Availability(
            name=name,
            state="no-library",
            detail=f"onnxruntime {providers.data['version']} was built without CUDA",
            hint="pip uninstall onnxruntime, then pip install onnxruntime-gpu",
        )
    if not driver.ready:
        return Availability(name=name, state=driver.state, detail=driver.detail, hint=driver.hint)
    built, supports = str(providers.data.get("cuda") or ""), cuda_of_driver()
    if built and supports and is_older(supports, built.split(".", maxsplit=1)[0]):
        return Availability(
            name=name,
            state="too-old",
            detail=f"the driver runs CUDA up to {supports}, onnxruntime was built for CUDA {built}",
            hint="update the NVIDIA driver, or install an onnxruntime-gpu for the older CUDA",
        )
    session = run_probe(_CUDA_SESSION)
    if session.data is None or "CUDAExecutionProvider" not in _texts(session.data["providers"]):
        return Availability(
            name=name,
            state="library-broken",
            detail=session.failure or "a session for CUDA fell back to the CPU",
            hint="CUDA or cuDNN does not match: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return Availability(name=name, state="ready", detail=f"onnxruntime-gpu {session.data['version']}")


def _tensorrt(driver: Availability) -> Availability:
    name = "tensorrt"
    if importlib.util.find_spec("tensorrt") is None:
        return Availability(name=name, state="no-library", detail="not installed", hint="pip install tensorrt")
    if not driver.ready:
        return Availability(name=name, state=driver.state, detail=driver.detail, hint=driver.hint)
    return _tensorrt_library(name, "tensorrt", "builds and runs engines")


def _tensorrt_rtx() -> Availability:
    name = "tensorrt-rtx"
    if importlib.util.find_spec("tensorrt_rtx") is None:
        return Availability(name=name, state="no-library", detail="not installed", hint="pip install tensorrt-rtx")
    return _tensorrt_library(name, "tensorrt_rtx", "parses and builds without a GPU; runs on RTX-class GPUs")


def _tensorrt_library(name: str, module: str, can: str) -> Availability:
    probe = run_probe(_TENSORRT.format(module=module))
    if probe.data is None:
        return Availability(
            name=name,
            state="library-broken",
            detail=probe.failure,
            hint=f"pip install --force-reinstall {name}; its libraries must match the driver's CUDA version",
        )
    version = str(probe.data["version"])
    return _too_old(name, name, version) or Availability(name=name, state="ready", detail=f"{name} {version}: {can}")


def _extensions() -> Availability:
    name = "onnxruntime-extensions"
    hint = "pip install 'cutset[extensions]'"
    if importlib.util.find_spec("onnxruntime_extensions") is None:
        return Availability(name=name, state="no-library", detail="not installed", hint=hint)
    probe = run_probe("import json, onnxruntime_extensions as e; print(json.dumps({'path': e.get_library_path()}))")
    if probe.data is None:
        return Availability(name=name, state="library-broken", detail=probe.failure, hint=hint)
    version = installed_versions([name]).get(name, "")
    return _too_old(name, name, version) or Availability(name=name, state="ready", detail=f"{name} {version}".strip())


def _serving() -> Availability:
    needed = ("uvicorn", "httptools")
    found = installed_versions(needed)
    missing = [name for name in needed if name not in found]
    if missing:
        return Availability(
            name="serving",
            state="no-library",
            detail=f"not installed: {', '.join(missing)}",
            hint="pip install 'cutset[serve]'",
        )
    return Availability(name="serving", state="ready", detail=", ".join(f"{n} {v}" for n, v in found.items()))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()
