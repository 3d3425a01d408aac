"""What the sections of the serving benchmark share: a place, packages of one network, sides that are measured in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import benchmarks.serving_models as models
from cutset.codegen.runtime.bench import HttpCaller, Load, load
from cutset.codegen.runtime.config import read_plan

PHOTO = np.random.default_rng(0).random((1, 3, models.SIZE, models.SIZE), np.float32)
CALLERS = 8
_T = TypeVar("_T")


class Bench:
    """A place, how long and how often to measure."""

    def __init__(self, place: Path, seconds: float, rounds: int) -> None:
        self.place, self.seconds, self.rounds = place, seconds, rounds
        self.network = models.residual_network(place / "cnn.onnx", blocks=10, channels=24)

    def package(self, name: str, **options: Any) -> Path:
        """Return the package of the residual network, made once."""
        folder = self.place / name
        return folder if folder.exists() else models.write_package(folder, self.network, PHOTO, **options)

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
