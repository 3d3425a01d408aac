"""Candidate placements: where each came from, what it is worth, and which is best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cutset.partitioner.cut import Flow, Oracle
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.goal import Goal
from cutset.partitioner.network import chain_template
from cutset.partitioner.phases import windows
from cutset.partitioner.problem import RESOURCES, IntArray, Placement
from cutset.partitioner.throughput import PriceBound, price_loop

TIE = 1 + 1e-9
_CHAIN_TOLERANCE = 1e-3  # proposals need no tight bound
_ROUNDINGS = (0.3, 0.5, 0.7)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One feasible placement the planner considered.

    Attributes:
        placement: The device of each op.
        origin: What proposed it first.
        value_s: The objective in seconds.
        evaluation: Its exact cost.
    """

    placement: Placement
    origin: str
    value_s: float
    evaluation: Evaluation


class Pool:
    """The distinct feasible candidates met so far.

    Attributes:
        goal: What they are judged by.
        found: Candidates by placement, in the order met.
        over: Placements that only break a limit, worth mending.
        rejected: Distinct placements refused for having too many stages.
    """

    def __init__(self, goal: Goal) -> None:
        self.goal = goal
        self.found: dict[bytes, Candidate] = {}
        self.over: dict[bytes, Candidate] = {}
        self.rejected: set[bytes] = set()

    def add(self, placement: Placement, origin: str) -> None:
        """Take a placement unless it is known, impossible, or over the stage limit."""
        key = placement.tobytes()
        if key in self.found or key in self.over or key in self.rejected:
            return
        evaluation = evaluate(self.goal.problem, placement)
        if not np.isfinite(evaluation.latency_s):
            return
        if self.goal.max_stages is not None and evaluation.stages > self.goal.max_stages:
            self.rejected.add(key)
            return
        within = self.goal.allows(evaluation)
        value_s = self.goal.objective_s(evaluation) if within else self.goal.score_s(placement)
        candidate = Candidate(placement=placement, origin=origin, value_s=value_s, evaluation=evaluation)
        (self.found if within else self.over)[key] = candidate

    def extend(self, placements: Iterable[Placement], origin: str) -> None:
        """Take several placements of one origin."""
        for placement in placements:
            self.add(placement, origin)

    def ranked(self) -> list[Candidate]:
        """Return the candidates from best to worst."""
        return _ranked(self.found.values())

    def starts(self, count: int) -> list[Candidate]:
        """Return candidates to refine: the best of each origin, as those of one origin look alike, then by rank.

        Where there are limits, those that break one least take every second place.
        """
        within, over = (_diverse(_ranked(group.values())) for group in (self.found, self.over))
        kept = min(len(over), max(count // 2, count - len(within)))
        return [*within[: count - kept], *over[:kept]]


def _ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda c: (c.value_s, c.evaluation.stages, _order(c)))


def _diverse(ranked: list[Candidate]) -> list[Candidate]:
    leaders: dict[str, Candidate] = {}
    for candidate in ranked:
        leaders.setdefault(candidate.origin, candidate)
    return [*leaders.values(), *(c for c in ranked if leaders[c.origin] is not c)]


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """Return the best candidate; among equals the fewest stages, then latency, then fewest GPU ops, then op order."""
    least_s = min(c.value_s for c in candidates)
    equal = [c for c in candidates if c.value_s <= least_s * TIE]
    fewest = min(c.evaluation.stages for c in equal)
    equal = [c for c in equal if c.evaluation.stages == fewest]
    shortest_s = min(c.evaluation.latency_s for c in equal)
    return min((c for c in equal if c.evaluation.latency_s <= shortest_s * TIE), key=_order)


def _order(candidate: Candidate) -> tuple[int, bytes]:
    return int(candidate.placement.sum()), candidate.placement.tobytes()


def propose_pipelines(pool: Pool, max_stages: int, flow: Flow, transfer_weights: Sequence[float]) -> None:
    """Add to the pool what the chain network proposes within the stage limit.

    The chain network overcharges tensors that span several stages; weights below 1 on copies make up for that.

    Args:
        pool: Where candidates go.
        max_stages: Most stages.
        flow: Engine of the cut.
        transfer_weights: Factors on copies to try.
    """
    goal = pool.goal
    for window in windows(max_stages):
        template = chain_template(goal.problem, window)
        if template is None or not template.boundary.shape[1]:
            continue
        for weight in transfer_weights:
            origin = f"{'cpu' if window.low == 0 else 'gpu'}-first chain, copies x{weight:g}"
            oracle = Oracle(template=template, flow=flow, transfer_weight=weight)
            labels = _labellings(oracle, goal)
            pool.extend((template.placement(found) for found in labels), origin)


def _labellings(oracle: Oracle, goal: Goal) -> list[IntArray]:
    """Return the labellings a chain oracle finds cheapest for a goal."""
    result = price_loop(
        oracle,
        rows=goal.rows,
        base_s=np.zeros(len(RESOURCES)),
        start=[oracle.template.feasible],
        limits=goal.limits,
        tolerance=_CHAIN_TOLERANCE,
    )
    return [*result.labels, *round_mix(result)]


def round_mix(bound: PriceBound) -> list[IntArray]:
    """Return roundings of the best fractional plan at several thresholds."""
    if len(bound.mix) != len(bound.labels):
        return []
    mean = bound.mix @ np.array(bound.labels)
    return [np.floor(mean + 1 - threshold).astype(np.int64) for threshold in _ROUNDINGS]
