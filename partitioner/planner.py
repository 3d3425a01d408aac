"""Plan one model: costs to problem, problem to placement, placement to stages, and a decision that does no harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset.errors import PlanError
from cutset.graph.model import ModelGraph
from cutset.partitioner.assemble import boundary_of, node_placement, parts_of, reasons_of
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.baselines import Baseline, pure_placements
from cutset.partitioner.cost import Costed, Machine, build_problem
from cutset.partitioner.cut import Flow
from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.pins import Kept, Pin
from cutset.partitioner.plan import (
    Decision,
    Objective,
    Plan,
    Prediction,
    form_stages,
)
from cutset.partitioner.problem import CPU, GPU, RESOURCES, Placement, Problem
from cutset.partitioner.solve import Solution, solve
from cutset.partitioner.support import Support
from cutset.partitioner.wellformed import problems
from cutset.profilers.table import CostTable

MIN_GAIN = 0.02
"""A split that gains less than this over the best unsplit plan is not worth its moving parts."""

BOTTLENECKS = {"cpu": "CPU", "gpu": "GPU", "h2d": "copy to the GPU", "d2h": "copy to the host"}

TOKEN_FACTOR = 1.5
"""Requests inside the pipeline, as a multiple of latency over bottleneck: enough to keep the bottleneck busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What to plan for.

    Args:
        name: Served model name.
        objective: ``throughput`` or ``latency``.
        max_stages: Most stages of the pipeline.
        machine: Workers, cores, batch.
        threads: Intra-op threads of a CPU session.
        min_gpu_nodes: GPU stages with fewer fused groups than this are not worth building.
        flow: Engine of the minimum cut.
        seed: Seed of the polish.
        kept: Nodes that stay together.
    """

    name: str
    machine: Machine
    objective: Objective = "throughput"
    max_stages: int = 5
    threads: int = 1
    min_gpu_nodes: int = 0
    flow: Flow = "scipy"
    seed: int = 0
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Candidate:
    """A deployable placement and what it reaches."""

    decision: Decision
    placement: Placement
    evaluation: Evaluation
    throughput_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Choice:
    """What to deploy, why in half a sentence, and how it holds at both ends of the GPU costs' interval."""

    candidate: _Candidate
    why: str
    robustness: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Case:
    """Everything that stays the same while one model is planned."""

    evidence: Evidence
    options: PlanOptions

    def costed(self, gpu_scale: str = "mid") -> Costed:
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

    def score(self, candidate: _Candidate) -> float:
        """Return what is to be large: requests a second, or the inverse of seconds a request."""
        if self.options.objective == "throughput":
            return candidate.throughput_per_s
        return 1 / max(candidate.latency_s, 1e-12)


def plan(
    graph: ModelGraph,
    table: CostTable,
    support: Mapping[str, Support],
    pins: Mapping[str, Pin],
    options: PlanOptions,
) -> Plan:
    """Return the plan of a model.

    Args:
        graph: The model with measured shapes.
        table: Its costs.
        support: Which nodes the GPU backend takes.
        pins: Pin of each pinned node.
        options: What to plan for.

    Raises:
        PlanError: If pins and the stage limit leave no placement.
    """
    evidence = Evidence(graph=graph, table=table, support=support, pins=pins, kept=options.kept)
    case = _Case(evidence=evidence, options=options)
    costed = case.costed()
    solution = case.solve_simply(costed)
    result = _assemble(case, costed, solution, _choose(case, costed, solution))
    wrong = problems(graph, result)
    if wrong:
        raise AssertionError(f"the planner made a plan that is none: {wrong[:3]}")
    return result


