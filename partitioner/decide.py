"""Decide what to deploy: the best split found, unless leaving the model whole does as well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.baselines import pure_placements
from cutset.partitioner.cost import Costed, build_problem
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.goal import Limits
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import Decision, finite
from cutset.partitioner.problem import CPU, GPU, Placement
from cutset.partitioner.simulate import Simulation, enough_tokens, tokens_within
from cutset.partitioner.solve import Solution, bounded, sharpen, solve
from cutset.partitioner.steps import Step, steps_of
from cutset.partitioner.steps import latency_s as lone_s

MIN_GAIN = 0.02
"""A split that gains less than this over the best unsplit plan is not worth its moving parts."""


Ends = Mapping[str, tuple[Costed, Solution]]
"""The problem and its solution at the ends of the GPU costs' interval, by end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A deployable placement and what it reaches.

    Attributes:
        decision: Whether it cuts anything.
        placement: Of the atoms.
        evaluation: Its cost.
        throughput_per_s: Requests a second, zero where it misses the latency target.
        latency_s: Seconds of one batch alone.
        steps: What a request does.
        servers: Servers of its steps' resources, where that is not one.
    """

    decision: Decision
    placement: Placement
    evaluation: Evaluation
    throughput_per_s: float
    latency_s: float
    steps: tuple[Step, ...]
    servers: Mapping[str, int]

    @property
    def feasible(self) -> bool:
        """Whether it meets the latency target, if there is one."""
        return self.throughput_per_s > 0


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
        """Return the best placement found within `max_stages`, the options' by default, and the latency target.

        Raises:
            PlanError: If there is none.
        """
        options = self.options
        return solve(
            costed.problem,
            objective=options.objective,
            max_stages=options.max_stages if max_stages is None else max_stages,
            limits=self._limits(costed),
            flow=options.flow,
            seed=options.seed,
        )

    def fits(self, costed: Costed) -> bool:
        """Return whether the GPU holds all weights."""
        return float(costed.problem.gpu_bytes.sum()) <= self.options.gpu_memory_bytes

    def _limits(self, costed: Costed) -> Limits:
        """Return what a placement must keep; memory that all weights fit into is no limit, and costs no search."""
        options = self.options
        return Limits(
            latency_s=math.inf if options.slo_s is None else options.slo_s / costed.batch,
            gpu_bytes=math.inf if self.fits(costed) else options.gpu_memory_bytes,
        )

    def solve_or_quickest(self, costed: Costed) -> Solution:
        """Return the best placement found, or where none meets the latency target the quickest.

        Raises:
            PlanError: If the ops tied to one device force too many stages.
        """
        try:
            return self.solve(costed)
        except PlanError:
            if self.options.slo_s is None:
                raise
        options = self.options
        return solve(
            costed.problem,
            objective="latency",
            max_stages=options.max_stages,
            limits=replace(self._limits(costed), latency_s=math.inf),
            flow=options.flow,
            seed=options.seed,
        )

    def solve_simply(self, costed: Costed) -> Solution:
        """Return the solution with the fewest stages that is within `MIN_GAIN` of the best: each stage must earn its place."""
        best = self.solve_or_quickest(costed)
        if self.options.exact_s is not None:
            best = sharpen(best, self.options.exact_s)
        simplest = best
        while simplest.evaluation.stages > 1:
            try:
                fewer = self.solve(costed, simplest.evaluation.stages - 1)
            except PlanError:  # what is tied to one device forces this many, or fewer would be too slow
                break
            if self.value_s(fewer.evaluation) > self.value_s(best.evaluation) * (1 + MIN_GAIN):
                break
            simplest = bounded(fewer, best.lower_bound_s)
        return simplest

    def value_s(self, evaluation: Evaluation) -> float:
        """Return what is to be small: seconds between requests, or seconds a request."""
        return evaluation.bottleneck_s if self.options.objective == "throughput" else evaluation.latency_s

    def score(self, candidate: Candidate) -> float:
        """Return what is to be large: requests a second, or the inverse of seconds a request; zero for the impossible."""
        if self.options.objective == "throughput" or not candidate.feasible:
            return candidate.throughput_per_s
        return 1 / max(candidate.latency_s, 1e-12)


def choose(case: Case, costed: Costed, solution: Solution) -> Choice:
    """Return what to deploy.

    A split must beat every unsplit plan that the pins allow by more than `MIN_GAIN`, and must not lose to one at either
    end of the GPU costs' interval: a gain that a wrong guess of the GPU's speed turns into a loss is none.
    """
    ends = ends_of(case)
    split = candidate_of(case, costed, solution.placement)
    best = best_unsplit(case, costed)
    if best is None or not best.feasible:
        return _only(case, split, best, ends)
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


def _only(case: Case, split: Candidate, best: Candidate | None, ends: Ends) -> Choice:
    """Return the split where no unsplit plan is possible."""
    if split.decision != "split" and best is None:
        raise PlanError("no placement satisfies the pins", hint="remove one of the pins")
    if not split.feasible:
        raise out_of_reach(case.options, min(found.latency_s for found in (split, best) if found is not None))
    why = "as the pins demand" if best is None else "which alone answers in time"
    return Choice(candidate=split, why=why, robustness=robustness_of(case, split, ends))


def out_of_reach(options: PlanOptions, quickest_s: float) -> PlanError:
    """Return the error of a latency target that nothing meets."""
    target_s = options.slo_s or 0.0
    return PlanError(
        f"no plan answers within {target_s * 1e3:g} ms: the quickest found takes {quickest_s * 1e3:.2f} ms",
        hint="allow more with --slo-ms, or plan for a faster device",
    )


def ends_of(case: Case) -> Ends:
    """Return the problem and its solution at both ends of the GPU costs' interval."""
    if not case.evidence.table.groups_on("gpu"):
        return {}
    problems_at = {end: case.costed(end) for end in ("low", "high")}
    return {end: (costed, case.solve_or_quickest(costed)) for end, costed in problems_at.items()}


