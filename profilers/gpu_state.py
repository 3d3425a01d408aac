"""What a GPU was doing while it was measured: clocks, temperature, power and memory, as nvidia-smi reports them.

nvidia-smi is part of the driver, so it is there wherever a GPU can be measured, and no binding to NVML is needed.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 10.0
_FIELDS = (
    "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem", "temperature.gpu", "power.draw", "memory.used",
    "memory.total", "utilization.gpu",
)  # fmt: skip
_WARM_SHARE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuState:
    """One reading; a field that the driver does not give (MIG slices, Jetson) is None.

    Args:
        sm_clock_hz: Clock of the multiprocessors now.
        sm_clock_limit_hz: Their highest clock.
        memory_clock_hz: Clock of the memory now.
        memory_clock_limit_hz: Its highest clock.
        temperature_c: Degrees Celsius of the chip.
        power_w: Watts drawn.
        used_bytes: Device memory in use, by every process.
        total_bytes: Device memory.
        busy: Share of the last sample period in which a kernel ran, by every process.
    """

    sm_clock_hz: float | None
    sm_clock_limit_hz: float | None
    memory_clock_hz: float | None
    memory_clock_limit_hz: float | None
    temperature_c: float | None
    power_w: float | None
    used_bytes: int | None
    total_bytes: int | None
    busy: float | None

    @property
    def at_full_clock(self) -> bool | None:
        """Whether the multiprocessors ran at 90 % of their highest clock or more; None where it is not known."""
        if not self.sm_clock_hz or not self.sm_clock_limit_hz:
            return None
        return self.sm_clock_hz >= _WARM_SHARE * self.sm_clock_limit_hz


def gpu_state(pci_bus_id: str) -> GpuState | None:
    """Return the state of one GPU, None where nvidia-smi is missing or does not answer.

    Args:
        pci_bus_id: From `CudaDevice.pci_bus_id`; nvidia-smi and CUDA number devices in different orders.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    query = [tool, f"--id={pci_bus_id}", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return parse(done.stdout)


def parse(text: str) -> GpuState | None:
    """Return the state in the line that nvidia-smi prints: MHz, degrees, watts, MiB and per cent."""
    fields = [_number(field) for field in text.strip().split(",")]
    if len(fields) != len(_FIELDS):
        return None
    sm, sm_limit, memory, memory_limit, temperature, power, used, total, busy = fields
    return GpuState(
        sm_clock_hz=_scaled(sm, 1e6),
        sm_clock_limit_hz=_scaled(sm_limit, 1e6),
        memory_clock_hz=_scaled(memory, 1e6),
        memory_clock_limit_hz=_scaled(memory_limit, 1e6),
        temperature_c=temperature,
        power_w=power,
        used_bytes=None if used is None else int(used) << 20,
        total_bytes=None if total is None else int(total) << 20,
        busy=_scaled(busy, 0.01),
    )


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:  # [N/A], [Not Supported], [Unknown Error]
        return None


def _scaled(number: float | None, unit: float) -> float | None:
    return None if number is None else number * unit
