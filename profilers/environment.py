"""What this machine is: the facts that are written beside every measurement. Nothing here measures or loads a library."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "cutset", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "onnxruntime-extensions", "numpy", "networkx",
    "scipy", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
"""Distributions whose versions are part of a measurement's identity."""

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


def _read(path: Path) -> str:
    """Text of a system file, empty where it is absent or not readable."""
    try:
        return path.read_text("utf-8", errors="replace").strip()
    except OSError:
        return ""
