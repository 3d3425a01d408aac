"""The polish improves what it can, and ties go the same way every time."""

from __future__ import annotations

import numpy as np
import pytest

from cutset.partitioner.goal import Goal
from cutset.partitioner.phases import Window
from cutset.partitioner.problem import Placement, Problem, Tensor
from cutset.partitioner.refine import Effort, move_ops, refine, stage_runs, sweep, sweep_orders, tidy


def chain(cpu_s: list[float], gpu_s: list[float], copy_s: float) -> Problem:
    return Problem(
        names=tuple(f"op{v}" for v in range(len(cpu_s))),
        cpu_s=np.array(cpu_s),
        gpu_s=np.array(gpu_s),
        tensors=tuple(
            Tensor(name=f"t{v}", producer=v, consumers=(v + 1,), h2d_s=copy_s, d2h_s=copy_s) for v in range(len(cpu_s) - 1)
        ),
    )


def place(*devices: int) -> Placement:
    return np.array(devices, dtype=np.int8)


@pytest.mark.parametrize(
    ("used", "runs"),
    [([1, 1, 1], (2, 1)), ([1, 0, 1], (1, 0)), ([0, 2, 0, 1], (0, 1)), ([], (0, 0)), ([0, 1, 1], (1, 1))],
)
def test_empty_positions_let_stages_merge(used: list[int], runs: tuple[int, int]) -> None:
    assert stage_runs(used) == runs


def test_orders_are_topological_and_depend_on_the_seed_only() -> None:
    problem = Problem(names=tuple("abcdef"), cpu_s=np.ones(6), gpu_s=np.ones(6), tensors=chain([1] * 3, [1] * 3, 1).tensors)
    orders = sweep_orders(problem, seed=1)
    assert orders == sweep_orders(problem, seed=1)
    for order in orders:
        assert sorted(order) == list(range(6))
        assert order.index(0) < order.index(1) < order.index(2)


def test_a_sweep_moves_a_whole_run_through_a_worse_middle() -> None:
    # Any one op on the GPU costs two copies of 3 s; all four save 30 s of latency.
    problem = chain([10.0] * 4, [1.0] * 4, 6.0)
    goal = Goal(problem=problem, objective="latency", max_stages=3)
    swept = sweep(goal, place(0, 0, 0, 0), Window(low=0, high=2), sweep_orders(problem, 0), Effort())
    assert goal.value_s(swept) == pytest.approx(4.0)


def test_single_moves_balance_the_bottleneck() -> None:
    problem = Problem(names=tuple("abcd"), cpu_s=np.full(4, 2.0), gpu_s=np.full(4, 2.0), tensors=())
    goal = Goal(problem=problem, objective="throughput", max_stages=2)
    moved = move_ops(goal, place(0, 0, 0, 0), Window(low=0, high=1), Effort())
    assert goal.value_s(moved) == pytest.approx(4.0)


def test_refining_never_leaves_the_stage_limit_or_gets_worse() -> None:
    rng = np.random.default_rng(2)
    for limit in (1, 2, 3):
        problem = chain(rng.uniform(1, 9, 9).tolist(), rng.uniform(0.5, 9, 9).tolist(), 0.1)
        goal = Goal(problem=problem, objective="throughput", max_stages=limit)
        start = place(*[0] * 9)
        for found in refine(goal, start, sweep_orders(problem, 0), Effort()):
            assert goal.value_s(found) <= goal.value_s(start)


def test_a_placement_is_refined_in_each_chain_it_fits() -> None:
    problem = chain([1.0] * 3, [1.0] * 3, 0.1)
    goal = Goal(problem=problem, objective="throughput", max_stages=3)
    assert goal.windows(place(1, 1, 0)) == [Window(low=0, high=2), Window(low=1, high=3)]
    assert goal.windows(place(1, 0, 1)) == [Window(low=1, high=3)]


def test_tidying_gives_back_stages_and_the_gpu_when_it_is_free() -> None:
    problem = chain([1.0, 0.0, 1.0], [5.0, 0.0, 5.0], 0.0)
    goal = Goal(problem=problem, objective="latency", max_stages=5)
    assert tidy(goal, place(0, 1, 0)).tolist() == [0, 0, 0]
    # It must not trade latency for a stage, nor the bottleneck for latency.
    costly = chain([1.0, 3.0, 1.0], [5.0, 0.5, 5.0], 0.1)
    assert tidy(Goal(problem=costly, objective="latency", max_stages=5), place(0, 1, 0)).tolist() == [0, 1, 0]
