"""What a pipeline has done so far: counts, times, queues, batches, utilisation."""

from __future__ import annotations

import contextlib
import math
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

_WINDOW = 2048  # runs the percentiles are taken over
_TOGETHER = 64  # events that are counted at once
TIME_BOUNDS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histograms of times, in seconds."""
ROW_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Upper bounds of the histograms of rows a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """A histogram: cumulative counts by upper bound, and the sum of what was counted."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


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
        count: Requests that it answered.
        failed: Requests that failed in it.
        runs: Runs that succeeded; fewer than `count` where requests were batched.
        replaced: Times its backend died and was loaded anew.
        fallbacks: Runs that the stage's backend refused and a later one did, by the name of the later one.
        busy_s: Sum of the time of all runs.
        service: Time of one run.
        waited: Time a request waited for its run.
        mean_rows: Rows a run, on average; 0 before the first.
        queue: Requests waiting for it now.
        utilisation: Share of its device's worker time spent in it, 0 to 1.
        substitution: Why it does not run as planned; empty where it does.
    """

    index: int
    device: str
    count: int
    failed: int
    runs: int
    replaced: int
    fallbacks: Mapping[str, int]
    busy_s: float
    service: ServiceTime
    waited: ServiceTime
    mean_rows: float
    queue: int
    utilisation: float
    substitution: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStats:
    """The whole pipeline since it was loaded.

    Args:
        uptime_s: Seconds since then.
        completed: Requests with a result.
        failed: Requests with an error, cancelled and expired ones included.
        failures: How many by what went wrong.
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
    failures: Mapping[str, int]
    latency: ServiceTime
    latency_sum_s: float
    inside: int
    waiting: int
    stages: tuple[StageStats, ...]
    utilisation: dict[str, float]


class Recorder:
    """Counts one kind of event and the size of each: its seconds, or its rows. Thread-safe.

    What is added is only kept, and counted when someone asks or when much has come together: workers add between two
    stages, with caches full of tensors, where each object that they touch costs about a microsecond.

    Args:
        bounds: Upper bounds of the histogram.
    """

    def __init__(self, bounds: Sequence[float] = TIME_BOUNDS) -> None:
        self._lock = threading.Lock()
        self._added: deque[float] = deque()
        self._recent: deque[float] = deque(maxlen=_WINDOW)
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._failures: Counter[str] = Counter()
        self._total = 0.0
        self._least = math.inf

    def add(self, size: float) -> None:
        """Count one success."""
        self._added.append(size)
        if len(self._added) >= _TOGETHER:
            with self._counted():
                pass

    def add_failure(self, reason: str) -> None:
        """Count one failure; its time is not a service time."""
        with self._lock:
            self._failures[reason] += 1

    @property
    def count(self) -> int:
        """How many successes."""
        with self._counted():
            return sum(self._counts)

    @property
    def total(self) -> float:
        """Sum of their sizes."""
        with self._counted():
            return self._total

    @property
    def least(self) -> float:
        """The smallest size, infinite before the first."""
        with self._counted():
            return self._least

    @property
    def failures(self) -> dict[str, int]:
        """How many failures by reason."""
        with self._lock:
            return dict(self._failures)

    @property
    def failed(self) -> int:
        """All failures."""
        return sum(self.failures.values())

    def service(self) -> ServiceTime:
        """Return the times so far."""
        with self._counted():
            recent, count, total = sorted(self._recent), sum(self._counts), self._total
        mean_s = total / count if count else 0.0
        return ServiceTime(mean_s=mean_s, p50_s=_percentile(recent, 0.50), p99_s=_percentile(recent, 0.99))

    def distribution(self) -> Distribution:
        """Return the histogram so far; its last count is of everything."""
        with self._counted():
            counts, total = tuple(accumulate(self._counts)), self._total
        return Distribution(bounds=(*self._bounds, float("inf")), counts=counts, total=total)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Hold the lock, with all that was added before counted."""
        with self._lock:
            for _ in range(len(self._added)):
                size = self._added.popleft()
                self._counts[bisect_left(self._bounds, size)] += 1
                self._recent.append(size)
                self._total += size
                self._least = min(self._least, size)
            yield


class StageRecorders:
    """What is counted of one stage."""

    def __init__(self) -> None:
        self.service = Recorder()
        self.waited = Recorder()
        self.rows = Recorder(ROW_BOUNDS)


def _percentile(ordered: list[float], share: float) -> float:
    """Return the nearest-rank percentile, 0 of nothing."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