def _choose(case: _Case, costed: Costed, solution: Solution) -> _Choice:
    """Return what to deploy.

    A split must beat every unsplit plan that the pins allow by more than `MIN_GAIN`, and must not lose to one at either
    end of the GPU costs' interval: a gain that a wrong guess of the GPU's speed turns into a loss is none.
    """
    ends = _ends(case)
    split = _candidate(costed.problem, solution.placement)
    best = _best_unsplit(case, costed)
    if best is None:
        if split.decision != "split":
            raise PlanError("no placement satisfies the pins", hint="remove one of the pins")
        return _Choice(candidate=split, why="as the pins demand", robustness=_robustness(case, split, ends))
    if split.decision != "split":
        return _Choice(candidate=best, why="no split gains anything", robustness=_robustness(case, best, ends))
    gain = case.score(split) / case.score(best)
    robustness = _robustness(case, split, ends)
    worst = min((end["gain"] for end in robustness.values() if end["gain"] is not None), default=gain)
    if gain > 1 + MIN_GAIN and worst >= 1:
        return _Choice(candidate=split, why=f"{gain:.2f}x the best unsplit plan", robustness=robustness)
    why = f"the best split found gives {gain:.2f}x"
    if gain > 1 + MIN_GAIN:
        why += f", but {worst:.2f}x at one end of the GPU costs' interval"
    return _Choice(candidate=best, why=why, robustness=_robustness(case, best, ends))


def _ends(case: _Case) -> dict[str, tuple[Costed, Solution]]:
    """Return the problem and its solution at both ends of the GPU costs' interval."""
    if not case.evidence.table.groups_on("gpu"):
        return {}
    problems_at = {end: case.costed(end) for end in ("low", "high")}
    return {end: (costed, case.solve(costed)) for end, costed in problems_at.items()}


def _candidate(problem: Problem, placement: Placement) -> _Candidate:
    """Return a placement with what it reaches; the whole model on the CPU runs as replicas on every core."""
    evaluation = evaluate(problem, placement)
    devices = {int(device) for device in placement[problem.real]}
    throughput, latency_s = evaluation.throughput_per_s, evaluation.latency_s
    if devices <= {CPU} and problem.whole_cpu_s:
        throughput, latency_s = problem.whole_cores / problem.whole_cpu_s, problem.whole_cpu_s
    decision: Decision = "unsplit-cpu" if devices <= {CPU} else "unsplit-gpu" if devices == {GPU} else "split"
    return _Candidate(
        decision=decision,
        placement=placement,
        evaluation=evaluation,
        throughput_per_s=throughput,
        latency_s=latency_s,
    )


def _best_unsplit(case: _Case, costed: Costed) -> _Candidate | None:
    pure = [
        _candidate(costed.problem, placement)
        for name, placement in pure_placements(costed.problem).items()
        if name in {"all_cpu", "all_gpu"}
    ]
    return max(pure, key=case.score, default=None)


def _robustness(case: _Case, chosen: _Candidate, ends: Mapping[str, tuple[Costed, Solution]]) -> dict[str, dict[str, Any]]:
    """Return, for both ends of the GPU costs, what the placement gives there and how far it is from the one found there."""
    found = {}
    for end, (costed, solution) in ends.items():
        here = _candidate(costed.problem, chosen.placement)
        unsplit = _best_unsplit(case, costed)
        found[f"gpu_{end}"] = {
            "throughput_per_s": _finite(here.throughput_per_s),
            "gain": None if unsplit is None else case.score(here) / case.score(unsplit),
            "moved_groups": int(np.count_nonzero(solution.placement != chosen.placement)),
        }
    return found


