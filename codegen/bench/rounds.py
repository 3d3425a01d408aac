"""Interleaved rounds: every subject runs in each, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy import stats

from cutset.codegen.bench.subjects import PIPELINE, Subject
from cutset.codegen.runtime.bench import Load, load
from cutset.errors import ProfileError
from cutset.profilers.gauge import gauge

MOST_HALF_WIDTH = 0.015
"""The ratio is known when its 95 % interval is within this share of it on either side: under 3 % from end to end."""
FEWEST, MOST = 4, 60
"""Rounds; an interval needs a few to mean anything."""
ANSWERS = 30
"""Answers of the slowest subject in a round, about."""
SHORTEST_S, LONGEST_S = 0.3, 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What was measured.

    Args:
        loads: What each subject reached in each round.
        seconds: Length of a round of one subject.
        ratio: Pipeline over its slowest resource alone: the mean over the rounds.
        half_width: Half of the ratio's 95 % interval, as a share of it.
        slowness: How many times slower than at its own speed the machine was before and after the pipeline's turns, the median.
    """

    loads: Mapping[str, tuple[Load, ...]]
    seconds: float
    ratio: float
    half_width: float
    slowness: float = 1.0

    @property
    def count(self) -> int:
        """Rounds that were run."""
        return len(self.loads[PIPELINE])

    def throughput(self, name: str) -> float:
        """Return the median over the rounds, requests a second."""
        return median(entry.throughput_per_s for entry in self.loads[name])

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
    seconds = _round_s(subjects, budget_s)
    loads: dict[str, list[Load]] = {subject.name: [] for subject in subjects}
    ratios: list[float] = []
    readings: list[float] = []
    while len(ratios) < MOST:
        progress(f"round {len(ratios) + 1}: {len(subjects)} subjects, {seconds:.1f} s each")
        turn = len(ratios) % len(subjects)
        for subject in (*subjects[turn:], *subjects[:turn]):
            around = subject.name == PIPELINE
            if around:
                readings.append(gauge().read())
            loads[subject.name].append(_measured(subject, seconds))
            if around:
                readings.append(gauge().read())
            if not loads[subject.name][-1].throughput_per_s:
                raise ProfileError(
                    f"{subject.title} answered nothing within {seconds:.1f} s", hint="give it more time: --seconds"
                )
        ratios.append(_ratio({name: found[-1].throughput_per_s for name, found in loads.items()}, devices))
        spent = time.monotonic() - begin
        if len(ratios) >= FEWEST and half_width(ratios) <= MOST_HALF_WIDTH:
            break
        if spent + spent / len(ratios) > budget_s and len(ratios) >= 2:
            break
    return Rounds(
        loads={name: tuple(found) for name, found in loads.items()},
        seconds=seconds,
        ratio=float(np.mean(ratios)),
        half_width=half_width(ratios),
        slowness=float(np.median(gauge().slowness(readings))),
    )


def _round_s(subjects: Sequence[Subject], budget_s: float) -> float:
    """Return how long each subject runs in a round: long enough for the slowest, short enough for some rounds."""
    slowest_s = max(_once_s(subject) for subject in subjects)
    wanted = min(LONGEST_S, max(SHORTEST_S, ANSWERS * slowest_s))
    return max(0.05, min(wanted, budget_s / (FEWEST * len(subjects))))


def _once_s(subject: Subject) -> float:
    """Return the seconds of a call after a first one, which loads what is loaded late."""
    call = subject.caller()
    call()
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


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


def _ratio(rates: Mapping[str, float], devices: Mapping[str, str]) -> float:
    return rates[PIPELINE] / min(resource_rates(rates, devices).values())


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of the mean (Student's t), as a share of it; infinite for one value."""
    if len(values) < 2:
        return math.inf
    spread = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return spread / float(np.mean(values))
