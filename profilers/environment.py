"""What this machine is, and what can be used on it: the facts written beside every measurement, and `cutset doctor`.

Nothing here measures. Libraries that can crash or hang while they load are tried in a child process.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.devices import Availability

PACKAGES = (
    "cutset", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxruntime-extensions", "numpy", "networkx",
    "scipy", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
"""Distributions whose versions are part of a measurement's identity."""

PROBE_TIMEOUT_S = 60.0
"""Longest a library may take to load in its child process; TensorRT takes seconds on a cold disk."""

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

SMI_TIMEOUT_S = 10.0
_SMI_FIELDS = ("name", "memory.total", "compute_cap", "driver_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU as its driver reports it; an empty text is a field that the driver does not know."""

    name: str
    memory_bytes: int
    compute_capability: str
    driver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and the libraries that a number was taken with.

    Args:
        cpu: Model name.
        logical_cores: Logical processors of the machine.
        usable_cores: Those this process may keep busy: affinity and cgroup quota, rounded down, at least one.
        cgroup_cores: Quota of the cgroup in cores, None without one.
        memory_bytes: Physical memory.
        memory_limit_bytes: Limit of the cgroup, None without one.
        governor: Frequency governor of the first core, None where it cannot be read.
        load_average: Runnable processes over the last 1, 5 and 15 minutes, None where the system has no such number.
        os: Name and version of the operating system.
        python: Version of the interpreter.
        packages: Versions of the installed packages among `PACKAGES`.
        gpus: GPUs that the NVIDIA driver reports.
    """

    cpu: str
    logical_cores: int
    usable_cores: int
    cgroup_cores: float | None
    memory_bytes: int
    memory_limit_bytes: int | None
    governor: str | None
    load_average: tuple[float, float, float] | None
    os: str
    python: str
    packages: Mapping[str, str]
    gpus: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Outcome of a snippet of Python run in a child process: the JSON it printed last, or why it printed none."""

    data: Mapping[str, object] | None
    failure: str = ""


def environment() -> Environment:
    """Return the machine and library versions, as they are now."""
    limit = _read(Path("/sys/fs/cgroup/memory.max"))
    return Environment(
        cpu=cpu_name(),
        logical_cores=os.cpu_count() or 1,
        usable_cores=usable_cores(),
        cgroup_cores=cgroup_cores(_read(CPU_QUOTA)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        memory_limit_bytes=int(limit) if limit.isdigit() else None,
        governor=_read(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or None,
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        packages=installed_versions(PACKAGES),
        gpus=gpus(),
    )


def usable_cores() -> int:
    """Return the cores that this process may keep busy: affinity and cgroup quota, rounded down, at least one."""
    quota = cgroup_cores(_read(CPU_QUOTA))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(affinity, quota if quota is not None else affinity)))


def cpu_name() -> str:
    """Return the model name of this machine's CPU, or else its architecture."""
    return cpu_model(_read(Path("/proc/cpuinfo"))) or platform.processor() or platform.machine()


def cpu_model(cpuinfo: str) -> str:
    """Return the model name in the text of ``/proc/cpuinfo``, empty where it has none (many ARM kernels)."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return ""


def cgroup_cores(cpu_max: str) -> float | None:
    """Return the cores that a cgroup v2 ``cpu.max`` (``quota period``) grants, None when it is unlimited or absent."""
    quota, _, period = cpu_max.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def installed_versions(names: Sequence[str]) -> dict[str, str]:
    """Return the version of each named distribution that is installed; none of them is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that ``nvidia-smi`` lists; none when there is no driver or it does not answer."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    query = [tool, f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=SMI_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_smi(done.stdout)


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Return the GPUs in the CSV that ``nvidia-smi`` prints for name, MiB of memory, compute capability and driver."""
    found = []
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == len(_SMI_FIELDS):
            name, memory, capability, driver = ("" if field.startswith("[") else field for field in fields)
            size = int(memory) << 20 if memory.isdigit() else 0
            found.append(Gpu(name=name, memory_bytes=size, compute_capability=capability, driver=driver))
    return tuple(found)


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
print(json.dumps({"version": ort.__version__, "providers": ort.get_available_providers()}))
"""

_CUDA_SESSION = """
import json, onnxruntime as ort
from onnx import TensorProto, helper
value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
if hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
session = ort.InferenceSession(model.SerializeToString(), providers=["CUDAExecutionProvider"])
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


def _onnxruntime(providers: Probe) -> Availability:
    name = "onnxruntime-cpu"
    if providers.data is None:
        return Availability(
            name=name,
            state="library-broken",
            detail=providers.failure,
            hint="reinstall one of them alone: onnxruntime and onnxruntime-gpu overwrite each other's files",
        )
    return Availability(name=name, state="ready", detail=f"onnxruntime {providers.data['version']}")


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
    return Availability(name=name, state="ready", detail=f"{name} {probe.data['version']}: {can}")


def _extensions() -> Availability:
    name = "onnxruntime-extensions"
    hint = "pip install 'cutset[extensions]'"
    if importlib.util.find_spec("onnxruntime_extensions") is None:
        return Availability(name=name, state="no-library", detail="not installed", hint=hint)
    probe = run_probe("import json, onnxruntime_extensions as e; print(json.dumps({'path': e.get_library_path()}))")
    if probe.data is None:
        return Availability(name=name, state="library-broken", detail=probe.failure, hint=hint)
    version = installed_versions([name]).get(name, "")
    return Availability(name=name, state="ready", detail=f"{name} {version}".strip())


def _serving() -> Availability:
    needed = ("starlette", "uvicorn", "httptools")
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


def _read(path: Path) -> str:
    """Text of a system file, empty where it is absent or not readable."""
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