def _assemble(case: _Case, costed: Costed, solution: Solution, choice: _Choice) -> Plan:
    chosen = choice.candidate
    graph, table, options = case.evidence.graph, case.evidence.table, case.options
    machine = options.machine
    parts = parts_of(graph, costed, chosen.placement, chosen.evaluation.labels)
    if chosen.decision == "unsplit-cpu":  # nothing is cut, so nothing costs its unfused price
        parts = [replace(part, service_s=chosen.latency_s) for part in parts]
    stages = form_stages(graph, parts)
    placement = node_placement(graph, costed.atoms, chosen.placement)
    workers = machine.cores if chosen.decision == "unsplit-cpu" else machine.cpu_workers
    prediction = _prediction(case, solution, chosen, workers)
    tokens = _tokens(prediction, workers)
    return Plan(
        name=options.name,
        model={"file": table.model.file, "sha256": table.model.sha256, "nodes": table.model.nodes},
        target=_target(table),
        objective=options.objective,
        options={
            "max_stages": options.max_stages,
            "min_gpu_nodes": options.min_gpu_nodes,
            "flow": options.flow,
            "seed": options.seed,
        },
        decision=chosen.decision,
        verdict=_verdict(choice, prediction, table, options),
        cpu_workers=workers,
        intra_op_threads=options.threads,
        batch=machine.batch,
        tokens=tokens,
        queue_limit=max(64, 8 * tokens),
        inputs=graph.inputs,
        outputs=graph.outputs,
        placement=placement,
        reasons=reasons_of(graph, costed.atoms, chosen.placement),
        pins={name: pin.device for name, pin in case.evidence.pins.items()},
        stages=stages,
        boundary=boundary_of(graph, table, stages),
        prediction=prediction,
        baselines={name: _baseline_json(baseline) for name, baseline in solution.baselines.items()},
        robustness=choice.robustness,
        notes=solution.notes,
    )


def _prediction(case: _Case, solution: Solution, chosen: _Candidate, workers: int) -> Prediction:
    """Return what the chosen placement should reach.

    The bound is of the cost model with the pool's workers; replicas on every core can be quicker than it allows.
    """
    evaluation = chosen.evaluation
    throughput = _finite(chosen.throughput_per_s)
    servers = {"cpu": workers}
    value_s = 1 / case.score(chosen)
    bound_s = min(solution.lower_bound_s, value_s)
    return Prediction(
        latency_s=chosen.latency_s,
        throughput_per_s=throughput,
        bottleneck=evaluation.bottleneck,
        utilisation={name: float(evaluation.demand_s[name]) * throughput / servers.get(name, 1) for name in RESOURCES},
        lower_bound_s=bound_s,
        gap=value_s / bound_s - 1 if bound_s > 0 else 0.0,
    )


def _tokens(prediction: Prediction, workers: int) -> int:
    inside = TOKEN_FACTOR * prediction.latency_s * prediction.throughput_per_s
    return max(workers + 1, math.ceil(inside))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _baseline_json(baseline: Baseline | None) -> dict[str, Any] | None:
    if baseline is None:
        return None
    return {
        "throughput_per_s": _finite(baseline.throughput_per_s),
        "latency_s": _finite(baseline.latency_s),
        "stages": baseline.stages,
    }


def _target(table: CostTable) -> dict[str, Any]:
    environment = table.environment
    gpu = table.target
    return {
        "cpu": {"name": environment.get("cpu"), "cores": environment.get("usable_cores")},
        "gpu": None if gpu is None else dict(gpu),
        "source": "measured" if gpu is None else gpu.get("source", "modelled"),
    }


def _verdict(choice: _Choice, prediction: Prediction, table: CostTable, options: PlanOptions) -> str:
    decision = choice.candidate.decision
    gpu = table.target
    about = f" ({gpu.get('source')} for {gpu.get('name')})" if gpu else ""
    rate, latency = f"{prediction.throughput_per_s:.1f} requests/s", f"{prediction.latency_s * 1e3:.2f} ms"
    number = rate if options.objective == "throughput" else latency
    if decision == "split":
        return f"split: {number} predicted, {choice.why}{about}; the bottleneck is the {BOTTLENECKS[prediction.bottleneck]}"
    why = "no GPU was named" if gpu is None else f"{choice.why}{about}"
    where = "CPU" if decision == "unsplit-cpu" else "GPU"
    return f"leave it whole on the {where}: {why}; {number} predicted"
