"""The certificate: a bound that no placement within the limits can beat, and the placements met while proving it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutset.partitioner.baselines import pure_placements
from cutset.partitioner.cut import Flow, Oracle
from cutset.partitioner.goal import Goal
from cutset.partitioner.network import free_template
from cutset.partitioner.problem import FloatArray, Placement
from cutset.partitioner.proposals import round_mix
from cutset.partitioner.throughput import price_loop


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bound:
    """A certified bound, its prices, and the free placements met on the way.

    Attributes:
        value_s: No placement within the limits, whatever its stages, has a smaller objective.
        weights: Price of a second of each of `RESOURCES`, times its servers for throughput, shape ``(4,)``.
        multipliers: Price of a second and of a byte over the limits, shape ``(2,)``.
        placements: Every placement met.
    """

    value_s: float
    weights: FloatArray
    multipliers: FloatArray
    placements: tuple[Placement, ...]


def certify(goal: Goal, flow: Flow = "scipy") -> Bound:
    """Return the certified bound over all placements within the limits, whatever their stages.

    Stage overheads are not linear, but every placement is pure, and then exact, or has a stage on either side.

    Args:
        goal: What is bounded; its stage limit is not used.
        flow: Engine of the cut.
    """
    problem = goal.problem
    oracle = Oracle(template=free_template(problem), flow=flow)
    pure = list(pure_placements(problem).values())
    both = np.array([problem.cpu_stage_s, problem.gpu_stage_s, 0.0, 0.0])
    start = [*(placement.astype(np.int64) for placement in pure), oracle.template.feasible]
    found = price_loop(oracle, rows=goal.rows, base_s=both, start=start, limits=goal.limits)
    unlimited = Goal(problem=problem, objective=goal.objective, limits=goal.limits)
    prices = found.weights @ goal.rows
    return Bound(
        value_s=min([found.bound_s, *(unlimited.value_s(placement) for placement in pure)]),
        weights=prices * problem.servers if goal.objective == "throughput" else prices,
        multipliers=found.multipliers,
        placements=tuple(oracle.template.placement(labels) for labels in [*found.labels, *round_mix(found)]),
    )
