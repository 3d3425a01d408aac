"""Two records of a model, brought to where they can be compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cutset.codegen.ci.limits import Limits
from cutset.codegen.ci.moves import Move, moves_between
from cutset.codegen.ci.record import Planned, Record
from cutset.profilers.compare import KERNEL_NOISE, NOISE, Comparison, compare
from cutset.profilers.repeats import comparable
from cutset.profilers.speed import Speed
from cutset.profilers.table import CostTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Two records, brought to where they can be compared.

    Args:
        then: The baseline's.
        now: The one to judge.
        limits: What counts as a regression.
        comparison: Of their costs.
        speed: How much slower the machine was, as far as that is known.
        noise: Share by which what two plans should reach may differ without a cause.
        moves: Nodes that run elsewhere.
        keeping: By which share the baseline's placement would do worse than the new one.
    """

    then: Record
    now: Record
    limits: Limits
    comparison: Comparison
    speed: Speed
    noise: float
    moves: tuple[Move, ...]
    keeping: float

    @property
    def same_machine(self) -> bool:
        """Whether times can be compared."""
        return self.then.machine == self.now.machine

    @property
    def total_s(self) -> float:
        """Seconds of the whole model on the CPU in the baseline."""
        return next((total.a_s for total in self.comparison.totals if total.device == "cpu"), 0.0)


def case_of(then: Record, now: Record, limits: Limits, *, keeping: float = math.inf) -> Case:
    """Return two records as they can be compared.

    Args:
        then: The baseline's.
        now: The one to judge.
        limits: What counts as a regression.
        keeping: By which share the baseline's placement would do worse now than the new one (`price_of_keeping`).
    """
    a, b, speed = comparable(then.repeats, now.repeats)
    return Case(
        then=then,
        now=now,
        limits=limits,
        comparison=compare(_certain(a), _certain(b)),
        speed=speed,
        noise=max(NOISE, _half_width(a) + _half_width(b) + 2 * KERNEL_NOISE * _concentration(b, now.plan)),
        moves=moves_between(then.plan, now.plan),
        keeping=keeping,
    )


def _certain(table: CostTable) -> CostTable:
    """Return a table without the intervals of what was not measured: the same model of a GPU is wrong in the same way."""
    groups = tuple(
        group if group.source == "measured" else replace(group, low_s=group.latency_s, high_s=group.latency_s)
        for group in table.groups
    )
    return replace(table, groups=groups)


def _concentration(table: CostTable, plan: Planned) -> float:
    """Return how little the errors of kernels even out in the time of a plan's CPU stages: one for a single kernel."""
    times = [
        group.latency_s or 0.0
        for group in table.groups_on("cpu")
        if group.canonical and plan.placement.get(group.canonical[0]) == "cpu"
    ]
    return math.hypot(*times) / total if (total := sum(times)) else 0.0


def _half_width(table: CostTable) -> float:
    session = table.session("cpu")
    if session is None or session.latency_s.low is None or session.latency_s.high is None or not session.latency_s.median:
        return 0.0
    return (session.latency_s.high - session.latency_s.low) / 2 / session.latency_s.median
