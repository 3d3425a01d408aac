"""How busy the GPU and this process's CPU threads are while something runs: NVML sampled by a thread, and getrusage.

NVML's library comes with the driver. Its utilisation is the share of its last sample period (a sixth of a second to one
second, says NVIDIA) in which at least one kernel ran, so a measurement shorter than a second tells little.

Source:
    NVIDIA, NVML API reference: nvmlDeviceGetUtilizationRates, nvmlDeviceGetHandleByPciBusId.
"""

from __future__ import annotations

import ctypes
import re
import resource
import threading
import time
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Self

from cutset.errors import CutsetError
from cutset.profilers.cuda_driver import CudaDevice

PERIOD_S = 0.05
SETTLE_S = 0.5
"""Readings this soon after the begin still tell of the time before."""
_LIBRARY = "libnvidia-ml.so.1"
_WORKER = re.compile(r"cutset-(cpu|gpu)-")


class _Utilisation(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


def pci_bus_id(device: int) -> str:
    """Return by what nvidia-smi and NVML know a device, empty where CUDA does not work."""
    try:
        with CudaDevice(device) as cuda:
            return cuda.pci_bus_id
    except CutsetError:
        return ""


class Nvml:
    """One GPU's gauge; `busy` is None where NVML does not tell.

    Args:
        device: Device number as CUDA counts them, None for no GPU.
    """

    def __init__(self, device: int | None) -> None:
        self._handle: ctypes.c_void_p | None = None
        if device is None:
            return
        address = pci_bus_id(device)
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError:
            return
        handle = ctypes.c_void_p()
        if not self._library.nvmlInit_v2() and not self._library.nvmlDeviceGetHandleByPciBusId_v2(
            ctypes.c_char_p(address.encode()), ctypes.byref(handle)
        ):
            self._handle = handle

    def busy(self) -> float | None:
        """Return the share of the last sample period in which a kernel ran."""
        found = _Utilisation()
        if self._handle is None or self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(found)):
            return None
        return float(found.gpu) / 100


class Usage:
    """What was used between entering and leaving: `gpu` as a share, None without NVML, and `cpu` in cores of this process.

    `threads` holds, of the pipeline's workers of each device, the cores that they computed on and those that they were ready
    for and did not get; what they computed includes waiting for a GPU without sleeping.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._readings: list[float] = []
        self._over = threading.Event()
        self.gpu: float | None = None
        self.cpu = 0.0
        self.threads: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> Self:
        self._begin, self._used, self._by_thread = time.perf_counter(), _processor_s(), _by_thread()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        elapsed_s = time.perf_counter() - self._begin
        self.cpu = (_processor_s() - self._used) / elapsed_s
        for (device, thread), after in _by_thread().items():
            before = self._by_thread.get((device, thread), (0.0, 0.0))
            ran, waited = self.threads.get(device, (0.0, 0.0))
            self.threads[device] = (ran + (after[0] - before[0]) / elapsed_s, waited + (after[1] - before[1]) / elapsed_s)
        self._over.set()
        self._thread.join()
        self.gpu = fmean(self._readings) if self._readings else None

    def _watch(self) -> None:
        if self._nvml.busy() is None or self._over.wait(SETTLE_S):
            return
        while not self._over.wait(PERIOD_S):
            reading = self._nvml.busy()
            if reading is not None:
                self._readings.append(reading)


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _by_thread() -> dict[tuple[str, int], tuple[float, float]]:
    """Return the seconds that each of the pipeline's workers ran and waited for a core, by device and thread (schedstat(5))."""
    found = {}
    for thread in threading.enumerate():
        kind = _WORKER.match(thread.name)
        if kind is None or thread.native_id is None:
            continue
        try:
            ran, waited, _ = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text("ascii").split()
        except (OSError, ValueError):
            continue
        found[kind[1], thread.native_id] = (int(ran) / 1e9, int(waited) / 1e9)
    return found
