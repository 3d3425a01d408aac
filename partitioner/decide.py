"""Decide what to deploy: the best split found, unless a plan that needs no optimiser does as well."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.baselines import WITHIN_LIMITS, WORDS, baselines, capability_within, pure_placements
from cutset.partitioner.cost import Costed, build_problem
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.goal import Limits
from cutset.partitioner.judge import MID, MIN_GAIN, SPLIT, Judgement, Scores, explain_choice, judge
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import Decision, finite
from cutset.partitioner.problem import CPU, GPU, Placement
from cutset.partitioner.simulate import Simulation, enough_tokens, tokens_within
from cutset.partitioner.solve import Solution, bounded, sharpen, small_gpu_stages, solve, without_small_stages
from cutset.partitioner.steps import Step, steps_of
from cutset.partitioner.steps import latency_s as lone_s

Ends = Mapping[str, Costed]
"""The problem at the ends of the GPU costs' interval, ``low`` and ``high``; empty where no GPU is planned for."""


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
    """What to deploy, and how it compares.

    Attributes:
        candidate: The plan to deploy.
        why: In half a sentence.
        judgement: Its scores and those of the simple plans.
        robustness: How it holds at both ends of the GPU costs' interval.
        alternatives: The simple plans at this size, by name.
    """

    candidate: Candidate
    why: str
    judgement: Judgement
    robustness: Mapping[str, Any]
    alternatives: Mapping[str, Candidate]

    @property
    def simple(self) -> str | None:
        """Name of the simple plan that it is, None for a split of the optimiser."""
        return None if self.judgement.winner == SPLIT else self.judgement.winner


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


def choose(case: Case, costed: Costed, solution: Solution, rivals: Mapping[str, Scores] | None = None) -> Choice:
    """Return what to deploy: the solution's placement, or the best simple plan where `judge` prefers that.

    Args:
        case: What is planned.
        costed: Its problem.
        solution: The best placement found.
        rivals: Scores of the simple plans at the sizes that suit them best; at the case's own size by default.

    Raises:
        PlanError: If no placement satisfies the pins, or none meets the latency target.
    """
    ends = ends_of(case)
    split = candidate_of(case, costed, solution.placement)
    simple = simple_candidates(case, costed)
    distinct = not any(np.array_equal(split.placement, plan.placement) for plan in simple.values())
    here = {name: scores_of(case, plan, ends) for name, plan in simple.items()}
    elsewhere = {name: scores for name, scores in (rivals or {}).items() if name in simple and simple[name].feasible}
    stages = {name: plan.evaluation.stages for name, plan in {SPLIT: split, **simple}.items()}
    found = judge(scores_of(case, split, ends), here | elsewhere, distinct=distinct, stages=stages)
    chosen = split if found.winner == SPLIT else simple[found.winner]
    if found.winner != SPLIT:  # what is told of the plan to deploy is what it does at this size
        found = replace(found, rivals={**found.rivals, found.winner: here[found.winner]})
    if not chosen.feasible:
        raise out_of_reach(case.options, min(plan.latency_s for plan in (split, *simple.values())))
    why = explain_choice(found) or _without_rival(case, found, simple)
    if found.winner == SPLIT and not simple.keys() & {"all_cpu", "all_gpu"}:
        why += "; the model cannot be left whole"
    robustness = robustness_of(case, chosen, found, ends)
    return Choice(candidate=chosen, why=why, judgement=found, robustness=robustness, alternatives=simple)


def _without_rival(case: Case, found: Judgement, simple: Mapping[str, Candidate]) -> str:
    """Return why a plan has no other to be compared with."""
    if not simple:
        return "as the pins demand"
    if case.options.slo_s is None:
        return "the only simple plan within the limits"
    return "which alone answers in time" if found.winner == SPLIT else "the only simple plan that answers in time"


def out_of_reach(options: PlanOptions, quickest_s: float) -> PlanError:
    """Return the error of a latency target that nothing meets."""
    target_s = options.slo_s or 0.0
    return PlanError(
        f"no plan answers within {target_s * 1e3:g} ms: the quickest found takes {quickest_s * 1e3:.2f} ms",
        hint="allow more with --slo-ms, or plan for a faster device",
    )


def ends_of(case: Case) -> Ends:
    """Return the problem at both ends of the GPU costs' interval."""
    return {end: case.costed(end) for end in ("low", "high")} if case.evidence.table.groups_on("gpu") else {}


def scores_of(case: Case, candidate: Candidate, ends: Ends) -> Scores:
    """Return the score of a candidate as costed, and of its placement at the ends of the GPU costs' interval."""
    there = {end: case.score(candidate_of(case, costed, candidate.placement)) for end, costed in ends.items()}
    return {MID: case.score(candidate), **there}


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


def simple_candidates(case: Case, costed: Costed) -> dict[str, Candidate]:
    """Return the plans without an optimiser that could be deployed, by their name in `WORDS`, the simplest first.

    What a package can be made of: the whole model on one device, or capability first where that keeps the limits on
    stages, on the nodes of a GPU stage and on memory; else capability first within as many stages as are allowed.
    """
    problem, options = costed.problem, case.options
    pure = {name: placement for name, placement in pure_placements(problem).items() if name == "all_cpu" or placement.any()}
    if "all_gpu" in pure:  # the same placement
        del pure["capability_first"]
    found = {name: candidate_of(case, costed, placement) for name, placement in pure.items()}
    greedy = found.get("capability_first")
    if greedy is not None and (greedy.evaluation.stages > options.max_stages or small_gpu_stages(problem, greedy.placement)):
        del found["capability_first"]
        placements = (without_small_stages(problem, placement) for placement in capability_within(problem, options.max_stages))
        limited = [candidate_of(case, costed, placement) for placement in placements if placement.any()]
        if limited:
            found[WITHIN_LIMITS] = max(limited, key=case.score)
    return {name: found[name] for name in WORDS if name in found and _fits(case, found[name])}


def _fits(case: Case, candidate: Candidate) -> bool:
    return candidate.evaluation.gpu_bytes <= case.options.gpu_memory_bytes


def robustness_of(case: Case, chosen: Candidate, found: Judgement, ends: Ends) -> dict[str, dict[str, Any]]:
    """Return, for both ends of the GPU costs, what the placement gives there and how far it is from the one found there.

    Its gain is over the best other simple plan there, which is named; a mix is compared too, though no package can be one.
    """
    answers = {}
    for end, costed in ends.items():
        here = candidate_of(case, costed, chosen.placement)
        mix = baselines(costed.problem)["mix"]
        answers[f"gpu_{end}"] = {
            "throughput_per_s": finite(here.throughput_per_s),
            "gain": found.gain(end),
            "against": found.best_other(end),
            "mix_per_s": None if mix is None else finite(mix.throughput_per_s),
            "moved_groups": int(np.count_nonzero(case.solve_or_quickest(costed).placement != chosen.placement)),
        }
    return answers
