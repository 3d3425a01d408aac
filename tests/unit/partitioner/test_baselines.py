"""The plans a split has to beat."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cutset.partitioner.baselines import baselines
from cutset.partitioner.problem import Problem, Tensor

PROBLEM = Problem(
    names=("<input>", "a", "b"),
    cpu_s=np.array([0.0, 2.0, 6.0]),
    gpu_s=np.array([np.inf, 1.0, 1.0]),
    tensors=(
        Tensor(name="in", producer=0, consumers=(1,), h2d_s=0.5, d2h_s=0.5),
        Tensor(name="x", producer=1, consumers=(2,), h2d_s=0.5, d2h_s=0.25),
    ),
    pseudo=frozenset({0}),
    cpu_workers=2,
)


def test_pure_plans_are_priced_exactly() -> None:
    found = baselines(PROBLEM)
    cpu, gpu = found["all_cpu"], found["all_gpu"]
    assert cpu is not None
    assert gpu is not None
    assert (cpu.throughput_per_s, cpu.latency_s, cpu.stages) == (pytest.approx(2 / 8), pytest.approx(8), 1)
    assert (gpu.throughput_per_s, gpu.latency_s, gpu.stages) == (pytest.approx(1 / 2), pytest.approx(2.5), 1)


def test_the_mix_uses_both_devices_fully() -> None:
    mix = baselines(PROBLEM)["mix"]
    assert mix is not None
    assert mix.placement is None
    # Loads 4 s on the CPU and 2 s on the GPU balance at one request in three on the CPU.
    assert mix.routes["all_cpu"] == pytest.approx(1 / 3)
    assert mix.throughput_per_s == pytest.approx(3 / 4)
    assert mix.latency_s == pytest.approx(8 / 3 + 2.5 * 2 / 3)


def test_a_measured_whole_model_replaces_the_sum() -> None:
    cpu = baselines(replace(PROBLEM, whole_cpu_s=4.0, whole_cores=6))["all_cpu"]
    assert cpu is not None
    assert (cpu.throughput_per_s, cpu.latency_s) == (pytest.approx(6 / 4), 4.0)


def test_what_an_op_forbids_is_none() -> None:
    cpu_only = baselines(replace(PROBLEM, gpu_s=np.array([np.inf, 1.0, np.inf])))
    assert cpu_only["all_gpu"] is None
    first = cpu_only["capability_first"]
    assert first is not None
    assert first.placement is not None
    assert (first.placement.tolist(), first.stages) == ([0, 1, 0], 2)
    gpu_only = baselines(replace(PROBLEM, cpu_s=np.array([0.0, 2.0, np.inf])))
    assert gpu_only["all_cpu"] is None
    assert gpu_only["mix"] is None


def test_the_mix_is_the_best_of_a_fine_grid() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        problem = replace(
            PROBLEM,
            cpu_s=np.array([0.0, *rng.uniform(0.1, 5, 2)]),
            gpu_s=np.array([np.inf, rng.uniform(0.1, 5), np.inf]),
            cpu_workers=int(rng.integers(1, 4)),
        )
        found = baselines(problem)
        cpu, gpu, mix = found["all_cpu"], found["capability_first"], found["mix"]
        assert cpu is not None
        assert gpu is not None
        assert mix is not None
        share = np.linspace(0, 1, 2001)[:, None]
        loads = [_loads(problem, plan.placement) for plan in (cpu, gpu)]
        best = (share * loads[0] + (1 - share) * loads[1]).max(axis=1).min()
        assert 1 / mix.throughput_per_s <= best * (1 + 1e-12)
        assert 1 / mix.throughput_per_s >= best * 0.99


def _loads(problem: Problem, placement: np.ndarray | None) -> np.ndarray:
    assert placement is not None
    a, b = placement[1:].tolist()
    cpu = sum(problem.cpu_s[v] for v in (1, 2) if not placement[v])
    gpu = sum(problem.gpu_s[v] for v in (1, 2) if placement[v])
    return np.array([cpu / problem.cpu_workers, gpu, 0.5 * a + 0.5 * (b > a), 0.25 * (a > b)])
