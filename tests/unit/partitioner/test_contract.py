"""Contraction keeps demands and joins what no pipeline could run apart."""

from __future__ import annotations

import numpy as np

from cutset.partitioner.contract import contract
from cutset.partitioner.evaluation import demands
from cutset.partitioner.problem import Problem, Tensor

DIAMOND = Problem(
    names=tuple("abcd"),
    cpu_s=np.array([1.0, 2.0, 4.0, 8.0]),
    gpu_s=np.array([0.5, np.inf, 0.25, 2.0]),
    tensors=(
        Tensor(name="x", producer=0, consumers=(1, 2), h2d_s=0.1, d2h_s=0.2),
        Tensor(name="y", producer=1, consumers=(3,), h2d_s=0.3, d2h_s=0.4),
        Tensor(name="z", producer=2, consumers=(3,), h2d_s=0.5, d2h_s=0.6),
    ),
    gpu_bytes=np.array([1.0, 2.0, 3.0, 4.0]),
)


def test_a_group_costs_its_sum_and_runs_where_all_of_it_runs() -> None:
    small, member = contract(DIAMOND, [0, 0, 1, 2])
    assert member.tolist() == [0, 0, 1, 2]
    assert small.names == ("a (+1)", "c", "d")
    assert small.cpu_s.tolist() == [3.0, 4.0, 8.0]
    assert small.gpu_s.tolist() == [np.inf, 0.25, 2.0]
    assert small.gpu_bytes.tolist() == [3.0, 3.0, 4.0]
    together = np.array([0, 1, 1], dtype=np.int8)
    assert demands(small, together).tolist() == demands(DIAMOND, together[member]).tolist()


def test_groups_in_a_cycle_are_joined() -> None:
    # a and d together would have to run both before and after b and c.
    small, member = contract(DIAMOND, [0, 1, 2, 0])
    assert small.size == 1
    assert set(member.tolist()) == {0}
    assert small.tensors == ()


def test_new_ops_are_in_topological_order() -> None:
    _, member = contract(DIAMOND, [7, 3, 3, 1])
    assert member.tolist() == [0, 1, 1, 2]
