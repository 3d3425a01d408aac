"""Costs by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.problem import Problem, Tensor

# a -> (b, c, <output>), b -> c
PROBLEM = Problem(
    names=("a", "b", "c", "<output>"),
    cpu_s=np.array([10.0, 20.0, 30.0, 0.0]),
    gpu_s=np.array([1.0, 2.0, np.inf, np.inf]),
    tensors=(
        Tensor(name="x", producer=0, consumers=(1, 2, 3), h2d_s=0.5, d2h_s=0.7),
        Tensor(name="y", producer=1, consumers=(2,), h2d_s=0.1, d2h_s=0.3),
    ),
    pseudo=frozenset({3}),
    cpu_workers=4,
    cpu_stage_s=0.25,
    gpu_stage_s=0.125,
)


def test_a_tensor_is_paid_once_a_direction_and_each_stage_once() -> None:
    result = evaluate(PROBLEM, np.array([1, 1, 0, 0], dtype=np.int8))
    assert result.demand_s == pytest.approx({"cpu": 30.25, "gpu": 3.125, "h2d": 0.0, "d2h": 1.0})
    assert (result.bottleneck, result.stages, result.first) == ("cpu", 2, 1)
    assert result.bottleneck_s == pytest.approx(30.25 / 4)
    assert result.latency_s == pytest.approx(34.375)
    assert result.throughput_per_s == pytest.approx(4 / 30.25)


def test_several_gpus_share_the_gpu_demand() -> None:
    slow = replace(PROBLEM, gpu_s=np.array([100.0, 2.0, np.inf, np.inf]), gpu_count=2)
    result = evaluate(slow, np.array([1, 0, 0, 0], dtype=np.int8))
    assert (result.bottleneck, result.bottleneck_s) == ("gpu", pytest.approx(100.125 / 2))


def test_an_impossible_device_is_infinite_and_never_nan() -> None:
    result = evaluate(PROBLEM, np.array([0, 0, 1, 0], dtype=np.int8))
    assert result.bottleneck_s == result.latency_s == math.inf
    assert not any(math.isnan(value) for value in result.demand_s.values())
    assert result.throughput_per_s == 0


def test_a_model_that_costs_nothing_has_no_limit() -> None:
    free = Problem(names=("a",), cpu_s=np.zeros(1), gpu_s=np.zeros(1), tensors=())
    assert evaluate(free, np.zeros(1, dtype=np.int8)).throughput_per_s == math.inf
