"""The trade between latency and throughput: plans of which none is better than another in both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.goal import Limits
from cutset.partitioner.problem import Problem
from cutset.partitioner.solve import Solution, solve


def pareto_front(
    problem: Problem, *, points: int = 5, max_stages: int | None = 5, limits: Limits | None = None, seed: int = 0
) -> tuple[Solution, ...]:
    """Return plans from the lowest latency to the smallest bottleneck, each better in one than all others.

    The ends are the best plans of either objective; between them the throughput is made best under latency limits that
    divide the way from one to the other evenly (the epsilon-constraint method).

    Args:
        problem: The costs.
        points: Plans looked for, the ends included; equal and beaten ones are left out.
        max_stages: Most stages, or None.
        limits: What every plan must keep.
        seed: Of the searches.

    Raises:
        PlanError: If no plan keeps stages and limits.

    Source:
        Haimes, Lasdon and Wismer, "On a bicriterion formulation of the problems of integrated system identification and
        system optimization", IEEE Transactions on Systems, Man, and Cybernetics 1(3), 1971.
    """
    limits = limits or Limits()
    fastest = solve(problem, objective="latency", max_stages=max_stages, limits=limits, seed=seed)
    widest = solve(problem, objective="throughput", max_stages=max_stages, limits=limits, seed=seed)
    found = [fastest, widest]
    ends = fastest.evaluation.latency_s, widest.evaluation.latency_s
    for latency_s in np.linspace(*ends, max(points, 2))[:-1].tolist() if ends[0] < ends[1] else []:
        within = replace(limits, latency_s=latency_s)
        try:
            found.append(solve(problem, objective="throughput", max_stages=max_stages, limits=within, seed=seed))
        except PlanError:  # rounding can put the first limit a hair under the fastest plan
            continue
    return _best_in_one(found)


def _best_in_one(found: list[Solution]) -> tuple[Solution, ...]:
    front: list[Solution] = []
    for solution in sorted(found, key=lambda s: (s.evaluation.latency_s, s.evaluation.bottleneck_s)):
        if not front or solution.evaluation.bottleneck_s < front[-1].evaluation.bottleneck_s:
            front.append(solution)
    return tuple(front)
