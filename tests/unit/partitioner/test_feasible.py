"""Limits are kept, and a limit that no placement keeps is refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cutset.errors import PlanError
from cutset.partitioner.goal import Limits
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


def test_a_memory_limit_is_kept_and_priced() -> None:
    assert solve(chain(), objective="latency").evaluation.gpu_bytes == 5e6
    limited = solve(chain(), objective="latency", limits=Limits(gpu_bytes=3e6))
    assert limited.evaluation.gpu_bytes == 3e6
    assert limited.multipliers["gpu_bytes"] > 0
    assert limited.gap >= 0


def test_a_latency_limit_is_kept_and_priced() -> None:
    free = solve(chain())
    limit = 7e-3
    assert free.evaluation.latency_s > limit
    limited = solve(chain(), limits=Limits(latency_s=limit))
    assert limited.evaluation.latency_s <= limit
    assert free.evaluation.bottleneck_s < limited.evaluation.bottleneck_s
    assert limited.multipliers["latency_s"] > 0
    assert limited.lower_bound_s <= limited.evaluation.bottleneck_s


def test_a_latency_that_nothing_reaches_is_refused_with_the_least() -> None:
    with pytest.raises(PlanError, match=r"within 4 ms(.|\n)*fastest takes 5 ms"):
        solve(chain(), limits=Limits(latency_s=4e-3))


def test_memory_that_does_not_hold_what_only_the_gpu_runs_is_refused_by_name() -> None:
    stuck = chain(cpu_s=np.array([4e-3, np.inf, 4e-3, np.inf, 4e-3]))
    with pytest.raises(PlanError, match=r"need 2000000 bytes there, the limit is 1500000(.|\n)*`b`, `d`"):
        solve(stuck, limits=Limits(gpu_bytes=1.5e6))


def test_two_limits_that_exclude_each_other_are_refused_together() -> None:
    # 6 ms needs four ops on the GPU, 2 MB holds two.
    with pytest.raises(PlanError, match=r"a latency of 9 ms and 2000000 bytes on the GPU and 5 stages together") as caught:
        solve(chain(), limits=Limits(latency_s=9e-3, gpu_bytes=2e6))
    assert "the fastest takes 14.1 ms" in str(caught.value)
    assert "holds 5000000 bytes" in str(caught.value)


def test_a_negative_limit_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="negative"):
        Limits(latency_s=-1.0)
