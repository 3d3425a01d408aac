"""Time several sessions in turns, in one process: their ratios then hold however the speed of the machine moves.

Timed one after the other, two sessions meet two speeds of the machine, of which the gauge tells only the part that its own
computation shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cutset.profilers.gauge import gauge
from cutset.profilers.ort_child import SessionJob, SessionTime, open_job
from cutset.profilers.session import run
from cutset.profilers.table import Latency
from cutset.profilers.timing import (
    CALM,
    MIN_RUNS,
    SETTLED,
    Run,
    at_own_speed,
    half_width,
    median_interval,
    summarise,
    time_once,
)

TURN_S = 0.002
"""Seconds of a turn. In a turn of several runs the first does not count: it fills the caches of the core. A longer run
finds there what the others left, as in a pipeline, and pays for its weights as it does inside the whole model."""

KNOWN = 0.01
"""Half the width of the interval of every ratio, over the ratio, under which more rounds would tell nothing new."""


def time_in_turns(jobs: Sequence[SessionJob]) -> list[SessionTime]:
    """Return the latencies of sessions on the CPU: of the first its own, of the others its own times their ratio to it.

    Args:
        jobs: What to run; together they may take the sum of their budgets, and all are open at once.

    Raises:
        ModelError: If onnxruntime does not load a model.
        ProfileError: If one does not run on its feed.
    """
    calls = [_call(job) for job in jobs]
    for call in calls:
        call()
    rounds: list[list[list[Run]]] = []
    readings: list[float] = []
    end = time.perf_counter() + sum(job.budget_s for job in jobs)
    before_s = gauge().read()
    while len(rounds) < MIN_RUNS or (time.perf_counter() < end and not _known(_ratios(rounds))):
        found: list[list[Run]] = [[] for _ in calls]
        places = range(len(calls))
        for place in places if len(rounds) % 2 else reversed(places):  # what drifts within a round cancels out in two
            found[place] = _turn(calls[place])
        after_s = gauge().read()
        rounds.append(found)
        readings.append((before_s + after_s) / 2)
        before_s = after_s
    first = summarise(at_own_speed(_gauged(rounds, readings, 0), gauge()), threads=jobs[0].threads)
    calm = gauge().slowness(readings) <= CALM
    ratios = _ratios(rounds)[calm if np.count_nonzero(calm) >= MIN_RUNS else slice(None)]
    others = [_times(first, ratios[:, place], sum(len(turns[place]) for turns in rounds)) for place in range(1, len(jobs))]
    return [SessionTime(latency=latency) for latency in (first, *others)]


def _call(job: SessionJob) -> Callable[[], object]:
    gauge().remember(job.gauge_s)
    session = open_job(job)
    return lambda: run(session, job.feed)


def _turn(call: Callable[[], object]) -> list[Run]:
    runs = [time_once(call)]
    spent_s = runs[0].wall_s
    while spent_s < TURN_S:
        runs.append(time_once(call))
        spent_s += runs[-1].wall_s
    return runs[1:] or runs


def _gauged(rounds: Sequence[Sequence[Sequence[Run]]], readings: Sequence[float], place: int) -> list[Run]:
    """Return all runs of one session, each with what the gauge read around its round."""
    return [
        Run(wall_s=entry.wall_s, cpu_s=entry.cpu_s, quiet=entry.quiet, gauge_s=reading)
        for turns, reading in zip(rounds, readings, strict=True)
        for entry in turns[place]
    ]


def _ratios(rounds: Sequence[Sequence[Sequence[Run]]]) -> npt.NDArray[np.float64]:
    """Return, for each round and session, the typical time over the first session's in that round."""
    times = np.array([[_typical_s(runs) for runs in turns] for turns in rounds])
    return times / times[:, :1]


def _typical_s(runs: Sequence[Run]) -> float:
    quiet = [entry.wall_s for entry in runs if entry.quiet]
    return float(np.median(quiet or [entry.wall_s for entry in runs]))


def _known(ratios: npt.NDArray[np.float64]) -> bool:
    return len(ratios) > MIN_RUNS and all(half_width(column) <= KNOWN for column in ratios.T)


def _times(first: Latency, ratios: npt.NDArray[np.float64], runs: int) -> Latency:
    """Return a latency times a ratio that was seen in some rounds."""
    p10, median, p90 = (np.percentile(ratios, [10, 50, 90]) * first.median).tolist()
    low, high = median_interval(ratios)
    return Latency(
        median=median,
        p10=p10,
        p90=p90,
        low=low * first.median,
        high=high * first.median,
        settled=half_width(ratios) <= SETTLED,
        samples=len(ratios),
        runs=runs,
        clock=first.clock,
    )
