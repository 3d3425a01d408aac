"""Plan again with other limits: what other numbers of stages and links of other speed would reach, kept as `explored.json`.

Each point is a plan of its own, exact in the cost model, and takes as long as planning did; so it is done when asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cutset.errors import PlanError
from cutset.partitioner.explain import best_reach, with_faster_copies
from cutset.partitioner.study import Study

EXPLORED_SCHEMA = "cutset.explored/1"
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0)
MORE_STAGES = 2
"""Stages tried beyond the limit that was planned with."""


def explore(study: Study, progress: Callable[[str], None]) -> dict[str, Any]:
    """Return the best plan at each number of stages and each speed of the link, as ``explored.json`` holds it.

    Args:
        study: What the plan was chosen from.
        progress: Told of each plan.
    """
    limits = range(1, study.max_stages + MORE_STAGES + 1)
    return {
        "schema": EXPLORED_SCHEMA,
        "max_stages": study.max_stages,
        "stages": [point for limit in limits for point in _point(study, progress, float(limit), max_stages=limit)],
        "link": [point for speed in SPEEDS for point in _point(study, progress, speed, faster=speed)],
    }


def _point(
    study: Study, progress: Callable[[str], None], at: float, *, max_stages: int | None = None, faster: float = 1.0
) -> list[dict[str, Any]]:
    """Return the point at one setting, none where no plan keeps to the limit."""
    progress(f"planning with {max_stages} stages at most" if max_stages else f"planning with copies {faster:g} times as fast")
    problem = replace(study.problem, tensors=with_faster_copies(study, faster))
    try:
        reach = best_reach(study, problem, max_stages)
    except PlanError:
        return []
    return [{"at": at, "throughput_per_s": reach.throughput_per_s, "stages": reach.stages}]
