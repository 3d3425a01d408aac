"""Devices a node can be placed on, and why one may not be usable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GpuBackendName = Literal["tensorrt", "tensorrt-rtx", "onnxruntime-cuda"]
"""What can run the GPU stages."""
GpuBackendRequest = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime-cuda"]
DeviceKind = Literal["cpu", "gpu"]
AvailabilityState = Literal["ready", "no-library", "library-broken", "no-driver", "no-device", "too-old", "disabled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One processor: `id` is what plans name (``cpu``, ``gpu:0``), `name` what people read."""

    id: str
    kind: DeviceKind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a backend or device can be used here, and the way out when it cannot.

    Args:
        name: The backend, provider or tool.
        state: Why it can or cannot be used.
        detail: Version when ready, else the observed cause.
        hint: What to install or change; empty when ready.
    """

    name: str
    state: AvailabilityState
    detail: str
    hint: str = ""

    @property
    def ready(self) -> bool:
        """Whether it can be used now."""
        return self.state == "ready"
