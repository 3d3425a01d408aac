"""The planner: bound, propose, polish, and certify one placement."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cutset.partitioner.baselines import Baseline, baselines, pure_placements
from cutset.partitioner.bound import Bound, certify
from cutset.partitioner.cut import Flow
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.exact import Exact, solve_exactly
from cutset.partitioner.explore import explore
from cutset.partitioner.feasible import placement_within, refuse_impossible
from cutset.partitioner.goal import Goal, Limits, Objective
from cutset.partitioner.phases import fewest_stages, require_stages
from cutset.partitioner.problem import GPU, RESOURCES, Placement, Problem
from cutset.partitioner.proposals import Candidate, Pool, best_of, propose_pipelines
from cutset.partitioner.refine import Effort, refine, sweep_orders, tidy

_CERTIFIED = 1 + 1e-6  # closer to the bound than this there is nothing to look for
_UNLIMITED = 5  # where there is no limit, a search with this one comes first
_PROVEN = 1 + 1e-5  # ten times the exact solver's tolerance
_REPLANS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One line of the planner's trace.

    Attributes:
        origin: What proposed the placement.
        value_s: Its objective in seconds.
        stages: Its stages.
    """

    origin: str
    value_s: float
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """A placement with the proof of how good it is.

    Attributes:
        goal: What was asked.
        placement: 0 (CPU) or 1 (GPU) for each op, int8.
        evaluation: Its exact cost.
        lower_bound_s: No placement within the limits, whatever its stages, has a smaller objective.
        gap: How far above the bound the plan is, as a fraction.
        baselines: ``all_cpu``, ``all_gpu``, ``capability_first``, ``mix``; None where impossible.
        prices: The weight of each resource in the proof of the bound.
        multipliers: Seconds the bound would fall by for a second of ``latency_s`` and for a byte of ``gpu_bytes`` more.
        origins: The distinct candidates, best first, with what proposed them.
        notes: What was pinned or skipped, and why.
    """

    goal: Goal
    placement: Placement
    evaluation: Evaluation
    lower_bound_s: float
    gap: float
    baselines: Mapping[str, Baseline | None]
    prices: Mapping[str, float]
    multipliers: Mapping[str, float]
    origins: tuple[Origin, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    """What a problem's size affords."""

    starts: int
    transfer_weights: tuple[float, ...]
    orders: int
    effort: Effort


def _budget(problem: Problem) -> _Budget:
    ops = int(problem.movable.sum())
    if ops <= 150:
        return _Budget(starts=8, transfer_weights=(1.0, 0.4, 0.1), orders=2, effort=Effort(kicks=min(60, 4 * ops)))
    if ops <= 400:
        return _Budget(starts=8, transfer_weights=(1.0, 0.4, 0.1), orders=2, effort=Effort(sweep_rounds=6, kicks=30))
    if ops <= 1500:
        return _Budget(starts=4, transfer_weights=(1.0, 0.4, 0.1), orders=2, effort=Effort(sweep_rounds=4, passes=2, kicks=12))
    return _Budget(starts=2, transfer_weights=(0.4,), orders=2, effort=Effort(sweep_rounds=4, passes=2, kicks=4))


def solve(
    problem: Problem,
    *,
    objective: Objective = "throughput",
    max_stages: int | None = 5,
    limits: Limits | None = None,
    flow: Flow = "scipy",
    seed: int = 0,
) -> Solution:
    """Return the best placement found and a proven bound on all placements.

    The plan has at most `max_stages` stages, keeps the limits, and is never worse than a pure plan that does. Equal
    input gives an equal plan.

    Args:
        problem: The costs.
        objective: "throughput" minimises the bottleneck, "latency" the sum of demands.
        max_stages: Most stages, or None for no limit.
        limits: Latency and GPU memory that the plan must keep.
        flow: Engine of the cut; "networkx" is the slow reference.
        seed: Of the random sweep orders.

    Raises:
        PlanError: If the ops tied to one device force more than `max_stages` stages, or no placement keeps the limits;
            the message names what binds.
    """
    require_stages(problem, max_stages)
    goal = Goal(problem=problem, objective=objective, max_stages=max_stages, limits=limits or Limits())
    refuse_impossible(goal, flow)
    bound = certify(goal, flow)
    pool, notes = Pool(goal), list[str]()
    best = _search(pool, bound, flow, seed, notes)
    if best is None:
        pool.add(placement_within(goal), "exact")
        best = best_of(list(pool.found.values()))
    if pool.rejected:
        notes.append(f"{len(pool.rejected)} candidates had more than {max_stages} stages")
    lower_s, gap = _proven(best.value_s, bound.value_s)
    return Solution(
        goal=goal,
        placement=best.placement,
        evaluation=best.evaluation,
        lower_bound_s=lower_s,
        gap=gap,
        baselines=baselines(problem),
        prices=dict(zip(RESOURCES, bound.weights.tolist(), strict=True)),
        multipliers=dict(zip(("latency_s", "gpu_bytes"), bound.multipliers.tolist(), strict=True)),
        origins=tuple(Origin(origin=c.origin, value_s=c.value_s, stages=c.evaluation.stages) for c in pool.ranked()),
        notes=tuple(notes),
    )


def _proven(value_s: float, bound_s: float) -> tuple[float, float]:
    """Return the bound of a plan, which rounding may not lift above its value, and the gap between them."""
    lower_s = min(bound_s, value_s)
    return lower_s, value_s / lower_s - 1 if lower_s > 0 else (0.0 if value_s == 0 else math.inf)


def sharpen(solution: Solution, seconds: float) -> Solution:
    """Return the solution after the exact planner: its plan where that is better, and its bound within the stage limit.

    Args:
        solution: From `solve`.
        seconds: Time limit of the exact planner.
    """
    goal = solution.goal
    return _sharpened(solution, solve_exactly(goal, seconds), seconds)


def _sharpened(solution: Solution, exact: Exact, seconds: float) -> Solution:
    goal = solution.goal
    value_s = goal.objective_s(solution.evaluation)
    placement, evaluation, notes = solution.placement, solution.evaluation, list(solution.notes)
    if exact.placement is not None and not small_gpu_stages(goal.problem, exact.placement):
        found_s = goal.value_s(exact.placement)
        if found_s < value_s:
            placement = exact.placement
            evaluation, value_s = evaluate(goal.problem, placement), found_s
            notes.append("the exact planner found a better plan than the search")
    closed = value_s <= exact.bound_s * _PROVEN
    within = "" if goal.max_stages is None else f" of at most {goal.max_stages} stages"
    word = "no plan{} is better" if closed else f"the exact planner's {seconds:g} s ran out; its bound is of plans{{}}"
    sharper = replace(solution, placement=placement, evaluation=evaluation, notes=(*notes, word.format(within)))
    return bounded(sharper, exact.bound_s)


def bounded(solution: Solution, bound_s: float) -> Solution:
    """Return the solution with another proven bound beside its own: the larger one counts."""
    value_s = solution.goal.objective_s(solution.evaluation)
    lower_s, gap = _proven(value_s, max(solution.lower_bound_s, bound_s))
    return replace(solution, lower_bound_s=lower_s, gap=gap)


def _search(pool: Pool, bound: Bound, flow: Flow, seed: int, notes: list[str]) -> Candidate | None:
    """Return the best candidate, or None if none keeps the limits.

    The plan of the next smaller odd number of stages is a candidate, so that more stages never cost anything.
    """
    goal, problem = pool.goal, pool.goal.problem
    pool.extend(pure_placements(problem).values(), "baseline")
    fewer = _fewer_stages(goal.max_stages)
    if fewer is not None and not _certified(pool, bound) and fewest_stages(problem)[0] <= fewer:
        simpler = _search(Pool(replace(goal, max_stages=fewer)), bound, flow, seed, [])
        if simpler is not None:
            pool.add(simpler.placement, f"at most {fewer} stages")
    best = _plan(pool, bound, flow, seed, notes)
    if best is not None and problem.min_gpu_ops > 1:
        best = _respect_min_gpu_ops(pool, best, flow, seed, notes)
    return best


def _fewer_stages(max_stages: int | None) -> int | None:
    if max_stages is None:
        return _UNLIMITED
    fewer = (max_stages - 2) | 1
    return fewer if 3 <= fewer < max_stages else None


def _plan(pool: Pool, bound: Bound, flow: Flow, seed: int, notes: list[str]) -> Candidate | None:
    """Return the best candidate after proposals and polish; stop early once it meets the bound."""
    goal, budget = pool.goal, _budget(pool.goal.problem)
    pool.extend(bound.placements, "free cut")
    if not _certified(pool, bound):
        if goal.max_stages is not None:
            propose_pipelines(pool, goal.max_stages, flow, budget.transfer_weights)
        _polish(pool, bound, budget, seed, notes)
    if not pool.found:
        return None
    tied = best_of(list(pool.found.values()))
    pool.add(tidy(goal, tied.placement), "tidied")
    return best_of(list(pool.found.values()))


def _certified(pool: Pool, bound: Bound) -> bool:
    return bool(pool.found) and best_of(list(pool.found.values())).value_s <= bound.value_s * _CERTIFIED


def _polish(pool: Pool, bound: Bound, budget: _Budget, seed: int, notes: list[str]) -> None:
    goal = pool.goal
    orders = sweep_orders(goal.problem, seed)[: budget.orders]
    known = len(pool.found) + len(pool.over)
    for candidate in pool.starts(budget.starts):
        if _certified(pool, bound):
            return
        pool.extend(refine(goal, candidate.placement, orders, budget.effort), f"refined {candidate.origin}")
    leader = next(iter(pool.ranked() or pool.starts(1)), None)
    if leader is not None and budget.effort.kicks:
        shaken = explore(goal, leader.placement, orders[:1], budget.effort, np.random.default_rng(seed))
        pool.add(shaken, f"shaken {leader.origin}")
    if known > budget.starts:
        free = int(goal.problem.movable.sum())
        notes.append(f"{known - budget.starts} of {known} candidates not refined ({free} free ops)")


def _respect_min_gpu_ops(pool: Pool, best: Candidate, flow: Flow, seed: int, notes: list[str]) -> Candidate:
    """Return the best candidate without small GPU stages, after planning again with their ops pinned to the CPU.

    Pins only grow. A stage that holds an op the CPU cannot run has to stay whatever its size.
    """
    goal, problem = pool.goal, pool.goal.problem
    for _ in range(_REPLANS):
        small = small_gpu_stages(problem, best.placement)
        if not small:
            break
        names = ", ".join(f"`{problem.names[v]}`" for v in small[:8]) + (", ..." if len(small) > 8 else "")
        notes.append(f"pinned {len(small)} ops of GPU stages under {problem.min_gpu_ops} ops to the CPU: {names}")
        demoted = without_small_stages(problem, best.placement)
        gpu_s = problem.gpu_s.copy()
        gpu_s[small] = np.inf
        problem = replace(problem, gpu_s=gpu_s)
        inner = Pool(replace(goal, problem=problem))
        inner.extend([demoted, *pure_placements(problem).values()], "small stages demoted")
        again = _plan(inner, certify(inner.goal, flow), flow, seed, notes)
        if again is None:
            break
        best = again
        pool.add(best.placement, f"planned again: {best.origin}")
    for candidate in list(pool.found.values()):
        pool.add(without_small_stages(goal.problem, candidate.placement), f"demoted {candidate.origin}")
    large = [c for c in pool.found.values() if not small_gpu_stages(goal.problem, c.placement)]
    if not large:
        notes.append(f"no plan within the limits does without GPU stages under {problem.min_gpu_ops} ops")
    return best_of(large or [best])


def small_gpu_stages(problem: Problem, placement: Placement) -> list[int]:
    """Return the ops of GPU stages with fewer than `min_gpu_ops` ops that could all run on the CPU."""
    labels = evaluate(problem, placement).labels
    counts = np.bincount(labels[labels >= 0], minlength=1)
    stuck = set(labels[~problem.on_cpu].tolist())
    return [
        v
        for v in np.flatnonzero(placement == GPU).tolist()
        if counts[labels[v]] < problem.min_gpu_ops and int(labels[v]) not in stuck
    ]


def without_small_stages(problem: Problem, placement: Placement) -> Placement:
    """Return the placement with small GPU stages moved to the CPU, which adds no stage."""
    result = placement.copy()
    while small := small_gpu_stages(problem, result):
        result[small] = 0
    return result
