"""The planner's remaining guards: limits, monotonicity, contraction, and the exact planner beside the search."""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.errors import PlanError
from cutset.partitioner.bound import certify
from cutset.partitioner.contract import contract
from cutset.partitioner.evaluation import demands, evaluate
from cutset.partitioner.exact import solve_exactly
from cutset.partitioner.exhaustive import enumerate_placements
from cutset.partitioner.goal import Goal, Limits
from cutset.partitioner.phases import fewest_stages
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.solve import solve

OBJECTIVES = st.sampled_from(["throughput", "latency"])
FEW = settings(max_examples=20, deadline=None, derandomize=True)
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@st.composite
def problems(draw: st.DrawFn, *, max_ops: int = 7) -> Problem:
    """Draw a problem with weights, whose ops are numbered in topological order."""
    seconds = st.floats(0.1, 10.0)
    size = draw(st.integers(2, max_ops))
    support = draw(st.lists(st.sampled_from(["both", "both", "both", "cpu", "gpu"]), min_size=size, max_size=size))
    return Problem(
        names=tuple(f"op{v}" for v in range(size)),
        cpu_s=np.array([np.inf if runs == "gpu" else draw(seconds) for runs in support]),
        gpu_s=np.array([np.inf if runs == "cpu" else draw(seconds) for runs in support]),
        tensors=tuple(
            Tensor(
                name=f"t{u}",
                producer=u,
                consumers=tuple(draw(st.lists(st.integers(u + 1, size - 1), min_size=1, max_size=3))),
                h2d_s=draw(st.floats(0.0, 2.0)),
                d2h_s=draw(st.floats(0.0, 2.0)),
            )
            for u in range(size - 1)
        ),
        cpu_workers=draw(st.integers(1, 3)),
        gpu_bytes=np.array(draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)), dtype=np.float64),
        copies_overlap=draw(st.booleans()),
    )


def best_values(problem: Problem, objective: str) -> np.ndarray:
    """Return the objective of every placement, worked out apart from the planner."""
    every = enumerate_placements(problem)
    if objective == "latency":
        return every.latency_s
    cpu, gpu, h2d, d2h = every.demand_s.T
    cpu = cpu / problem.cpu_workers
    return np.maximum.reduce([cpu, gpu, h2d, d2h]) if problem.copies_overlap else np.maximum(cpu, gpu + h2d + d2h)


@FEW
@given(problems(), st.floats(0.2, 2.0), st.floats(0.0, 1.2), st.sampled_from([None, 3]), OBJECTIVES)
def test_limits_are_refused_exactly_when_no_placement_keeps_them(
    problem: Problem, latency: float, memory: float, stages: int | None, objective: str
) -> None:
    every = enumerate_placements(problem)
    fits_stages = every.stages <= (np.inf if stages is None else stages)
    if not fits_stages.any():
        return
    limits = Limits(
        latency_s=latency * float(np.median(every.latency_s)), gpu_bytes=math.floor(memory * problem.gpu_bytes.sum())
    )
    size = every.placements @ problem.gpu_bytes
    allowed = fits_stages & (every.latency_s <= limits.latency_s) & (size <= limits.gpu_bytes)
    goal = Goal(problem=problem, objective=objective, max_stages=stages, limits=limits)
    assert solve_exactly(goal).infeasible == (not allowed.any())
    if not allowed.any():
        with pytest.raises(PlanError):
            solve(problem, objective=objective, max_stages=stages, limits=limits)
        return
    optimum = float(best_values(problem, objective)[allowed].min())
    solution = solve(problem, objective=objective, max_stages=stages, limits=limits)
    assert goal.allows(solution.evaluation)
    assert solution.lower_bound_s <= optimum * (1 + 1e-9)
    assert goal.objective_s(solution.evaluation) >= optimum * (1 - 1e-9)


