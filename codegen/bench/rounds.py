"""Interleaved rounds of short turns: every subject runs in each, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from cutset.codegen.bench.subjects import PIPELINE, REPLICAS, Subject
from cutset.codegen.runtime.bench import Load, load
from cutset.errors import ProfileError
from cutset.profilers.gauge import gauge
from cutset.profilers.timing import CALM, median_interval

WIDEST = 0.03
"""The ratio is known when its 95 % interval, from end to end, is within this share of it."""
FEWEST, MOST = 6, 400
"""Rounds; an interval needs a few to mean anything."""
ANSWERS = 6
"""Calls of the slowest subject in a round, about: the machine's speed moves within tenths of seconds."""
FEWEST_ANSWERS = 4
SHORTEST_S, LONGEST_S = 0.25, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What was measured in the rounds that count: those in which the machine was calm, if there are enough, else all.

    Args:
        loads: What each subject reached in each of them.
        seconds: Length of a round of one subject.
        ratio: Pipeline over its slowest resource alone: the median over them.
        interval: The ratio's 95 % interval.
        slowness: How many times slower than at its own speed the machine was around the pipeline's turns, the median.
        disturbed: Rounds that do not count.
    """

    loads: Mapping[str, tuple[Load, ...]]
    seconds: float
    ratio: float
    interval: tuple[float, float]
    slowness: float = 1.0
    disturbed: int = 0

    @property
    def count(self) -> int:
        """Rounds that count."""
        return len(self.loads[PIPELINE])

    def throughput(self, name: str) -> float:
        """Return the median over the rounds, requests a second."""
        return median(entry.throughput_per_s for entry in self.loads[name])

    def gain(self, name: str) -> float:
        """Return the pipeline's throughput over another's in the same round: the median over the rounds."""
        pairs = zip(self.loads[PIPELINE], self.loads[name], strict=True)
        return median(pipeline.throughput_per_s / other.throughput_per_s for pipeline, other in pairs)

    def latency(self, name: str) -> dict[str, float]:
        """Return the median over the rounds of the median and of the 99th percentile, in seconds."""
        return {
            "p50": median(entry.p50_s for entry in self.loads[name]),
            "p99": median(entry.p99_s for entry in self.loads[name]),
        }


def run_rounds(
    subjects: Sequence[Subject], devices: Mapping[str, str], budget_s: float, progress: Callable[[str], None]
) -> Rounds:
    """Return what every subject reaches, measured until the ratio is known or the time is up.

    Args:
        subjects: What is measured, the pipeline and its stages among them.
        devices: Device of each stage's subject.
        budget_s: Seconds for all rounds.
        progress: Told of each round.

    Raises:
        ProfileError: If a subject answers nothing in its share of the time.
    """
    begin = time.monotonic()
    once_s = {subject.name: _once_s(subject) for subject in subjects}
    seconds = _round_s(tuple(once_s.values()), budget_s)
    order = _order(subjects, devices, once_s)
    rounds: list[_Round] = []
    while len(rounds) < MOST:
        progress(f"round {len(rounds) + 1}: {len(subjects)} subjects, {seconds:.2g} s each")
        rounds.append(_run_round(order if len(rounds) % 2 else order[::-1], seconds))
        kept = _counting(rounds, devices)
        if len(kept) >= FEWEST and _known([entry.ratio(devices) for entry in kept]):
            break
        spent = time.monotonic() - begin
        if spent + spent / len(rounds) > budget_s and len(rounds) >= 2:
            break
    ratios = [entry.ratio(devices) for entry in kept]
    return Rounds(
        loads={subject.name: tuple(entry.loads[subject.name] for entry in kept) for subject in subjects},
        seconds=seconds,
        ratio=median(ratios),
        interval=median_interval(np.array(ratios)),
        slowness=median(entry.slowness(PIPELINE) for entry in kept),
        disturbed=len(rounds) - len(kept),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """What each subject reached in its turn, and the mean of the gauge's readings before and after it."""

    loads: Mapping[str, Load]
    gauge_s: Mapping[str, float]

    def ratio(self, devices: Mapping[str, str]) -> float:
        rates = {name: entry.throughput_per_s for name, entry in self.loads.items()}
        return rates[PIPELINE] / min(resource_rates(rates, devices).values())

    def slowness(self, name: str) -> float:
        return float(gauge().slowness([self.gauge_s[name]])[0])


def _run_round(subjects: Sequence[Subject], seconds: float) -> _Round:
    loads: dict[str, Load] = {}
    readings: dict[str, float] = {}
    before_s = gauge().read()
    for subject in subjects:
        loads[subject.name] = _measured(subject, seconds)
        if not loads[subject.name].throughput_per_s:
            raise ProfileError(f"{subject.title} answered nothing within {seconds:.1f} s", hint="give it more time: --seconds")
        after_s = gauge().read()
        readings[subject.name] = (before_s + after_s) / 2
        before_s = after_s
    return _Round(loads=loads, gauge_s=readings)


def _counting(rounds: Sequence[_Round], devices: Mapping[str, str]) -> Sequence[_Round]:
    """Return the rounds in which the machine was calm while the pipeline and its stages had their turns, or all."""
    calm = [entry for entry in rounds if all(entry.slowness(name) <= CALM for name in (PIPELINE, *devices))]
    return calm if len(calm) >= FEWEST else rounds


def _known(ratios: Sequence[float]) -> bool:
    low, high = median_interval(np.array(ratios))
    return high - low <= WIDEST * median(ratios)


def _order(subjects: Sequence[Subject], devices: Mapping[str, str], once_s: Mapping[str, float]) -> Sequence[Subject]:
    """Return the subjects with the slowest stage on one side of the pipeline and what it is held against on the other.

    Rounds go through them forwards and backwards by turns: what drifts within a round cancels out in two.
    """
    stages = sorted((subject for subject in subjects if subject.name in devices), key=lambda subject: once_s[subject.name])
    others = [subject for subject in subjects if subject.name not in devices]
    others.sort(key=lambda subject: (subject.name == PIPELINE, subject.name == REPLICAS))
    return [*others, *stages[::-1]]


def _round_s(once_s: Sequence[float], budget_s: float) -> float:
    """Return how long each subject runs in a round: long enough for the slowest, short enough for some rounds.

    A turn of few calls says little, so of a slow subject rather the rounds are few.
    """
    slowest_s = max(once_s)
    wanted = min(LONGEST_S, max(SHORTEST_S, ANSWERS * slowest_s))
    least = min(FEWEST_ANSWERS * slowest_s, budget_s / (2 * len(once_s)))
    return max(0.05, least, min(wanted, budget_s / (FEWEST * len(once_s))))


def _once_s(subject: Subject) -> float:
    """Return the seconds of a call after a first one, which loads what is loaded late."""
    call = subject.caller()
    try:
        call()
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    finally:
        getattr(call, "close", lambda: None)()


def _measured(subject: Subject, seconds: float) -> Load:
    found = load(subject.caller, subject.concurrency, seconds)
    return Load(
        concurrency=found.concurrency,
        throughput_per_s=found.throughput_per_s * subject.rows,
        p50_s=found.p50_s,
        p99_s=found.p99_s,
        failed=found.failed,
    )


def resource_rates(rates: Mapping[str, float], devices: Mapping[str, str]) -> dict[str, float]:
    """Return the requests a second of each device alone: one request needs all of its stages, one after the other."""
    seconds: dict[str, float] = {}
    for name, device in devices.items():
        seconds[device] = seconds.get(device, 0.0) + (1 / rates[name] if rates[name] else math.inf)
    return {device: 1 / value for device, value in seconds.items()}
