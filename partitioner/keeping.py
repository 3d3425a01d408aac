"""What it would cost to keep another placement than the one that was planned."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cutset.partitioner.decide import candidate_of
from cutset.partitioner.planner import Outcome


def price_of_keeping(outcome: Outcome, placement: Mapping[str, str]) -> float:
    """Return by which share another placement does worse than the planned one, at the same costs.

    Args:
        outcome: The plan and what it was made from.
        placement: Device of each node; nodes that it does not name stay where they are planned.

    Returns:
        Zero if it does as well; infinite if a device cannot run a node there, or the placement parts what cannot be parted.
    """
    case, costed = outcome.case, outcome.costed
    devices = {name: placement.get(name, device) for name, device in outcome.plan.placement.items()}
    other = costed.placement_of(devices)
    if other is None:
        return math.inf
    score = case.score(candidate_of(case, costed, other))
    return max(0.0, case.score(outcome.choice.candidate) / score - 1) if score > 0 else math.inf
