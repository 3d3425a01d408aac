"""Repeat a call and say how long it takes on a machine that others share.

The wall-clock median never settles when other processes run, so a run counts only if the kernel did not preempt the
thread; with too few such runs the thread's CPU time is used instead. What slows a run without preempting it is divided out,
as far as `gauge` shows it.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from cutset.profilers.gauge import Gauge, doubt, slowdown
from cutset.profilers.table import Latency

MIN_QUIET_RUNS = 5
MIN_RUNS = 5
SETTLED_RUNS = 15
MAX_RUNS = 1000

SETTLED_S = 0.5
"""Least seconds before a median counts as settled: what else the machine does changes within tenths of a second."""

SETTLED = 0.05
"""Half the width of the median's interval over the median, under which more runs would tell nothing new."""

CALM = 1.25
"""How many times slower than at its own speed the machine may be in a run that counts as undisturbed."""

GAUGE_EVERY_S = 0.005
"""Least seconds of calls between two readings of the gauge, each of which takes a fifth of a millisecond or two."""

TURN_S = 0.02
"""Least seconds of a turn."""

PAUSE_S = 0.005
"""Seconds between two looks at whether a disturbed machine has calmed down."""

Z_95 = 1.96


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One timed call.

    Args:
        wall_s: Wall seconds.
        cpu_s: CPU seconds of the calling thread.
        quiet: Whether the thread was not preempted.
        gauge_s: Mean of the gauge's readings before and after, zero without a gauge.
        doubt: By what factor its time may be off, either way, because of what others did to the machine meanwhile.
    """

    wall_s: float
    cpu_s: float
    quiet: bool
    gauge_s: float = 0.0
    doubt: float = 1.0


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


def time_once(call: Callable[[], object]) -> Run:
    """Return the times of one call."""
    before, cpu, wall = _preemptions(), time.thread_time_ns(), time.perf_counter_ns()
    call()
    wall, cpu, after = time.perf_counter_ns() - wall, time.thread_time_ns() - cpu, _preemptions()
    return Run(wall_s=wall * 1e-9, cpu_s=cpu * 1e-9, quiet=before == after)


def repeat(
    call: Callable[[], object],
    *,
    budget_s: float,
    max_runs: int = MAX_RUNS,
    warmup: int = 2,
    within: float = SETTLED,
    speed: Gauge | None = None,
) -> list[Run]:
    """Return the runs made: at least five, until their median has settled, `max_runs` are made or `budget_s` is spent.

    Args:
        call: What to time.
        budget_s: Seconds to spend, warm-up aside.
        max_runs: Most runs that count.
        warmup: Runs before those.
        within: Half the width of the median's interval over the median that is narrow enough; zero asks for all runs.
        speed: Read between the runs.
    """
    for _ in range(warmup):
        call()
    runs: list[Run] = []
    start = time.perf_counter()
    before_s = speed.read() if speed else 0.0
    while len(runs) < max(MIN_RUNS, max_runs):
        spent_s = time.perf_counter() - start
        if len(runs) >= MIN_RUNS and (spent_s >= budget_s or (spent_s >= SETTLED_S and settled(runs, speed, within=within))):
            break
        fresh = _for_a_while([call], min(GAUGE_EVERY_S, budget_s - spent_s), max(MIN_RUNS, max_runs) - len(runs))
        after_s = speed.read() if speed else 0.0
        runs += [replace(entry, gauge_s=(before_s + after_s) / 2) for (entry,) in fresh]
        before_s = after_s
    return runs


def take_turn(calls: Sequence[Callable[[], object]], *, seconds: float = TURN_S, most: int = MAX_RUNS) -> list[list[Run]]:
    """Return the runs of each call in a turn of passes through all of them, at least one and at most `most`.

    What the turn before left in the caches is gone after the first pass, whose runs do not count as quiet if there are more.
    """
    passes = _for_a_while(calls, seconds, most)
    if len(passes) > 1:
        passes[0] = [replace(entry, quiet=False) for entry in passes[0]]
    return [list(runs) for runs in zip(*passes, strict=True)]


def await_calm(speed: Gauge, until: float) -> None:
    """Return once the machine is calm, or at the time `until` of `time.perf_counter`: its disturbances come and go."""
    while time.perf_counter() < until and speed.slowness([speed.read()])[0] > CALM:
        time.sleep(PAUSE_S)


def typical_s(runs: Sequence[Run]) -> float:
    """Return the median wall seconds of the quiet runs, or of all where none was quiet."""
    return float(np.median([entry.wall_s for entry in runs if entry.quiet] or [entry.wall_s for entry in runs]))


def _for_a_while(calls: Sequence[Callable[[], object]], seconds: float, most: int) -> list[list[Run]]:
    """Return passes through the calls of so many seconds: at least one, and no more than `most`."""
    passes: list[list[Run]] = []
    spent_s = 0.0
    while not passes or (len(passes) < most and spent_s < seconds):
        passes.append([time_once(call) for call in calls])
        spent_s += sum(entry.wall_s for entry in passes[-1])
    return passes


def at_own_speed(runs: Sequence[Run], speed: Gauge) -> list[Run]:
    """Return the runs as they would have been had the machine been left alone, as far as the gauge knows.

    Where as many as settle a median were made in calm moments, the others do not count as quiet.
    """
    slowness = speed.slowness([entry.gauge_s for entry in runs])
    counts = undisturbed(runs, slowness, enough=SETTLED_RUNS).tolist()
    factors = zip(slowdown(slowness).tolist(), doubt(slowness).tolist(), strict=True)
    return [
        replace(entry, wall_s=entry.wall_s / by, cpu_s=entry.cpu_s / by, quiet=quiet, doubt=off)
        for entry, quiet, (by, off) in zip(runs, counts, factors, strict=True)
    ]


def undisturbed(
    runs: Sequence[Run], slowness: npt.NDArray[np.float64], *, enough: int = MIN_QUIET_RUNS
) -> npt.NDArray[np.bool_]:
    """Return which runs nothing disturbed: not preempted, and on a calm machine, as long as there are enough of those.

    What slows the machine slows some kernels twice as much as others, so a run in a calm moment tells more than
    one that is corrected.

    Args:
        runs: The runs.
        slowness: How many times slower the machine was in each of them.
        enough: How many have to be in calm moments for the others not to count.
    """
    calm = _calm(runs, slowness)
    return calm if np.count_nonzero(calm) >= enough else np.array([entry.quiet for entry in runs], bool)


def _calm(runs: Sequence[Run], slowness: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.array([entry.quiet for entry in runs], bool) & (slowness <= CALM)


def settled(runs: Sequence[Run], speed: Gauge | None, *, within: float = SETTLED) -> bool:
    """Return whether more runs would tell nothing new; on a disturbed machine a calmer moment may still come.

    Args:
        runs: What was timed so far.
        speed: The gauge that was read between them, if one was.
        within: Half the width of the median's interval over the median that is narrow enough.
    """
    slowness = speed.slowness([entry.gauge_s for entry in runs]) if speed else np.ones(len(runs))
    calm = _calm(runs, slowness)
    if np.count_nonzero(calm) < SETTLED_RUNS:
        return False
    times = np.array([entry.wall_s for entry in runs])[calm] / slowdown(slowness[calm])
    return half_width(times, off=float(np.median(doubt(slowness[calm])))) <= within


def median_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median of `values`, whatever their distribution.

    Source:
        Conover, "Practical Nonparametric Statistics", 3rd ed., section 3.2 (order statistics, normal approximation).
    """
    ordered = np.sort(values)
    n = len(ordered)
    reach = Z_95 * np.sqrt(n)
    low, high = int(np.floor((n - reach) / 2)), int(np.ceil((n + reach) / 2))
    return float(ordered[max(0, low)]), float(ordered[min(n - 1, high)])


