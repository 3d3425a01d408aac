"""The certificate: exact for one price, below every placement for many, and never above a pure plan."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cutset.partitioner.bound import certify
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.goal import Goal, Limits
from cutset.partitioner.problem import Problem, Tensor

CHAIN = Problem(
    names=tuple("abcd"),
    cpu_s=np.full(4, 4.0),
    gpu_s=np.full(4, 1.0),
    tensors=tuple(Tensor(name=str(v), producer=v, consumers=(v + 1,), h2d_s=0.5, d2h_s=0.5) for v in range(3)),
    gpu_bytes=np.full(4, 10.0),
)


def test_latency_is_one_exact_cut() -> None:
    bound = certify(Goal(problem=CHAIN, objective="latency"))
    assert bound.value_s == pytest.approx(4.0)
    assert min(evaluate(CHAIN, placement).latency_s for placement in bound.placements) == pytest.approx(4.0)
    assert bound.weights.tolist() == [1.0] * 4


def test_copies_that_do_not_overlap_load_the_gpu() -> None:
    tied = replace(CHAIN, cpu_s=np.array([1.0, 40, 40, 40]), gpu_s=np.array([np.inf, 1, 1, 1]))
    overlapped = certify(Goal(problem=tied)).value_s
    serial = certify(Goal(problem=replace(tied, copies_overlap=False)))
    assert overlapped < serial.value_s <= 3.5
    assert serial.weights[1:].tolist() == pytest.approx([serial.weights[1], serial.weights[2], serial.weights[2]])


def test_a_limit_raises_the_bound_by_its_price() -> None:
    free = certify(Goal(problem=CHAIN, objective="latency"))
    limited = certify(Goal(problem=CHAIN, objective="latency", limits=Limits(gpu_bytes=20.0)))
    assert free.multipliers.tolist() == [0.0, 0.0]
    assert limited.multipliers[1] > 0
    # Half of the work at 4 s an op, half at 1 s, and one copy; the relaxation mixes all-CPU with all-GPU.
    assert free.value_s < limited.value_s <= 10.5


def test_stage_overheads_are_charged_once_a_side_unless_the_plan_is_pure() -> None:
    costly = replace(CHAIN, cpu_stage_s=100.0, gpu_stage_s=0.25)
    assert certify(Goal(problem=costly)).value_s == pytest.approx(4.25)
