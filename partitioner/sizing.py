"""How many requests a batch and how many CPU workers: a small exhaustive search around the cut.

The cut is found again for each size, because what is cheap on the GPU changes with the batch and what is cheap on the CPU
with the workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cutset.partitioner.atoms import Evidence
from cutset.partitioner.decide import Candidate, Case, candidate_of, ends_of, out_of_reach, scores_of, simple_candidates
from cutset.partitioner.judge import MID, MIN_GAIN, SPLIT, Scores, judge
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import Operating
from cutset.partitioner.simulate import enough_tokens, saturated

NEARLY = 0.05
"""A smaller batch that reaches within this share of the best is preferred: it answers sooner."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlanAt:
    """A plan at one batch and one number of CPU workers."""

    case: Case
    candidate: Candidate

    @property
    def batch(self) -> int:
        """Requests in a batch."""
        return self.case.options.machine.batch

    @property
    def cpu_workers(self) -> int:
        """Threads that serve CPU stages."""
        return self.case.options.machine.cpu_workers

    @property
    def score(self) -> float:
        """Higher is better; 0 if infeasible."""
        return self.case.score(self.candidate)

    @property
    def scores(self) -> Scores:
        """The score here, and at both ends of the GPU costs' interval."""
        return scores_of(self.case, self.candidate, ends_of(self.case))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sizing:
    """The size to deploy and what else could be had.

    Attributes:
        options: The options with the chosen batch and workers.
        pareto: Sizes and loads of which none answers both faster and more often than another.
    """

    options: PlanOptions
    pareto: tuple[Operating, ...]


