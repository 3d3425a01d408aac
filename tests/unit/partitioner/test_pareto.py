"""The front between latency and throughput."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cutset.partitioner.goal import Limits
from cutset.partitioner.pareto import pareto_front
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.solve import solve


def chain(**changes: object) -> Problem:
    """Return five ops, each four times as quick on the GPU, where each holds a megabyte."""
    problem = Problem(
        names=tuple("abcde"),
        cpu_s=np.full(5, 4e-3),
        gpu_s=np.full(5, 1e-3),
        tensors=tuple(Tensor(name=f"t{v}", producer=v, consumers=(v + 1,), h2d_s=1e-4, d2h_s=1e-4) for v in range(4)),
        gpu_bytes=np.full(5, 1e6),
        cpu_workers=4,
    )
    return replace(problem, **changes)  # type: ignore[arg-type]


def test_the_front_trades_latency_for_throughput() -> None:
    front = pareto_front(chain(cpu_workers=1), points=4, max_stages=None)
    latencies = [s.evaluation.latency_s for s in front]
    bottlenecks = [s.evaluation.bottleneck_s for s in front]
    assert len(front) >= 2
    assert latencies == sorted(latencies)
    assert bottlenecks == sorted(bottlenecks, reverse=True)
    assert bottlenecks[-1] == pytest.approx(solve(chain(cpu_workers=1), max_stages=None).evaluation.bottleneck_s)


def test_one_plan_that_is_best_in_both_is_the_whole_front() -> None:
    alone = chain(cpu_s=np.full(5, 1.0), cpu_workers=1)
    front = pareto_front(alone, points=4)
    assert [s.placement.tolist() for s in front] == [[1] * 5]


def test_every_plan_of_the_front_keeps_the_limits() -> None:
    front = pareto_front(chain(cpu_workers=1), points=4, limits=Limits(gpu_bytes=3e6))
    assert all(s.evaluation.gpu_bytes <= 3e6 for s in front)
