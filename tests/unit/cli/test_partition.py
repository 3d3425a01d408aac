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
    ("made", "tried"),
    [
        (Made(calibration=reached(90)), True),
        (Made(calibration=reached(110)), False),
        (Made(calibration={}), False),
        (Made(calibration=reached(90), decision="unsplit-cpu"), False),
        (Made(calibration=reached(90), objective="latency"), False),
    ],
    ids=["slower than said", "quicker", "not seen", "whole already", "for latency"],
)
@pytest.mark.parametrize(("whole_per_s", "kept"), [(95, "unsplit-cpu"), (60, "split"), (None, "split"), (0, "split")])
def test_a_split_is_undone_only_where_the_whole_was_seen_to_be_quicker(monkeypatch, made, tried, whole_per_s, kept):
    """None for a whole model that pins forbid, zero for one whose rate was not seen."""
    asked: list[tuple[int, bool]] = []
    notices: list[str] = []

    def emit(planning, _of_engines, emission, _target):
        stages = planning.sized.options.max_stages
        asked.append((stages, emission.force))
        if stages > 1:
            return made, "proof"
        if whole_per_s is None:
            raise PlanError("the pins need two devices")
        return replace(made, decision="unsplit-cpu", calibration=reached(whole_per_s) if whole_per_s else {}), "proof"

    monkeypatch.setattr(partition, "_emit", emit)
    planning = Planning(planner=SimpleNamespace(output=SimpleNamespace(notice=notices.append)), sized=Sized(Options()))
    found, _ = partition._emit_best(planning, None, EmitOptions(), Path("out"))
    if not tried:
        assert (asked, found, notices) == ([(5, False)], made, [])
        return
    again = [] if whole_per_s is None or kept == "unsplit-cpu" else [(5, True)]
    assert asked == [(5, False), (1, True), *again]
    assert found.decision == kept
    assert len(notices) == (whole_per_s is not None)
