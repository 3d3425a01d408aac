"""The price loop on problems whose relaxation is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog

from cutset.partitioner.cut import Oracle
from cutset.partitioner.network import free_template
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.throughput import price_loop


def bound(problem: Problem, base_s: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    oracle = Oracle(template=free_template(problem))
    found = price_loop(
        oracle,
        rows=problem.shares,
        base_s=np.zeros(4) if base_s is None else base_s,
        start=[oracle.template.feasible],
    )
    return found.bound_s, found.weights


def test_independent_ops_share_the_work_perfectly() -> None:
    problem = Problem(names=("a", "b"), cpu_s=np.full(2, 4.0), gpu_s=np.full(2, 4.0), tensors=())
    value, weights = bound(problem)
    assert value == pytest.approx(4.0, rel=1e-3)
    assert weights[:2] == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_base_demand_moves_the_bound() -> None:
    problem = Problem(names=("a", "b"), cpu_s=np.full(2, 4.0), gpu_s=np.full(2, 4.0), tensors=())
    assert bound(problem, np.array([1.0, 1.0, 0.0, 0.0]))[0] == pytest.approx(5.0, rel=1e-3)


def test_the_bound_is_the_linear_relaxation() -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        n = 12
        problem = Problem(
            names=tuple(str(v) for v in range(n)),
            cpu_s=rng.uniform(1, 9, n),
            gpu_s=np.where(rng.random(n) < 0.2, np.inf, rng.uniform(0.5, 3, n)),
            tensors=tuple(
                Tensor(name=str(u), producer=u, consumers=tuple(rng.integers(u + 1, n, 2)), h2d_s=0.5, d2h_s=0.7)
                for u in range(n - 1)
            ),
            cpu_workers=3,
        )
        assert bound(problem)[0] == pytest.approx(relaxation(problem), rel=1e-3)


def relaxation(problem: Problem) -> float:
    """Return the smallest bottleneck over fractional placements: variables x, then h and d a tensor, then the bound."""
    n, count = problem.size, len(problem.tensors)
    gpu = np.where(problem.on_gpu, problem.gpu_s, 0.0)
    rows, limits = [], []
    zeros = np.zeros(n + 2 * count + 1)
    for resource in range(4):
        row = zeros.copy()
        row[-1] = -problem.servers[resource]
        if resource == 0:
            row[:n] = -problem.cpu_s
        elif resource == 1:
            row[:n] = gpu
        for e, tensor in enumerate(problem.tensors):
            if resource >= 2:
                row[n + (resource - 2) * count + e] = tensor.h2d_s if resource == 2 else tensor.d2h_s
        rows.append(row)
        limits.append(-problem.cpu_s.sum() if resource == 0 else 0.0)
    for e, tensor in enumerate(problem.tensors):
        for w in tensor.consumers:
            for offset, sign in ((0, 1), (count, -1)):  # h >= x_w - x_u, d >= x_u - x_w
                row = zeros.copy()
                row[w], row[tensor.producer], row[n + offset + e] = sign, -sign, -1
                rows.append(row)
                limits.append(0.0)
    top = [(0, 1 if can else 0) for can in problem.on_gpu] + [(0, None)] * (2 * count + 1)
    cost = zeros.copy()
    cost[-1] = 1
    return float(linprog(cost, A_ub=np.array(rows), b_ub=np.array(limits), bounds=top, method="highs").fun)
