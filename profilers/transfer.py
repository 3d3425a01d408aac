"""What copies between host and device cost, measured on the device: both directions, pinned and pageable memory.

A copy is timed as its caller sees it, from the call until the stream is idle, because that is what a stage waits for;
the time on the device alone would leave out the fixed part that decides whether small tensors should cross.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cutset.errors import ProfileError
from cutset.profilers.child import DEFAULT_LIMITS, Failure, Limits, run_in_child
from cutset.profilers.cuda_driver import CudaDevice
from cutset.profilers.gpu_state import GpuState, gpu_state
from cutset.profilers.table import Direction, TransferModel
from cutset.profilers.timing import fit_affine

SIZES = tuple(1 << power for power in range(10, 27, 2))
"""Bytes: 1 KiB to 64 MiB, by fours."""

SECONDS_A_SIZE = 0.03
MIN_COPIES = 7
MAX_COPIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferMeasurement:
    """Copies in one direction from or to one kind of host memory.

    Args:
        model: Fixed cost and bandwidth fitted to `samples`, source ``measured``.
        samples: Bytes, and the median seconds of one copy of that size.
        worst_error: Largest relative difference of the model from a sample.
    """

    model: TransferModel
    samples: tuple[tuple[int, float], ...]
    worst_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProfile:
    """Copies to and from one device.

    Args:
        device: Product name.
        measurements: Pageable memory first, as copies of plain arrays are; each kind h2d, then d2h.
        state: The device right after, None where it does not tell.
    """

    device: str
    measurements: tuple[TransferMeasurement, ...]
    state: GpuState | None

    def models(self, *, pinned: bool = False) -> tuple[TransferModel, ...]:
        """Return the fitted models of one kind of host memory, h2d and d2h."""
        return tuple(found.model for found in self.measurements if found.model.pinned == pinned)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    device: int
    sizes: tuple[int, ...]
    seconds_a_size: float


def profile_transfers(
    device: int = 0,
    *,
    sizes: Sequence[int] = SIZES,
    seconds_a_size: float = SECONDS_A_SIZE,
    limits: Limits = DEFAULT_LIMITS,
) -> TransferProfile | Failure:
    """Return what copies cost on a CUDA device, or why they could not be measured; a child process measures.

    Args:
        device: Device number as CUDA counts them.
        sizes: Bytes to try, at least two.
        seconds_a_size: Time to repeat each size, direction and kind of memory.
        limits: Of the child.
    """
    return run_in_child(_measure, _Job(device=device, sizes=tuple(sizes), seconds_a_size=seconds_a_size), limits=limits)


def fit_transfer(samples: Sequence[tuple[int, float]], *, direction: Direction, pinned: bool) -> TransferMeasurement:
    """Return the affine model of measured copies, by least squares of the relative error.

    Args:
        samples: Bytes and seconds of at least two different sizes.
        direction: ``h2d`` or ``d2h``.
        pinned: Whether the host memory was page-locked.

    Raises:
        ProfileError: If larger copies took no longer, so that no bandwidth follows.
    """
    fixed_s, byte_s = fit_affine([size for size, _ in samples], [seconds for _, seconds in samples])
    if byte_s <= 0:
        raise ProfileError(f"larger copies ({direction}) took no longer than small ones", hint="measure again on an idle GPU")
    model = TransferModel(direction=direction, pinned=pinned, fixed_s=fixed_s, bytes_per_s=1 / byte_s, source="measured")
    error = max(abs(model.seconds(size) / seconds - 1) for size, seconds in samples)
    return TransferMeasurement(model=model, samples=tuple(samples), worst_error=error)


def _measure(job: _Job) -> TransferProfile:
    largest = max(job.sizes)
    with CudaDevice(job.device) as cuda:
        there = cuda.allocate(largest)
        plain = np.ones(largest, np.uint8)  # written, so that its pages exist
        locked = cuda.allocate_pinned(largest)
        ctypes.memset(locked, 1, largest)
        found = []
        for pinned, here in ((False, plain.ctypes.data), (True, locked)):
            to_device = _timed(cuda, job, partial(cuda.copy_to_device, there, here))
            to_host = _timed(cuda, job, partial(cuda.copy_to_host, here, there))
            found.append(fit_transfer(to_device, direction="h2d", pinned=pinned))
            found.append(fit_transfer(to_host, direction="d2h", pinned=pinned))
        return TransferProfile(device=cuda.name, measurements=tuple(found), state=gpu_state(cuda.pci_bus_id))


def _timed(cuda: CudaDevice, job: _Job, copy: Callable[[int], None]) -> list[tuple[int, float]]:
    return [(size, _median_s(cuda, partial(copy, size), job.seconds_a_size)) for size in job.sizes]


def _median_s(cuda: CudaDevice, copy: Callable[[], None], budget_s: float) -> float:
    times: list[float] = []
    copy()
    cuda.synchronise()
    end = time.perf_counter() + budget_s
    while len(times) < MIN_COPIES or (len(times) < MAX_COPIES and time.perf_counter() < end):
        start = time.perf_counter()
        copy()
        cuda.synchronise()
        times.append(time.perf_counter() - start)
    return float(np.median(times))