def worker_counts(cores: int, threads: int, *, gpu: bool) -> tuple[int, ...]:
    """Return the numbers of CPU workers to try, ascending; with a GPU one core is left to feed it."""
    most = max(1, (cores - gpu) // threads)
    few = [count for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if count < most]
    return (*few, most)


def size_up(evidences: Mapping[int, Evidence], options: PlanOptions, workers: Sequence[int]) -> Sizing:
    """Return the batch and the workers to deploy.

    The split and each simple plan get the size that suits each best. The judge decides between the plans at those sizes,
    and the size of the winner is deployed.

    Args:
        evidences: Evidence at each batch to try.
        options: What to plan for.
        workers: Numbers of CPU workers to try, ascending.

    Raises:
        PlanError: If pins and limits leave no plan at any size.
    """
    splits = [plan for batch in sorted(evidences) for plan in _splits(evidences[batch], options, batch, workers)]
    simple = _simple(evidences, options, workers)
    able = {name: plan for name, plans in simple.items() if (plan := _best_size(plans)) is not None}
    rivals = {name: plan.scores for name, plan in able.items()}
    split = _best_size(splits)
    if split is not None:
        able[SPLIT] = split
    if not able:
        raise out_of_reach(options, min(plan.candidate.latency_s for plans in (splits, *simple.values()) for plan in plans))
    winner = judge({MID: 0.0} if split is None else split.scores, rivals, stages=_stages(able)).winner
    points = (point for plan in _leaders(splits, simple) for point in points_of(plan.case, plan.candidate))
    return Sizing(options=able[winner].case.options, pareto=front_of(points))


def rivals_at(evidences: Mapping[int, Evidence], options: PlanOptions, workers: Sequence[int]) -> dict[str, PlanAt]:
    """Return each simple plan at the batch and the workers that suit the plan best; nothing is searched for.

    Args:
        evidences: Evidence at each batch to try.
        options: What to plan for.
        workers: Numbers of CPU workers to try, ascending.
    """
    found = _simple(evidences, options, workers)
    return {name: plan for name, plans in found.items() if (plan := _best_size(plans)) is not None}


def _best_size(plans: Sequence[PlanAt]) -> PlanAt | None:
    """Return a plan at the size that suits the plan best; None if the plan meets the latency target at no size.

    The smallest batch that reaches within `NEARLY` of the best; with the workers that reach most there, and the fewest of
    those.
    """
    able = [plan for plan in plans if plan.candidate.feasible]
    if not able:
        return None
    best = max(plan.score for plan in able)
    batch = min(plan.batch for plan in able if plan.score >= best * (1 - NEARLY))
    return max((plan for plan in able if plan.batch == batch), key=lambda plan: (plan.score, -plan.cpu_workers))


def _case(evidence: Evidence, options: PlanOptions, batch: int, workers: int) -> Case:
    return Case(evidence=evidence, options=replace(options, machine=replace(options.machine, batch=batch, cpu_workers=workers)))


def _splits(evidence: Evidence, options: PlanOptions, batch: int, workers: Sequence[int]) -> Iterable[PlanAt]:
    """Yield the best split of one batch for more and more workers, until another worker gains nothing.

    A split that the GPU limits may still gain: another worker can take over some of the GPU's work.
    """
    before = 0.0
    for count in workers:
        case = _case(evidence, options, batch, count)
        costed = case.costed()
        candidate = candidate_of(case, costed, case.solve_or_quickest(costed).placement)
        plan = PlanAt(case=case, candidate=candidate)
        yield plan
        limited = candidate.decision == "unsplit-cpu" or candidate.evaluation.bottleneck == "cpu"
        if not limited and count != workers[0] and plan.score <= before * (1 + MIN_GAIN):
            return
        before = plan.score


def _simple(evidences: Mapping[int, Evidence], options: PlanOptions, workers: Sequence[int]) -> dict[str, list[PlanAt]]:
    """Return the simple plans at each size, by name; more workers than keep the GPU busy are left out."""
    found: dict[str, list[PlanAt]] = {}
    for batch in sorted(evidences):
        for count in workers:
            case = _case(evidences[batch], options, batch, count)
            plans = simple_candidates(case, case.costed())
            for name, candidate in plans.items():
                found.setdefault(name, []).append(PlanAt(case=case, candidate=candidate))
            # Replicas of the whole model take every core, whatever the number of workers.
            if all(name == "all_cpu" or plan.evaluation.bottleneck != "cpu" for name, plan in plans.items()):
                break
    return found


def _leaders(splits: Sequence[PlanAt], simple: Mapping[str, Sequence[PlanAt]]) -> Iterable[PlanAt]:
    """Yield the plan that the judge prefers at each size, as costed."""
    sizes: dict[tuple[int, int], dict[str, PlanAt]] = {}
    for name, plans in ({SPLIT: splits} | dict(simple)).items():
        for plan in plans:
            sizes.setdefault((plan.batch, plan.cpu_workers), {})[name] = plan
    for plans_here in sizes.values():
        scores = {name: {MID: plan.score} for name, plan in plans_here.items()}
        split = scores.pop(SPLIT, {MID: 0.0})
        winner = judge(split, scores, stages=_stages(plans_here)).winner
        if winner in plans_here:
            yield plans_here[winner]


def _stages(plans: Mapping[str, PlanAt]) -> dict[str, int]:
    """Return how many stages each plan has, by name; zero for a split that was not found."""
    return {SPLIT: 0} | {name: plan.candidate.evaluation.stages for name, plan in plans.items()}


def points_of(case: Case, candidate: Candidate) -> list[Operating]:
    """Return what a candidate reaches with one batch at a time, and with ever more inside until the bottleneck is busy."""
    machine = case.options.machine
    batch = machine.batch
    most, loaded = enough_tokens(candidate.steps, candidate.servers, batch)
    found, inside = {most: loaded}, batch
    while inside < most:
        found[inside] = saturated(candidate.steps, candidate.servers, inside, batch)
        inside *= 2
    return [
        Operating(
            batch=batch,
            cpu_workers=candidate.servers.get("cpu", machine.cpu_workers),
            tokens=tokens,
            decision=candidate.decision,
            stages=candidate.evaluation.stages,
            throughput_per_s=reached.throughput_per_s,
            latency_s=reached.latency_mean_s,
        )
        for tokens, reached in sorted(found.items())
        if math.isfinite(reached.throughput_per_s)
    ]


def front_of(points: Iterable[Operating]) -> tuple[Operating, ...]:
    """Return the points that no other beats on both counts, quickest first."""
    front: list[Operating] = []
    for point in sorted(points, key=lambda p: (p.latency_s, -p.throughput_per_s, p.batch, p.cpu_workers)):
        if not front or point.throughput_per_s > front[-1].throughput_per_s * (1 + 1e-9):
            front.append(point)
    return tuple(front)
