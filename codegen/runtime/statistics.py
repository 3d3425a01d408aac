"""What a pipeline has done so far: counts, times, queues, utilisation."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

_WINDOW = 2048  # runs the percentiles are taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTime:
    """How long something takes, in seconds; the percentiles are over the last 2048 runs. All zero before the first."""

    mean_s: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStats:
    """One stage since the pipeline was loaded.

    Args:
        index: The stage's index.
        device: Where it runs.
        count: Runs that succeeded.
        failed: Runs that failed.
        busy_s: Sum of the time of all runs.
        service: Time of one run.
        queue: Requests waiting for it now.
        utilisation: Share of its device's worker time spent in it, 0 to 1.
    """

    index: int
    device: str
    count: int
    failed: int
    busy_s: float
    service: ServiceTime
    queue: int
    utilisation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStats:
    """The whole pipeline since it was loaded.

    Args:
        uptime_s: Seconds since then.
        completed: Requests with a result.
        failed: Requests with an error, expired ones included.
        latency: Time of a request with a result, from submission on.
        latency_sum_s: Sum of those times.
        inside: Requests holding a token now.
        waiting: Requests in the line outside now.
        stages: One entry a stage.
        utilisation: Share of each device's worker time in use, by device.
    """

    uptime_s: float
    completed: int
    failed: int
    latency: ServiceTime
    latency_sum_s: float
    inside: int
    waiting: int
    stages: tuple[StageStats, ...]
    utilisation: dict[str, float]


class Recorder:
    """Counts and times of one kind of event. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self.count = 0
        self.failed = 0
        self.total_s = 0.0

    def add(self, seconds: float) -> None:
        """Count one success."""
        with self._lock:
            self.count += 1
            self.total_s += seconds
            self._recent.append(seconds)

    def add_failure(self) -> None:
        """Count one failure; its time is not a service time."""
        with self._lock:
            self.failed += 1

    def service(self) -> ServiceTime:
        """Return the times so far."""
        with self._lock:
            recent = sorted(self._recent)
            mean_s = self.total_s / self.count if self.count else 0.0
        return ServiceTime(mean_s=mean_s, p50_s=_percentile(recent, 0.50), p99_s=_percentile(recent, 0.99))


def _percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile, 0 of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
