"""Kicks jump over what single moves cannot, and never make a plan worse."""

from __future__ import annotations

import numpy as np

from cutset.partitioner.explore import LARGEST_KICK, explore, kicked, neighbours, pushed, redrawn
from cutset.partitioner.goal import Goal
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.refine import Effort, sweep_orders


def pairs() -> Problem:
    """Return three heavy pairs: each is worth a GPU only as a whole, as what is between its two ops is dear to copy."""
    return Problem(
        names=tuple("abcdef"),
        cpu_s=np.full(6, 3.0),
        gpu_s=np.full(6, 2.0),
        tensors=tuple(Tensor(name=str(v), producer=v, consumers=(v + 1,), h2d_s=50, d2h_s=50) for v in (0, 2, 4)),
    )


def test_ops_that_share_a_tensor_are_neighbours() -> None:
    assert neighbours(pairs()) == [[1], [0], [3], [2], [5], [4]]
    wide = Problem(
        names=("a",) * 40,
        cpu_s=np.ones(40),
        gpu_s=np.ones(40),
        tensors=(Tensor(name="t", producer=0, consumers=tuple(range(1, 40)), h2d_s=1, d2h_s=1),),
    )
    assert neighbours(wide)[0] == []


def test_a_kick_moves_one_connected_neighbourhood() -> None:
    rng = np.random.default_rng(0)
    near = neighbours(pairs())
    for _ in range(20):
        moved = np.flatnonzero(kicked(np.zeros(6, dtype=np.int8), near, range(6), rng)).tolist()
        assert 1 <= len(moved) <= LARGEST_KICK
        assert moved in ([0, 1], [2, 3], [4, 5])


def test_exploring_finds_what_moves_together() -> None:
    goal = Goal(problem=pairs(), max_stages=2)
    start = np.zeros(6, dtype=np.int8)
    effort = Effort(sweep_rounds=0, passes=0, kicks=120)
    found = explore(goal, start, sweep_orders(goal.problem, 0)[:1], effort, np.random.default_rng(1))
    assert goal.value_s(start) == 18.0
    assert goal.value_s(found) == 8.0


def test_a_push_takes_along_what_would_fall_behind() -> None:
    chain = Problem(
        names=tuple("abcd"),
        cpu_s=np.ones(4),
        gpu_s=np.array([1.0, 1.0, 1.0, np.inf]),
        tensors=tuple(Tensor(name=str(v), producer=v, consumers=(v + 1,), h2d_s=0, d2h_s=0) for v in range(3)),
    )
    goal, rng = Goal(problem=chain, max_stages=3), np.random.default_rng(0)
    found = {tuple(pushed(goal, np.zeros(4, dtype=np.int8), rng).tolist()) for _ in range(60)}
    assert found == {(1, 1, 1, 0), (0, 1, 1, 0), (0, 0, 1, 0), (1, 0, 0, 0), (1, 1, 0, 0)}


def test_stages_drawn_anew_are_ranges_that_keep_what_has_no_choice() -> None:
    tied = Problem(names=tuple("abcdef"), cpu_s=np.full(6, 1.0), gpu_s=np.array([np.inf, 1, 1, 1, 1, 1.0]), tensors=())
    goal, rng = Goal(problem=tied, max_stages=2), np.random.default_rng(0)
    drawn = [redrawn(goal, np.zeros(6, dtype=np.int8), rng) for _ in range(40)]
    assert all(placement[0] == 0 for placement in drawn)
    assert len({placement.tobytes() for placement in drawn}) > 10
