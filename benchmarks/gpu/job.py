"""What a section is told: which model, where files go, on what device, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cutset.profilers.environment import usable_cores


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One step of the run; it pickles, because a child process takes it.

    Args:
        name: Of the model, or of what is measured.
        folder: Where files of the run lie, models and profiles among them.
        device: Device number as CUDA counts them; None where the CPU provider stands in for the GPU.
        seconds: Time that the step may take, about; it returns what it has when that is over.
        measured_s: Time of one repeated measurement.
        small: Whether the smallest case of each kind is enough: for the rehearsal in the tests.
    """

    name: str
    folder: Path
    device: int | None
    seconds: float
    measured_s: float = 1.0
    small: bool = False

    @property
    def cores(self) -> int:
        """CPU cores that may be kept busy."""
        return usable_cores()

    @property
    def kind(self) -> str:
        """Device kind as onnxruntime's IO binding names it."""
        return "cpu" if self.device is None else "cuda"
