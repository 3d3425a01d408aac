"""The CPU in place of a GPU: the same code runs, and every file says so. It is evidence of the script alone."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.command import cutset
from benchmarks.gpu.job import Job
from cutset import serde
from cutset.files import write_atomic
from cutset.profilers.table import CostTable, Direction, GroupCost, read_profile
from cutset.profilers.transfer import TransferMeasurement, TransferProfile, fit_transfer

NAME = "CPU in place of a GPU"
SIZES = (1 << 12, 1 << 18, 1 << 22)
TIMES = 9
QUICKER = 4.0
"""How many times quicker the stand-in is said to be than a core: a plan for an equal one would use no GPU."""


def stand_in_copies() -> TransferProfile:
    """Return what copies within the host's memory take, as if they went to a device."""
    found: list[TransferMeasurement] = []
    for pinned in (False, True):
        directions: tuple[Direction, ...] = ("h2d", "d2h")
        for direction in directions:
            samples = [(size, _copy_s(size)) for size in SIZES]
            found.append(fit_transfer(samples, direction=direction, pinned=pinned))
    return TransferProfile(device=NAME, measurements=tuple(found), state=None)


def _copy_s(size: int) -> float:
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - begin)
    return min(times)


def stand_in_profile(job: Job, model: Path) -> Path:
    """Return a profile of a model to plan with, in which the CPU's costs, divided by `QUICKER`, stand for a GPU's."""
    measured, target = job.folder / "cpu-profile.json", job.folder / f"{model.stem}-stand-in.json"
    cutset(
        "profile",
        model,
        "-o",
        measured,
        "--target",
        "cpu",
        "--profile-seconds",
        job.measured_s,
        "--cache",
        job.folder / "cache",
    )
    table: CostTable = read_profile(measured)
    groups = tuple(_quicker(group) for group in table.groups_on("cpu"))
    about = {"id": "stand-in", "name": NAME, "source": "measured"}
    made = replace(table, target=about, groups=table.groups + groups, transfers=stand_in_copies().models())
    return write_atomic(target, serde.dumps(made).encode())


def _quicker(group: GroupCost) -> GroupCost:
    times: dict[str, Any] = {name: (getattr(group, name) or 0.0) / QUICKER for name in ("latency_s", "low_s", "high_s")}
    return replace(group, device="gpu", unfused_s={name: s / QUICKER for name, s in group.unfused_s.items()}, **times)
