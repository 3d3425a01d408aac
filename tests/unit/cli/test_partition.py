"""A split that was seen to be slower than the whole model is undone."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cutset.cli.commands import partition
from cutset.codegen.package import EmitOptions
from cutset.errors import PlanError


@dataclass(frozen=True)
class Made:
    """As much of a plan as is looked at."""

    decision: str = "split"
    objective: str = "throughput"
    calibration: dict[str, Any] = field(default_factory=dict)
    baselines: dict[str, Any] = field(
        default_factory=lambda: {"all_cpu": {"throughput_per_s": 100.0}, "all_gpu": None, "mix": {"throughput_per_s": 900.0}}
    )


@dataclass
class Planning:
    """As much of what plans as is looked at."""

    planner: Any
    sized: Any
    outcome: Any = None


@dataclass(frozen=True)
class Sized:
    options: Any


@dataclass(frozen=True)
class Options:
    max_stages: int = 5


def reached(rate: float) -> dict[str, Any]:
    return {"pipeline": {"throughput_per_s": rate, "prediction_error": 1.0}}


@pytest.mark.parametrize(
    ("made", "undone"),
    [
        (Made(calibration=reached(90)), True),
        (Made(calibration=reached(110)), False),
        (Made(calibration={}), False),
        (Made(calibration=reached(90), decision="unsplit-cpu"), False),
        (Made(calibration=reached(90), objective="latency"), False),
    ],
    ids=["slower", "quicker", "not seen", "whole already", "for latency"],
)
@pytest.mark.parametrize("pinned", [False, True])
def test_a_split_that_loses_is_undone(monkeypatch, made, undone, pinned):
    asked: list[tuple[int, bool]] = []
    notices: list[str] = []

    def emit(planning, _of_engines, emission, _target):
        asked.append((planning.sized.options.max_stages, emission.force))
        if len(asked) > 1 and pinned:
            raise PlanError("the pins need two devices")
        return (made if len(asked) == 1 else replace(made, decision="unsplit-cpu")), "proof"

    monkeypatch.setattr(partition, "_emit", emit)
    planning = Planning(planner=SimpleNamespace(output=SimpleNamespace(notice=notices.append)), sized=Sized(Options()))
    found, _ = partition._emit_best(planning, None, EmitOptions(), Path("out"))
    assert asked == ([(5, False), (1, True)] if undone else [(5, False)])
    assert found.decision == ("unsplit-cpu" if undone and not pinned else made.decision)
    assert bool(notices) is undone
