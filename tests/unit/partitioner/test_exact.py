"""The exact planner against brute force, and what `sharpen` makes of it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cutset.partitioner.exact import solve_exactly
from cutset.partitioner.exhaustive import enumerate_placements
from cutset.partitioner.goal import Goal, Limits
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.solve import sharpen, solve


def graph(seed: int, size: int = 9, **changes: object) -> Problem:
    rng = np.random.default_rng(seed)
    problem = Problem(
        names=tuple(str(v) for v in range(size)),
        cpu_s=rng.lognormal(0, 1, size),
        gpu_s=np.where(rng.random(size) < 0.2, np.inf, rng.lognormal(-1, 1, size)),
        tensors=tuple(
            Tensor(name=str(u), producer=u, consumers=tuple(rng.integers(u + 1, size, 2)), h2d_s=0.1, d2h_s=0.15)
            for u in range(size - 1)
        ),
        cpu_workers=2,
        gpu_bytes=rng.integers(1, 9, size).astype(float),
    )
    return replace(problem, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("limit", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("overlap", [True, False])
def test_the_optimum_is_that_of_brute_force(objective: str, limit: int | None, overlap: bool) -> None:
    for seed in range(3):
        problem = graph(seed, copies_overlap=overlap)
        every = enumerate_placements(problem)
        loads = (every.demand_s @ problem.shares.T).max(axis=1)
        optimum = every.best(loads if objective == "throughput" else every.latency_s, limit)
        goal = Goal(problem=problem, objective=objective, max_stages=limit)
        exact = solve_exactly(goal)
        if math.isinf(optimum):
            assert exact.infeasible
            continue
        assert exact.placement is not None
        assert goal.value_s(exact.placement) == pytest.approx(optimum, rel=1e-6)
        assert optimum * (1 - 1e-5) <= exact.bound_s <= optimum


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("side", ["cpu_s", "gpu_s"])
def test_where_nothing_can_be_chosen_the_bound_is_the_only_plan(objective: str, limit: int | None, side: str) -> None:
    costs = {"cpu_s": np.full(2, np.inf), "gpu_s": np.full(2, np.inf), side: np.array([1.0, 2.0])}
    goal = Goal(problem=Problem(names=("a", "b"), tensors=(), **costs), objective=objective, max_stages=limit)
    exact = solve_exactly(goal)
    assert exact.placement is not None
    assert exact.placement.tolist() == [int(side == "gpu_s")] * 2
    assert exact.bound_s == pytest.approx(3.0, rel=1e-5)


def test_stage_overheads_are_part_of_the_program() -> None:
    for seed in range(3):
        problem = graph(seed, cpu_stage_s=0.2, gpu_stage_s=0.3)
        every = enumerate_placements(problem)
        for limit in (2, 3):
            optimum = every.best(every.bottleneck_s, limit)
            goal = Goal(problem=problem, max_stages=limit)
            exact = solve_exactly(goal)
            assert exact.bound_s <= optimum
            assert exact.placement is not None
            assert goal.value_s(exact.placement) == pytest.approx(optimum, rel=1e-6)


def test_limits_that_exclude_everything_are_infeasible() -> None:
    problem = graph(1)
    assert solve_exactly(Goal(problem=problem, limits=Limits(latency_s=1e-3))).infeasible
    nothing = solve_exactly(Goal(problem=problem, limits=Limits(gpu_bytes=0.0)))
    assert nothing.placement is not None
    assert not nothing.placement.any()


def test_out_of_time_the_bound_still_holds() -> None:
    problem = graph(3, size=40)
    exact = solve_exactly(Goal(problem=problem, max_stages=7), seconds=0.01)
    assert exact.bound_s <= solve(problem, max_stages=7).evaluation.bottleneck_s


def test_a_sharpened_solution_is_proven_within_its_stages() -> None:
    problem = graph(5, size=12)
    solution = solve(problem, max_stages=2)
    sharp = sharpen(solution, seconds=30)
    every = enumerate_placements(problem)
    optimum = every.best(every.bottleneck_s, 2)
    assert sharp.evaluation.bottleneck_s == pytest.approx(optimum, rel=1e-6)
    assert solution.lower_bound_s <= sharp.lower_bound_s <= optimum
    assert sharp.gap <= 1e-5
    assert any("no plan of at most 2 stages is better" in note for note in sharp.notes)
