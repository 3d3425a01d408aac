"""Decide what to deploy: the best split found, unless leaving the model whole does as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.baselines import pure_placements
from cutset.partitioner.cost import Costed, build_problem
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import Decision, finite
from cutset.partitioner.problem import CPU, GPU, Placement
from cutset.partitioner.solve import Solution, solve

MIN_GAIN = 0.02
"""A split that gains less than this over the best unsplit plan is not worth its moving parts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A deployable placement and what it reaches."""

    decision: Decision
    placement: Placement
    evaluation: Evaluation
    throughput_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Choice:
    """What to deploy, why in half a sentence, and how it holds at both ends of the GPU costs' interval."""

    candidate: Candidate
    why: str
    robustness: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """Everything that stays the same while one model is planned."""

    evidence: Evidence
    options: PlanOptions

    def costed(self, gpu_scale: str = "mid") -> Costed:
        """Return the problem at the ``low``, ``mid`` or ``high`` end of the GPU costs' interval."""
        return build_problem(
            self.evidence,
            replace(
                self.options.machine,
                min_gpu_ops=self.options.min_gpu_nodes,
                saturated=self.options.objective == "throughput",
            ),
            gpu_scale=gpu_scale,
        )

    def solve(self, costed: Costed, max_stages: int | None = None) -> Solution:
        """Return the best placement found within `max_stages`, the options' by default."""
        options = self.options
        return solve(
            costed.problem,
            objective=options.objective,
            max_stages=options.max_stages if max_stages is None else max_stages,
            flow=options.flow,
            seed=options.seed,
        )

    def solve_simply(self, costed: Costed) -> Solution:
        """Return the solution with the fewest stages that is within `MIN_GAIN` of the best: each stage must earn its place."""
        best = simplest = self.solve(costed)
        while simplest.evaluation.stages > 1:
            try:
                fewer = self.solve(costed, simplest.evaluation.stages - 1)
            except PlanError:  # what is tied to one device forces this many
                break
            if self.value_s(fewer.evaluation) > self.value_s(best.evaluation) * (1 + MIN_GAIN):
                break
            simplest = fewer
        return simplest

    def value_s(self, evaluation: Evaluation) -> float:
        """Return what is to be small: seconds between requests, or seconds a request."""
        return evaluation.bottleneck_s if self.options.objective == "throughput" else evaluation.latency_s

    def score(self, candidate: Candidate) -> float:
        """Return what is to be large: requests a second, or the inverse of seconds a request."""
        if self.options.objective == "throughput":
            return candidate.throughput_per_s
        return 1 / max(candidate.latency_s, 1e-12)


def choose(case: Case, costed: Costed, solution: Solution) -> Choice:
    """Return what to deploy.

    A split must beat every unsplit plan that the pins allow by more than `MIN_GAIN`, and must not lose to one at either
    end of the GPU costs' interval: a gain that a wrong guess of the GPU's speed turns into a loss is none.
    """
    ends = ends_of(case)
    split = candidate_of(costed, solution.placement)
    best = best_unsplit(case, costed)
    if best is None:
        if split.decision != "split":
            raise PlanError("no placement satisfies the pins", hint="remove one of the pins")
        return Choice(candidate=split, why="as the pins demand", robustness=robustness_of(case, split, ends))
    if split.decision != "split":
        return Choice(candidate=best, why="no split gains anything", robustness=robustness_of(case, best, ends))
    gain = case.score(split) / case.score(best)
    robustness = robustness_of(case, split, ends)
    worst = min((end["gain"] for end in robustness.values() if end["gain"] is not None), default=gain)
    if gain > 1 + MIN_GAIN and worst >= 1:
        return Choice(candidate=split, why=f"{gain:.2f}x the best unsplit plan", robustness=robustness)
    why = f"the best split found gives {gain:.2f}x"
    if gain > 1 + MIN_GAIN:
        why += f", but {worst:.2f}x at one end of the GPU costs' interval"
    return Choice(candidate=best, why=why, robustness=robustness_of(case, best, ends))


def ends_of(case: Case) -> dict[str, tuple[Costed, Solution]]:
    """Return the problem and its solution at both ends of the GPU costs' interval."""
    if not case.evidence.table.groups_on("gpu"):
        return {}
    problems_at = {end: case.costed(end) for end in ("low", "high")}
    return {end: (costed, case.solve(costed)) for end, costed in problems_at.items()}


def candidate_of(costed: Costed, placement: Placement) -> Candidate:
    """Return a placement with what it reaches; the whole model on the CPU runs as replicas on every core.

    A request waits for the batch that it is part of.
    """
    problem = costed.problem
    evaluation = evaluate(problem, placement)
    devices = {int(device) for device in placement[problem.real]}
    throughput, latency_s = evaluation.throughput_per_s, evaluation.latency_s
    if devices <= {CPU} and problem.whole_cpu_s:
        throughput, latency_s = problem.whole_cores / problem.whole_cpu_s, problem.whole_cpu_s
    decision: Decision = "unsplit-cpu" if devices <= {CPU} else "unsplit-gpu" if devices == {GPU} else "split"
    return Candidate(
        decision=decision,
        placement=placement,
        evaluation=evaluation,
        throughput_per_s=throughput,
        latency_s=latency_s * costed.batch,
    )


def best_unsplit(case: Case, costed: Costed) -> Candidate | None:
    """Return the best plan that cuts nothing, or None where pins and support forbid all."""
    pure = [
        candidate_of(costed, placement)
        for name, placement in pure_placements(costed.problem).items()
        if name in {"all_cpu", "all_gpu"}
    ]
    return max(pure, key=case.score, default=None)


def robustness_of(case: Case, chosen: Candidate, ends: Mapping[str, tuple[Costed, Solution]]) -> dict[str, dict[str, Any]]:
    """Return, for both ends of the GPU costs, what the placement gives there and how far it is from the one found there."""
    found = {}
    for end, (costed, solution) in ends.items():
        here = candidate_of(costed, chosen.placement)
        unsplit = best_unsplit(case, costed)
        found[f"gpu_{end}"] = {
            "throughput_per_s": finite(here.throughput_per_s),
            "gain": None if unsplit is None else case.score(here) / case.score(unsplit),
            "moved_groups": int(np.count_nonzero(solution.placement != chosen.placement)),
        }
    return found
