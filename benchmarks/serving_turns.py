"""What the sections of the serving benchmark share: a place, packages of one network, sides that are measured in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import benchmarks.serving_models as models
from cutset.codegen.runtime.bench import HttpCaller, Load, load
from cutset.codegen.runtime.config import read_plan

PHOTO = np.random.default_rng(0).random((1, 3, models.SIZE, models.SIZE), np.float32)
CALLERS = 8
NETWORKS: dict[str, Any] = {
    "small-cnn": {"blocks": (10,), "channels": 24},
    "resnet-34": {"blocks": (3, 4, 6, 3), "channels": 64},
}
"""The residual networks that are served: of 8 ms, and of the size that usually reads such a photo."""
_T = TypeVar("_T")


class Bench:
    """A place, how long and how often to measure, which residual networks, and against which other servers."""

    def __init__(self, place: Path, seconds: float, rounds: int, networks: Sequence[str], peers: Sequence[str]) -> None:
        self.place, self.seconds, self.rounds, self.networks, self.peers = place, seconds, rounds, networks, peers

    def package(self, network: str, stages: int) -> Path:
        """Return the package of one of the residual networks, made once."""
        folder = self.place / f"{network}-{stages}"
        if folder.exists():
            return folder
        model = self.place / f"{network}.onnx"
        if not model.exists():
            models.residual_network(model, **NETWORKS[network])
        return models.write_package(folder, model, PHOTO, stages=stages)

    def in_turns(self, sides: Mapping[str, Callable[[], _T]], rounds: int | None = None) -> dict[str, list[_T]]:
        """Return what each side measured in each round; every other round goes backwards, so that a drift meets all alike."""
        found: dict[str, list[_T]] = {name: [] for name in sides}
        for number in range(rounds or self.rounds):
            for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                found[name].append(sides[name]())
        return found


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of turns that followed each other."""
    return statistics.median(one / other if other else math.inf for one, other in zip(above, below, strict=True))


def http_load(url: str, folder: Path, callers: int, seconds: float) -> Load:
    """Return what callers over HTTP get."""
    plan = read_plan(folder)
    return load(lambda: HttpCaller(url, plan, {models.INPUT: PHOTO}), callers, seconds)


def timed(call: Callable[[], Any]) -> float:
    """Return the seconds a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