@FEW
@given(problems(), st.floats(1.0, 8.0), OBJECTIVES)
def test_optimum_and_bound_do_not_rise_with_bandwidth_or_workers(problem: Problem, factor: float, objective: str) -> None:
    wider = tuple(replace(t, h2d_s=t.h2d_s / factor, d2h_s=t.d2h_s / factor) for t in problem.tensors)
    before = certify(Goal(problem=problem, objective=objective)).value_s
    least = best_values(problem, objective).min()
    for better in (replace(problem, tensors=wider), replace(problem, cpu_workers=problem.cpu_workers + 1)):
        assert certify(Goal(problem=better, objective=objective)).value_s <= before * (1 + 2e-4)
        assert best_values(better, objective).min() <= least * (1 + 1e-9)


@FEW
@given(problems())
def test_more_stages_never_cost_anything(problem: Problem) -> None:
    values = []
    for stages in (3, 5, 7):
        fits = fewest_stages(problem)[0] <= stages
        values.append(solve(problem, max_stages=stages).evaluation.bottleneck_s if fits else math.inf)
    values.append(solve(problem, max_stages=None).evaluation.bottleneck_s)
    assert all(more <= fewer * (1 + 1e-9) for fewer, more in pairwise(values[:3]))
    assert values[3] <= values[1] * (1 + 1e-9)


@FEW
@given(problems(), st.data())
def test_contraction_keeps_demands_of_placements_that_keep_groups(problem: Problem, data: st.DataObject) -> None:
    groups = data.draw(st.lists(st.integers(0, 3), min_size=problem.size, max_size=problem.size))
    try:
        small, member = contract(problem, groups)
    except PlanError:  # an op that only the CPU runs was put with one that only the GPU runs
        return
    bits = np.array(data.draw(st.lists(st.integers(0, 1), min_size=small.size, max_size=small.size)))
    placement = np.where(small.movable, bits, ~small.on_cpu).astype(np.int8)
    assert demands(small, placement) == pytest.approx(demands(problem, placement[member]))
    assert all(member[u] == member[v] for u in range(problem.size) for v in range(problem.size) if groups[u] == groups[v])


@FEW
@given(problems(), st.data())
def test_pins_and_stage_limits_are_respected(problem: Problem, data: st.DataObject) -> None:
    free = np.flatnonzero(problem.movable).tolist()
    if not free:
        return
    v, device = data.draw(st.sampled_from(free)), data.draw(st.integers(0, 1))
    costs = {"cpu_s": problem.cpu_s.copy(), "gpu_s": problem.gpu_s.copy()}
    costs["gpu_s" if device == 0 else "cpu_s"][v] = np.inf
    solution = solve(replace(problem, **costs), max_stages=None)
    assert solution.placement[v] == device
    stages = max(1, evaluate(problem, solution.placement).stages)
    assert solve(replace(problem, **costs), max_stages=stages).evaluation.stages <= stages


@FEW
@given(problems(), st.sampled_from([None, 2, 3]), OBJECTIVES)
def test_the_exact_planner_is_the_optimum_and_its_bound_holds(problem: Problem, stages: int | None, objective: str) -> None:
    every = enumerate_placements(problem)
    fits = every.stages <= (np.inf if stages is None else stages)
    exact = solve_exactly(Goal(problem=problem, objective=objective, max_stages=stages))
    assert exact.infeasible == (not fits.any())
    if fits.any():
        optimum = best_values(problem, objective)[fits].min()
        assert optimum * (1 - 1e-5) <= exact.bound_s <= optimum * (1 + 1e-9)


@pytest.fixture(scope="module")
def light_graphs() -> ModuleType:
    """Return the benchmark's module that reads the light models' cost graphs."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("light_graphs", BENCHMARKS / "light_graphs.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


@pytest.mark.parametrize("stages", [3, 5])
@pytest.mark.parametrize("regime", ["server", "edge", "even"])
@pytest.mark.parametrize("model", ["light_bvlc_alexnet", "light_vgg19", "light_zfnet512"])
def test_plans_of_light_models_are_within_five_percent_of_the_optimum(
    light_graphs: ModuleType, model: str, regime: str, stages: int
) -> None:
    problem = light_graphs.problem_of(light_graphs.read()[model], regime)
    goal = Goal(problem=problem, max_stages=stages)
    exact = solve_exactly(goal)
    assert exact.placement is not None
    found = solve(problem, max_stages=stages).evaluation.bottleneck_s
    assert exact.bound_s <= found <= goal.value_s(exact.placement) * 1.05
