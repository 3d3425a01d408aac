"""The oracle of the tests: every placement of a small problem, evaluated without the planner's own code."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.problem import FloatArray, IntArray, Placement, Problem

MAX_OPS = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Enumeration:
    """All placements of a problem in which every op can run, in lexicographic order.

    Attributes:
        placements: Shape ``(placements, ops)``, int8.
        stages: Fewest stages of each, shape ``(placements,)``.
        compute_and_copy_s: Demands on `RESOURCES` without stage overheads, shape ``(placements, 4)``.
        demand_s: Demands with them, shape ``(placements, 4)``.
        bottleneck_s: Largest demand over its servers, shape ``(placements,)``.
        latency_s: Sum of demands, shape ``(placements,)``.
    """

    placements: Placement
    stages: IntArray
    compute_and_copy_s: FloatArray
    demand_s: FloatArray
    bottleneck_s: FloatArray
    latency_s: FloatArray

    def best(self, value: FloatArray, max_stages: int | None = None) -> float:
        """Return the smallest of `value` over placements of at most `max_stages` stages; infinite if there are none."""
        fits = self.stages <= (np.inf if max_stages is None else max_stages)
        return float(np.min(value[fits], initial=np.inf))


def enumerate_placements(problem: Problem) -> Enumeration:
    """Return every feasible placement with its exact costs.

    Raises:
        PlanError: If more than 16 ops can be on either side.
    """
    movable = np.flatnonzero(np.isfinite(problem.cpu_s) & np.isfinite(problem.gpu_s))
    if len(movable) > MAX_OPS:
        raise PlanError(f"{len(movable)} ops are free, enumeration stops at {MAX_OPS}")
    placements = np.tile(np.where(np.isfinite(problem.cpu_s), 0, 1).astype(np.int8), (1 << len(movable), 1))
    for bit, v in enumerate(movable):
        placements[:, v] = np.arange(len(placements)) >> (len(movable) - 1 - bit) & 1
    demand = _demands(problem, placements)
    chains = [_chain_stages(problem, placements, first) for first in (0, 1)]
    stages = np.minimum(*chains)
    # A chain of k stages has ceil(k / 2) on its first device.
    cpu_stages = np.where(chains[0] <= chains[1], (stages + 1) // 2, stages // 2)
    overhead = np.zeros_like(demand)
    overhead[:, 0] = problem.cpu_stage_s * cpu_stages
    overhead[:, 1] = problem.gpu_stage_s * (stages - cpu_stages)
    total = demand + overhead
    servers = [problem.cpu_workers, problem.gpu_count, 1, 1]
    return Enumeration(
        placements=placements,
        stages=stages,
        compute_and_copy_s=demand,
        demand_s=total,
        bottleneck_s=(total / servers).max(axis=1),
        latency_s=total.sum(axis=1),
    )


def _demands(problem: Problem, placements: Placement) -> FloatArray:
    demand = np.zeros((len(placements), 4))
    for v in range(problem.size):
        on_gpu = placements[:, v] == 1
        demand[~on_gpu, 0] += problem.cpu_s[v]
        demand[on_gpu, 1] += problem.gpu_s[v]
    for tensor in problem.tensors:
        source = placements[:, tensor.producer]
        readers = placements[:, list(tensor.consumers)]
        demand[:, 2] += tensor.h2d_s * ((source == 0) & (readers == 1).any(axis=1))
        demand[:, 3] += tensor.d2h_s * ((source == 1) & (readers == 0).any(axis=1))
    return demand


def _chain_stages(problem: Problem, placements: Placement, first: int) -> IntArray:
    """Return the stages of each placement on a chain that begins with `first`, an empty first stage included."""
    edges = {(t.producer, w) for t in problem.tensors for w in t.consumers}
    real = [v for v in range(problem.size) if v not in problem.pseudo]
    changes = {v: (placements[:, v] != first).astype(np.int64) for v in real}
    for _ in real:  # Bellman-Ford: no topological order is assumed
        for u, w in sorted(edges):
            if u in changes and w in changes:
                step = changes[u] + (placements[:, u] != placements[:, w])
                changes[w] = np.maximum(changes[w], step)
    if not real:
        return np.zeros(len(placements), dtype=np.int64)
    result: IntArray = np.max([changes[v] for v in real], axis=0) + 1
    return result
