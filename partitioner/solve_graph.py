"""Plan a bare cost graph: one accelerator, replicas of one plan on several, or one plan divided among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cutset.errors import PlanError, UsageError
from cutset.partitioner.accelerators import HOST, Division, device_names, divide
from cutset.partitioner.bound import certify
from cutset.partitioner.cost_graph import CostGraph, NodeId
from cutset.partitioner.exact import solve_exactly
from cutset.partitioner.goal import Goal, Limits, Objective
from cutset.partitioner.pareto import pareto_front
from cutset.partitioner.solve import Solution, sharpen, solve

_TIE = 1 - 1e-9  # a division has more moving parts than replicas: it must be better


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOptions:
    """What to plan a cost graph for.

    Attributes:
        objective: "throughput" or "latency".
        max_stages: Most stages, or None.
        exact_s: Seconds for the exact planner, or None to do without.
        latency: Longest latency of one request in the file's unit.
        points: Plans of the trade between latency and throughput to look for; 0 for none.
        replicate: Whether every accelerator may hold the same ops and serve whole requests of its own.
        seed: Of the search.
    """

    objective: Objective = "throughput"
    max_stages: int | None = None
    exact_s: float | None = None
    latency: float = float("inf")
    points: int = 0
    replicate: bool = False
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """The plan of a cost graph; times in the file's own unit.

    Attributes:
        placement: Device of each node: ``cpu``, ``gpu``, or one of several ``gpu:0``, ``gpu:1``, ...
        bottleneck: Time between requests at full load: the largest load of a device.
        latency: Time of one request alone.
        lower_bound: No placement on these devices has a smaller objective.
        stages: Stages of the pipeline.
        replicas: Accelerators that each serve whole requests.
        alternatives: What else was considered: the bottleneck of ``replicas`` and of ``division``; None where impossible.
        front: Latency, bottleneck and stages of plans of which none is better in both; empty unless asked for.
        notes: What is worth knowing.
    """

    placement: Mapping[NodeId, str]
    bottleneck: float
    latency: float
    lower_bound: float
    stages: int
    replicas: int
    alternatives: Mapping[str, float | None]
    front: tuple[Mapping[str, float], ...] = ()
    notes: tuple[str, ...]


def solve_graph(graph: CostGraph, options: GraphOptions) -> GraphPlan:
    """Return the best plan of a cost graph and a bound on all.

    Raises:
        PlanError: If stages, memory or latency leave no placement; the message names what binds.
    """
    count = max(graph.accelerators, 1)
    several = count > 1 and options.objective == "throughput"
    if options.points and several and not options.replicate:
        raise UsageError(
            f"--pareto plans one accelerator, this graph has {count}", hint="add --replicas to let all serve one plan alike"
        )
    solution, why = _undivided(graph, options, count if several else 1)
    division = _division(graph, options) if several else None
    found = {
        "replicas": None if solution is None else solution.evaluation.bottleneck_s,
        "division": None if division is None else division.bottleneck_s,
    }
    lower = _lower_bound(graph, options, count if several else 1, solution)
    if division is not None and (solution is None or division.bottleneck_s < solution.evaluation.bottleneck_s * _TIE):
        return _divided_plan(graph, division, lower, found)
    if solution is None:
        raise why or _no_division(graph, options)
    plan = _undivided_plan(graph, solution, lower, count if several else 1, found)
    return replace(plan, front=_front(solution.goal, options)) if options.points else plan


def _front(goal: Goal, options: GraphOptions) -> tuple[Mapping[str, float], ...]:
    front = pareto_front(goal.problem, points=options.points, max_stages=goal.max_stages, limits=goal.limits, seed=options.seed)
    plans = [solution.evaluation for solution in front]
    return tuple({"latency": p.latency_s, "bottleneck": p.bottleneck_s, "stages": p.stages} for p in plans)


def _undivided(graph: CostGraph, options: GraphOptions, count: int) -> tuple[Solution | None, PlanError | None]:
    """Return the plan that every accelerator serves alike, or why there is none."""
    if count > 1 and not options.replicate:
        return None, None
    try:
        solution = solve(
            replace(graph.problem, gpu_count=count),
            objective=options.objective,
            max_stages=options.max_stages,
            limits=Limits(latency_s=options.latency, gpu_bytes=graph.memory),
            seed=options.seed,
        )
    except PlanError as error:
        return None, error
    return solution if options.exact_s is None else sharpen(solution, options.exact_s), None


def _division(graph: CostGraph, options: GraphOptions) -> Division | None:
    """Return the best division that keeps stages and latency, with as many accelerators as those allow."""
    most_stages = options.max_stages or len(graph.ids)
    for accelerators in range(min(graph.accelerators, most_stages), 0, -1):
        try:
            division = divide(graph.problem, accelerators, Limits(gpu_bytes=graph.memory))
        except PlanError:
            return None
        if _stages(division) <= most_stages and _latency(graph, division) <= options.latency:
            return division
    return None


def _no_division(graph: CostGraph, options: GraphOptions) -> PlanError:
    cause = f"{graph.accelerators} accelerators of {graph.memory:.0f} bytes, ops of {graph.problem.gpu_bytes.sum():.0f} bytes"
    return PlanError(
        "no division of the graph into contiguous pieces keeps the limits",
        cause=cause if options.max_stages is None else f"{cause}, at most {options.max_stages} stages",
        hint="allow --replicas, more memory, more latency, or more stages",
    )


def _stages(division: Division) -> int:
    return len(set(division.device.tolist()))


def _latency(graph: CostGraph, division: Division) -> float:
    loads = division.load_s.tolist()
    return float(loads[HOST] * graph.problem.cpu_workers + sum(loads[HOST + 1 :]))


def _lower_bound(graph: CostGraph, options: GraphOptions, count: int, solution: Solution | None) -> float:
    """Return a bound on replicas and divisions alike: accelerators that pool their time and memory and copy for free."""
    pooled = replace(graph.problem, gpu_count=count)
    limits = Limits(latency_s=options.latency, gpu_bytes=graph.memory * count)
    goal = Goal(problem=pooled, objective=options.objective, limits=limits)
    if count == 1 and solution is not None:
        return solution.lower_bound_s
    bound = certify(goal).value_s
    if options.exact_s is not None:
        bound = max(bound, solve_exactly(goal, options.exact_s).bound_s)
    return bound


def _divided_plan(graph: CostGraph, division: Division, lower: float, found: Mapping[str, float | None]) -> GraphPlan:
    names = device_names(division.device[graph.member].tolist())
    note = "no division into contiguous pieces is better" if division.optimal else "the graph is too wide to try all divisions"
    return GraphPlan(
        placement=dict(zip(graph.ids, names, strict=True)),
        bottleneck=division.bottleneck_s,
        latency=_latency(graph, division),
        lower_bound=min(lower, division.bottleneck_s),
        stages=_stages(division),
        replicas=1,
        alternatives=found,
        notes=(note,),
    )


def _undivided_plan(
    graph: CostGraph, solution: Solution, lower: float, count: int, found: Mapping[str, float | None]
) -> GraphPlan:
    evaluation = solution.evaluation
    names = ["gpu" if at else "cpu" for at in solution.placement[graph.member].tolist()]
    return GraphPlan(
        placement=dict(zip(graph.ids, names, strict=True)),
        bottleneck=evaluation.bottleneck_s,
        latency=evaluation.latency_s,
        lower_bound=min(lower, solution.goal.objective_s(evaluation)),
        stages=evaluation.stages,
        replicas=count,
        alternatives=found if count > 1 else {},
        notes=solution.notes,
    )