def candidate_of(case: Case, costed: Costed, placement: Placement) -> Candidate:
    """Return a placement with what it reaches; the whole model on the CPU runs as replicas on every core.

    A request waits for the batch that it is part of.
    """
    problem, batch = costed.problem, costed.batch
    evaluation = evaluate(problem, placement)
    devices = {int(device) for device in placement[problem.real]}
    throughput, latency_s = evaluation.throughput_per_s, evaluation.latency_s
    steps = steps_of(costed, placement, evaluation)
    servers = {"cpu": problem.cpu_workers}
    if devices <= {CPU} and problem.whole_cpu_s:
        throughput, latency_s = problem.whole_cores / problem.whole_cpu_s, problem.whole_cpu_s
        steps, servers = (Step(stage=0, resource="cpu", fixed_s=0.0, each_s=latency_s),), {"cpu": problem.whole_cores}
    decision: Decision = "unsplit-cpu" if devices <= {CPU} else "unsplit-gpu" if devices == {GPU} else "split"
    if case.options.slo_s is not None:
        admitted = tokens_within(steps, servers, batch, case.options.slo_s) if steps else None
        throughput = 0.0 if admitted is None else min(throughput, admitted[1].throughput_per_s)
    return Candidate(
        decision=decision,
        placement=placement,
        evaluation=evaluation,
        throughput_per_s=throughput,
        latency_s=lone_s(steps, 1) if costed.rows > 1 and decision != "unsplit-cpu" else latency_s * batch,
        steps=steps,
        servers=servers,
    )


def operation_of(case: Case, candidate: Candidate) -> tuple[int, Simulation]:
    """Return how many requests to let in, and what the candidate then does at saturation."""
    batch, slo_s = case.options.machine.batch, case.options.slo_s
    if slo_s is None:
        return enough_tokens(candidate.steps, candidate.servers, batch)
    found = tokens_within(candidate.steps, candidate.servers, batch, slo_s)
    if found is None:
        raise out_of_reach(case.options, candidate.latency_s)
    return found


def best_unsplit(case: Case, costed: Costed) -> Candidate | None:
    """Return the best plan that cuts nothing, or None where pins and support forbid all."""
    pure = [
        candidate_of(case, costed, placement)
        for name, placement in pure_placements(costed.problem).items()
        if name == "all_cpu" or (name == "all_gpu" and case.fits(costed))
    ]
    return max(pure, key=case.score, default=None)


def robustness_of(case: Case, chosen: Candidate, ends: Ends) -> dict[str, dict[str, Any]]:
    """Return, for both ends of the GPU costs, what the placement gives there and how far it is from the one found there."""
    found = {}
    for end, (costed, solution) in ends.items():
        here = candidate_of(case, costed, chosen.placement)
        unsplit = best_unsplit(case, costed)
        found[f"gpu_{end}"] = {
            "throughput_per_s": finite(here.throughput_per_s),
            "gain": case.score(here) / case.score(unsplit) if unsplit is not None and unsplit.feasible else None,
            "moved_groups": int(np.count_nonzero(solution.placement != chosen.placement)),
        }
    return found
