"""The whole planner on problems with a known answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cutset.errors import PlanError
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.exhaustive import enumerate_placements
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.solve import small_gpu_stages, solve, without_small_stages


def detector(**changes: object) -> Problem:
    """Return pre -> three heavy ops -> post, where only the heavy ones are worth a GPU."""
    cost = {"h2d_s": 0.4e-3, "d2h_s": 0.4e-3}
    problem = Problem(
        names=("<input>", "decode", "conv1", "conv2", "conv3", "nms", "<output>"),
        cpu_s=np.array([0, 2, 40, 40, 40, 3, 0]) * 1e-3,
        gpu_s=np.array([np.inf, np.inf, 2e-3, 2e-3, 2e-3, np.inf, np.inf]),
        tensors=tuple(Tensor(name=f"t{v}", producer=v, consumers=(v + 1,), **cost) for v in range(6)),
        pseudo=frozenset({0, 6}),
        cpu_workers=2,
    )
    return replace(problem, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("flow", ["scipy", "networkx"])
def test_the_obvious_split_is_found_and_certified(objective: str, flow: str) -> None:
    solution = solve(detector(), objective=objective, max_stages=3, flow=flow)
    assert solution.placement.tolist() == [0, 0, 1, 1, 1, 0, 0]
    assert solution.evaluation.stages == 3
    # The bound may route a share of requests around the GPU; one latency cut cannot be beaten.
    assert solution.gap == pytest.approx(0.056 if objective == "throughput" else 0, abs=1e-3)
    assert sum(solution.prices.values()) == pytest.approx(1 if objective == "throughput" else 4)


def test_a_limit_that_cannot_be_met_is_refused_with_the_way_out() -> None:
    pinned = detector(cpu_s=np.array([0, 2, 40, np.inf, 40, 3, 0]) * 1e-3)
    with pytest.raises(PlanError, match=r"needs 3(.|\n)*`decode` \(CPU only\) -> `conv2` \(GPU only\)"):
        solve(pinned, max_stages=2)


def test_one_stage_is_the_best_pure_plan() -> None:
    solution = solve(detector(), max_stages=1)
    assert not solution.placement.any()
    assert solution.evaluation.stages == 1


def test_stage_overheads_can_make_a_split_not_worth_it() -> None:
    assert solve(detector(gpu_stage_s=0.2), objective="latency").placement.tolist() == [0] * 7
    assert solve(detector(gpu_stage_s=0.2), objective="latency").gap == pytest.approx(0)


def test_equal_costs_choose_fewer_stages_then_the_cpu() -> None:
    problem = Problem(
        names=("a", "b", "c"),
        cpu_s=np.zeros(3),
        gpu_s=np.zeros(3),
        tensors=(Tensor(name="t", producer=0, consumers=(1, 2), h2d_s=0.0, d2h_s=0.0),),
    )
    for objective in ("throughput", "latency"):
        solution = solve(problem, objective=objective)
        assert solution.placement.tolist() == [0, 0, 0]
        assert (solution.gap, solution.lower_bound_s) == (0.0, 0.0)


def test_small_gpu_stages_go_back_to_the_cpu_and_say_so() -> None:
    solution = solve(detector(min_gpu_ops=4))
    assert not solution.placement.any()
    assert any("pinned 3 ops" in note and "`conv1`" in note for note in solution.notes)
    assert solve(detector(min_gpu_ops=3)).placement.sum() == 3


def test_a_small_stage_that_only_the_gpu_can_run_stays() -> None:
    forced = detector(cpu_s=np.array([0, 2, 40, np.inf, 40, 3, 0]) * 1e-3, min_gpu_ops=5)
    solution = solve(forced)
    assert solution.placement[3] == 1
    assert small_gpu_stages(forced, solution.placement) == []
    assert without_small_stages(forced, solution.placement).tolist() == solution.placement.tolist()


def test_candidates_are_listed_best_first_with_their_origin() -> None:
    costs = np.array([0, 2, 5, 5, 5, 3, 0]) * 1e-3
    solution = solve(detector(cpu_s=costs), max_stages=5)
    values = [line.value_s for line in solution.origins]
    assert values == sorted(values)
    origins = {line.origin for line in solution.origins}
    assert "baseline" in origins
    assert any(origin.startswith("refined ") for origin in origins)
    assert all(line.stages <= 5 for line in solution.origins)


@pytest.mark.parametrize("limit", [2, 3, 5])
def test_plans_are_close_to_brute_force_on_seeded_problems(limit: int) -> None:
    rng = np.random.default_rng(11)
    gaps = []
    for _ in range(8):
        n = 10
        problem = Problem(
            names=tuple(str(v) for v in range(n)),
            cpu_s=rng.lognormal(0, 1, n),
            gpu_s=rng.lognormal(-2, 1, n),
            tensors=tuple(
                Tensor(name=str(u), producer=u, consumers=tuple(rng.integers(u + 1, n, 2)), h2d_s=0.05, d2h_s=0.05)
                for u in range(n - 1)
            ),
            cpu_workers=4,
        )
        every = enumerate_placements(problem)
        found = solve(problem, max_stages=limit).evaluation.bottleneck_s
        gaps.append(found / every.best(every.bottleneck_s, limit) - 1)
    assert min(gaps) >= -1e-9
    assert np.mean(gaps) <= 0.02


def test_a_large_problem_says_what_it_left_out() -> None:
    n = 180
    rng = np.random.default_rng(0)
    problem = Problem(
        names=tuple(str(v) for v in range(n)),
        cpu_s=rng.lognormal(0, 1, n),
        gpu_s=rng.lognormal(-1, 1, n),
        tensors=tuple(
            Tensor(name=str(u), producer=u, consumers=(u + 1, min(u + 5, n - 1)), h2d_s=0.1, d2h_s=0.1) for u in range(n - 1)
        ),
    )
    solution = solve(problem, max_stages=3)
    assert any("not refined" in note for note in solution.notes)
    assert evaluate(problem, solution.placement).stages <= 3


def test_enumeration_refuses_what_it_cannot_finish() -> None:
    with pytest.raises(PlanError, match="17 ops are free"):
        enumerate_placements(Problem(names=("a",) * 17, cpu_s=np.ones(17), gpu_s=np.ones(17), tensors=()))
