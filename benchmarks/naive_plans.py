"""The ways to split that the planner is compared with. Nothing else uses them.

Each returns placements without regard to a stage limit; the benchmark takes the best by the planner's own evaluator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import numpy as np

from cutset.partitioner.cut import Oracle
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.network import free_template
from cutset.partitioner.problem import CPU, GPU, RESOURCES, FloatArray, Placement, Problem

SWEEP_POINTS = 33
MANY_OPS = 40
CHUNK = 4096


def capability_first(problem: Problem) -> list[Placement]:
    """Return everything the GPU can run on the GPU: what greedy partitioners of runtimes do."""
    return [problem.on_gpu.astype(np.int8)]


def cheapest_device(problem: Problem) -> list[Placement]:
    """Return each op on the device where it takes less time, copies ignored."""
    return [(problem.gpu_s < problem.cpu_s).astype(np.int8)]


def latency_cut(problem: Problem) -> list[Placement]:
    """Return the placement of least latency, used for throughput as it is."""
    return _cuts(problem, [np.ones(len(RESOURCES))])


def lambda_sweep(problem: Problem) -> list[Placement]:
    """Return the cuts of the classic one-parameter trade: ``share`` on the CPU, the rest on GPU and copies alike."""
    shares = np.linspace(0.0, 1.0, SWEEP_POINTS)
    return _cuts(problem, [np.array([share, *[1 - share] * 3]) for share in shares])


def _cuts(problem: Problem, prices: list[FloatArray]) -> list[Placement]:
    oracle = Oracle(template=free_template(problem))
    found: list[Placement] = []
    for price in prices:
        ceiling_s = float(oracle.demands(oracle.template.feasible) @ price)
        found += [oracle.template.placement(labels) for labels in oracle.cheapest(price, ceiling_s).labels]
    return found


def fixed_order_ranges(problem: Problem) -> list[Placement]:
    """Return the best division of one topological order into alternating contiguous ranges.

    Five ranges on small graphs, three on larger ones: all divisions are tried.
    """
    order = np.array([v for v in problem.topology.order if v not in problem.pseudo])
    ranges = 5 if len(order) <= MANY_OPS else 3
    best_s, best = np.inf, np.zeros(problem.size, dtype=np.int8)
    for devices in _chunks(_divisions(len(order), ranges)):
        placements = np.zeros((len(devices), problem.size), dtype=np.int8)
        placements[:, order] = devices
        loads = demands_of_each(problem, placements) / problem.servers
        values = loads.max(axis=1)
        if values.min() < best_s:
            best_s, best = float(values.min()), placements[int(values.argmin())]
    return [best]


def _divisions(count: int, ranges: int) -> Iterator[Placement]:
    for cuts in combinations(range(count + 1), ranges - 1):
        steps = np.zeros(count + 1, dtype=np.int8)
        np.add.at(steps, list(cuts), 1)
        device = np.cumsum(steps[:count]) & 1
        yield device.astype(np.int8)
        yield (1 - device).astype(np.int8)


def _chunks(rows: Iterator[Placement]) -> Iterator[Placement]:
    held: list[Placement] = []
    for row in rows:
        held.append(row)
        if len(held) == CHUNK:
            yield np.array(held)
            held = []
    if held:
        yield np.array(held)


def demands_of_each(problem: Problem, placements: Placement) -> FloatArray:
    """Return the demands of many placements at once, shape ``(placements, 4)``; infinite where an op cannot run."""
    on_gpu = placements == GPU
    cpu_s, gpu_s = np.where(problem.on_cpu, problem.cpu_s, 0.0), np.where(problem.on_gpu, problem.gpu_s, 0.0)
    result = np.zeros((len(placements), len(RESOURCES)))
    result[:, CPU], result[:, GPU] = ~on_gpu @ cpu_s, on_gpu @ gpu_s
    result[(on_gpu & ~problem.on_gpu).any(axis=1) | (~on_gpu & ~problem.on_cpu).any(axis=1)] = np.inf
    for tensor in problem.tensors:
        source, readers = on_gpu[:, tensor.producer], on_gpu[:, list(tensor.consumers)]
        result[:, 2] += tensor.h2d_s * (~source & readers.any(axis=1))
        result[:, 3] += tensor.d2h_s * (source & ~readers.all(axis=1))
    return result


NAIVE: dict[str, Callable[[Problem], list[Placement]]] = {
    "capability first": capability_first,
    "each op where it is quicker": cheapest_device,
    "latency cut reused": latency_cut,
    "one-parameter sweep": lambda_sweep,
    "ranges of one order": fixed_order_ranges,
}


def naive_values(problem: Problem) -> dict[str, float]:
    """Return the bottleneck in seconds that each way reaches."""
    return {name: min(evaluate(problem, placement).bottleneck_s for placement in way(problem)) for name, way in NAIVE.items()}