def half_width(values: np.ndarray, *, off: float = 1.0) -> float:
    """Return half the width of the median's interval over the median, zero for a median of zero.

    Args:
        values: What the median is of.
        off: By what factor all of them may be off, either way.
    """
    low, high = median_interval(values)
    median = float(np.median(values))
    return (high * off - low / off) / 2 / median if median > 0 else 0.0


def summarise(runs: list[Run], *, threads: int = 1) -> Latency:
    """Return the latency that `runs` show; its interval holds what the correction for a disturbed machine may be off.

    Args:
        runs: From `repeat`.
        threads: Threads that did the work; above one, CPU time of the caller says nothing and wall time is used.
    """
    quiet = [run for run in runs if run.quiet]
    enough = len(quiet) >= MIN_QUIET_RUNS
    clock: Literal["wall", "cpu"] = "wall" if enough or threads > 1 else "cpu"
    chosen = quiet if enough else runs
    values = np.array([run.wall_s if clock == "wall" else run.cpu_s for run in chosen])
    p10, median, p90 = np.percentile(values, [10, 50, 90]).tolist()
    off = float(np.median([run.doubt for run in chosen]))
    low, high = median_interval(values)
    return Latency(
        median=median,
        p10=p10,
        p90=p90,
        low=low / off,
        high=high * off,
        settled=half_width(values, off=off) <= SETTLED,
        samples=len(values),
        runs=len(runs),
        clock=clock,
    )


def fit_affine(batches: list[int], seconds: list[float]) -> tuple[float, float]:
    """Return ``(a, c)`` of t(b) = a + c b with a >= 0, by least squares of the relative error.

    Args:
        batches: At least two different batch sizes.
        seconds: Latency at each.
    """
    b, t = np.array(batches, float), np.array(seconds, float)
    system = np.stack([1 / t, b / t], axis=1)
    (a, c), *_ = np.linalg.lstsq(system, np.ones(len(t)), rcond=None)
    if a < 0:
        a, c = 0.0, float((b / t).sum() / ((b / t) ** 2).sum())
    return float(a), float(c)
