"""Time parts of a model in turns with the whole, in one process: their ratios then hold however the machine's speed moves.

Timed one after the other, a part and the whole meet two speeds of the machine, of which the gauge tells only what its own
computation shares. In their turn the parts run one after the other, as a request passes through them, so that the caches
are in the state that the whole finds: alone, a part of a model may fit where the model does not.
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
    take_turn,
    typical_s,
)

KNOWN = 0.01
"""Half the width of the interval of every ratio, over the ratio, under which more rounds would tell nothing new."""


def time_in_turns(jobs: Sequence[SessionJob]) -> list[SessionTime]:
    """Return the latencies of sessions on the CPU: of the first its own, of the others its own times their ratio to it.

    Args:
        jobs: The whole and its parts; together they may take the sum of their budgets, and all are open at once.

    Raises:
        ModelError: If onnxruntime does not load a model.
        ProfileError: If one does not run on its feed.
    """
    whole, *parts = [_call(job) for job in jobs]
    take_turn([whole, *parts])  # the first runs of a session take longer
    rounds: list[list[list[Run]]] = []
    readings: list[float] = []
    end = time.perf_counter() + sum(job.budget_s for job in jobs)
    before_s = gauge().read()
    while len(rounds) < MIN_RUNS or (time.perf_counter() < end and not _known(_ratios(rounds))):
        if len(rounds) % 2:  # what drifts within a round cancels out in two
            of_parts = take_turn(parts)
            rounds.append([*take_turn([whole]), *of_parts])
        else:
            rounds.append([*take_turn([whole]), *take_turn(parts)])
        after_s = gauge().read()
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


def _gauged(rounds: Sequence[Sequence[Sequence[Run]]], readings: Sequence[float], place: int) -> list[Run]:
    """Return all runs of one session, each with what the gauge read around its round."""
    return [
        Run(wall_s=entry.wall_s, cpu_s=entry.cpu_s, quiet=entry.quiet, gauge_s=reading)
        for turns, reading in zip(rounds, readings, strict=True)
        for entry in turns[place]
    ]


def _ratios(rounds: Sequence[Sequence[Sequence[Run]]]) -> npt.NDArray[np.float64]:
    """Return, for each round and session, the typical time over the first session's in that round."""
    times: npt.NDArray[np.float64] = np.array([[typical_s(runs) for runs in turns] for turns in rounds])
    ratios: npt.NDArray[np.float64] = times / times[:, :1]
    return ratios


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
