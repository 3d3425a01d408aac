"""How well runs on a machine that others slow are brought to its own speed.

usage: python -m benchmarks.gauge [-o FILE] [--markdown] [--minutes N] [--seconds N] [--powers P ...]

Sessions of several models run in turns of some seconds, the gauge read between the runs, for as long as asked. Each turn is
then taken for a measurement of its own: for each power of the gauge's slowness that the runs are divided by, how much two
measurements of one model that follow each other differ, how many of their intervals have a time in common, and of those where
both call themselves settled, how many differ by more than that allows. On a calm machine all powers are the same.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.profiling import REPEATED, subject
from cutset import serde
from cutset.profilers import timing
from cutset.profilers.cache import CostCache, default_folder
from cutset.profilers.environment import environment
from cutset.profilers.gauge import POWER_APART, USUAL_POWER, gauge, keep, recall
from cutset.profilers.session import open_session, run
from cutset.profilers.table import Latency
from cutset.profilers.timing import SETTLED, Run, at_own_speed, repeat, summarise

POWERS = (0.0, 0.65, 0.75, 0.85, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How well measurements that follow each other agree.

    Args:
        power: Of the gauge's slowness, by which runs were divided.
        pairs: Of measurements of one model.
        rms: Root of the mean square of their differences, as shares.
        largest: The largest difference.
        overlap: Pairs whose intervals have a time in common.
        settled: Pairs of which both call themselves settled.
        settled_apart: Those of them that differ by more than `SETTLED`.
    """

    power: float
    pairs: int
    rms: float
    largest: float
    overlap: int
    settled: int
    settled_apart: int


def record(names: Sequence[str], folder: Path, *, minutes: float, seconds: float) -> dict[str, list[list[Run]]]:
    """Return the runs of each model, turn by turn."""
    calls = {}
    for name in names:
        of = subject(name, folder)
        calls[name] = (open_session(of.path, custom_ops=of.graph.custom_ops), of.inputs)
    turns: dict[str, list[list[Run]]] = {name: [] for name in names}
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        for name, (session, inputs) in calls.items():
            call = lambda s=session, x=inputs: run(s, x)  # noqa: E731
            turns[name].append(repeat(call, budget_s=seconds, max_runs=10**6, within=0, speed=gauge()))
    return turns


def measured(runs: Sequence[Run], power: float) -> Latency:
    """Return what a turn says, divided by a power of the gauge's slowness instead of the usual one."""
    slowness = gauge().slowness([entry.gauge_s for entry in runs])
    more = slowness ** (power - USUAL_POWER)
    return summarise(
        [
            replace(entry, wall_s=entry.wall_s / by, cpu_s=entry.cpu_s / by)
            for entry, by in zip(at_own_speed(runs, gauge()), more.tolist(), strict=True)
        ]
    )


def agreement(turns: dict[str, list[list[Run]]], power: float) -> Agreement:
    """Return how well the turns of each model agree with the next."""
    pairs = [pair for made in turns.values() for pair in pairwise([measured(runs, power) for runs in made])]
    apart = np.array([abs(np.log(b.median / a.median)) for a, b in pairs])
    both = np.array([a.settled and b.settled for a, b in pairs])
    common = [max(a.low or 0.0, b.low or 0.0) <= min(a.high or np.inf, b.high or np.inf) for a, b in pairs]
    return Agreement(
        power=power,
        pairs=len(pairs),
        rms=float(np.sqrt((apart**2).mean())),
        largest=float(apart.max()),
        overlap=sum(common),
        settled=int(both.sum()),
        settled_apart=int((both & (apart > SETTLED)).sum()),
    )


def markdown(rows: Sequence[Agreement]) -> str:
    """Return the table of the documentation."""
    lines = [
        "| power | pairs | differ by, rms | at most | intervals overlap | both settled | of these, over 5 % |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row.power} | {row.pairs} | {row.rms:.1%} | {row.largest:.1%} | {row.overlap} | {row.settled}"
        f" | {row.settled_apart} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write one JSON document, or the table alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=REPEATED, help="samples to run")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write the table to stdout, not JSON")
    parser.add_argument("--minutes", type=float, default=13.0, help="of recording")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a turn")
    parser.add_argument("--powers", type=float, nargs="+", default=POWERS)
    arguments = parser.parse_args()
    store = CostCache(default_folder())
    recall(store)
    with tempfile.TemporaryDirectory() as place:
        turns = record(arguments.models, Path(place), minutes=arguments.minutes, seconds=arguments.seconds)
    keep(store)
    slowness = gauge().slowness([entry.gauge_s for made in turns.values() for runs in made for entry in runs])
    rows = [agreement(turns, power) for power in arguments.powers]
    result: dict[str, Any] = {
        "environment": environment(),
        "load": os.getloadavg(),
        "slowness": dict(zip(("p10", "median", "p90"), np.percentile(slowness, [10, 50, 90]).tolist(), strict=True)),
        "settings": {"calm": timing.CALM, "power": USUAL_POWER, "apart": POWER_APART},
        "agreement": rows,
    }
    text = serde.dumps(result)
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(markdown(rows) if arguments.markdown else text)


if __name__ == "__main__":
    main()
