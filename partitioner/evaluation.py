"""What a placement costs: the one definition every bound, heuristic and test is held to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cutset.partitioner.phases import Stages, stages_of
from cutset.partitioner.problem import CPU, GPU, RESOURCES, FloatArray, IntArray, Placement, Problem


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """The predicted cost of one placement.

    Attributes:
        demand_s: Seconds a request takes from each of `RESOURCES`, stage overheads included.
        bottleneck: The resource that limits throughput.
        bottleneck_s: Seconds between requests at full load: the largest demand over its servers.
        latency_s: Seconds of one request alone: the sum of demands.
        stages: Number of stages.
        gpu_bytes: Bytes the ops keep on the GPU.
        first: Device of stage 0.
        labels: Stage of each op, shape ``(ops,)``; -1 for pseudo-ops.
    """

    demand_s: Mapping[str, float]
    bottleneck: str
    bottleneck_s: float
    latency_s: float
    stages: int
    gpu_bytes: float
    first: int
    labels: IntArray

    @property
    def throughput_per_s(self) -> float:
        """Requests a second at full load; infinite if nothing costs anything."""
        return 1 / self.bottleneck_s if self.bottleneck_s > 0 else math.inf


def demands(problem: Problem, placement: Placement) -> FloatArray:
    """Return the seconds a request takes from each of `RESOURCES` without stage overheads, shape ``(4,)``.

    A tensor is paid once a direction, if its producer is on one side and any consumer on the other. An op on a device
    that cannot run it makes the demand infinite, never NaN.
    """
    graph = problem.topology
    on_gpu = placement == GPU
    compute = [problem.cpu_s[~on_gpu].sum(), problem.gpu_s[on_gpu].sum()]
    if not len(graph.producer):
        return np.array([*compute, 0.0, 0.0])
    consumer, start = placement[graph.consumer], graph.first_consumer[:-1]
    producer = placement[graph.producer]
    to_gpu = (producer == CPU) & (np.maximum.reduceat(consumer, start) == GPU)
    to_cpu = (producer == GPU) & (np.minimum.reduceat(consumer, start) == CPU)
    return np.array([*compute, graph.h2d_s[to_gpu].sum(), graph.d2h_s[to_cpu].sum()])


def stage_overheads(problem: Problem, stages: Stages) -> FloatArray:
    """Return the seconds a request that the stages add to each of `RESOURCES`, shape ``(4,)``."""
    return np.array([problem.cpu_stage_s * stages.on(CPU), problem.gpu_stage_s * stages.on(GPU), 0.0, 0.0])


def evaluate(problem: Problem, placement: Placement) -> Evaluation:
    """Return the predicted cost of a placement.

    Args:
        problem: The costs.
        placement: 0 (CPU) or 1 (GPU) for each op, shape ``(ops,)``, int8.
    """
    stages = stages_of(problem, placement)
    demand = demands(problem, placement) + stage_overheads(problem, stages)
    load = problem.shares @ demand if np.isfinite(demand).all() else demand  # zero shares of infinity are not numbers
    worst = int(load.argmax())
    return Evaluation(
        demand_s=dict(zip(RESOURCES, demand.tolist(), strict=True)),
        bottleneck=RESOURCES[worst],
        bottleneck_s=float(load[worst]),
        latency_s=float(demand.sum()),
        stages=stages.count,
        gpu_bytes=float(problem.gpu_bytes[placement == GPU].sum()),
        first=stages.first,
        labels=stages.labels,
    )
