"""The plans a split has to beat: whole requests on one device, capability first, and routing between them.

Every plan prints these. A split wins only where the CPU/GPU speed ratio differs between ops; otherwise one of these is
the answer. Those with a placement can be deployed; a mix cannot, for a package sends all its requests one way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.phases import at_least, forced_range, windows
from cutset.partitioner.problem import CPU, GPU, RESOURCES, FloatArray, Placement, Problem

WITHIN_LIMITS = "within_limits"
WORDS = {
    "all_cpu": "the whole model on the CPU",
    "all_gpu": "the whole model on the GPU",
    "capability_first": "everything the GPU takes on the GPU",
    WITHIN_LIMITS: "as much on the GPU as the limits allow",
    "mix": "whole requests shared out between CPU and GPU",
}
"""What each baseline does, the simplest first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Baseline:
    """A plan that needs no optimiser.

    Attributes:
        placement: Its placement, or None if requests take different ones.
        throughput_per_s: Requests a second at full load.
        latency_s: Seconds of one request alone; the mean over routes.
        stages: Stages of the longest route.
        routes: For a mix, the share of requests each other baseline serves.
    """

    placement: Placement | None
    throughput_per_s: float
    latency_s: float
    stages: int
    routes: Mapping[str, float]


def pure_placements(problem: Problem) -> dict[str, Placement]:
    """Return the placements that follow from support alone, by baseline name, leaving out the impossible.

    ``all_cpu`` needs every op to run on the CPU, ``all_gpu`` every real op on the GPU; ``capability_first`` puts all it
    can on the GPU, as ONNX Runtime's and TensorFlow-TensorRT's greedy partitioners do.
    """
    on_cpu, on_gpu = problem.on_cpu, problem.on_gpu
    result: dict[str, Placement] = {}
    if on_cpu.all():
        result["all_cpu"] = np.zeros(problem.size, dtype=np.int8)
    if on_gpu[problem.real].all():
        result["all_gpu"] = on_gpu.astype(np.int8)
    result["capability_first"] = on_gpu.astype(np.int8)
    return result


def capability_within(problem: Problem, max_stages: int) -> list[Placement]:
    """Return capability first with at most `max_stages` stages, for each device that can hold the first stage.

    In topological order, an op goes to the GPU unless the stages that are left would not do for the ops behind that have
    no choice.
    """
    found = []
    for window in windows(max_stages):
        allowed = forced_range(problem, window)
        if allowed is None:
            continue
        labels = dict[int, int]()
        placement = np.zeros(problem.size, dtype=np.int8)
        for v in problem.topology.order:
            if v in problem.pseudo:
                continue
            before = [labels[u] for u in problem.topology.predecessors[v]]
            label = at_least(before, window.low, GPU if problem.on_gpu[v] else CPU)
            if label > allowed[1][v]:  # a free op: one that is tied fits, as `allowed` says
                label = at_least(before, window.low, CPU)
            labels[v], placement[v] = label, label & 1
        found.append(placement)
    return found


def baselines(problem: Problem) -> dict[str, Baseline | None]:
    """Return ``all_cpu``, ``all_gpu``, ``capability_first`` and ``mix``; None where an op forbids one.

    ``all_cpu`` serves replicas of the whole model on all cores if that was measured, otherwise on the CPU workers.
    """
    result: dict[str, Baseline | None] = dict.fromkeys(("all_cpu", "all_gpu", "capability_first", "mix"))
    loads: dict[str, FloatArray] = {}
    for name, placement in pure_placements(problem).items():
        evaluation = evaluate(problem, placement)
        loads[name] = np.array([evaluation.demand_s[resource] for resource in RESOURCES]) / problem.servers
        result[name] = _single(problem, name, placement, evaluation)
        if name == "all_cpu" and problem.whole_cpu_s is not None:
            loads[name] = np.array([problem.whole_cpu_s / problem.whole_cores, 0.0, 0.0, 0.0])
    result["mix"] = _mix(result, loads)
    return result


def _single(problem: Problem, name: str, placement: Placement, evaluation: Evaluation) -> Baseline:
    throughput, latency_s = evaluation.throughput_per_s, evaluation.latency_s
    if name == "all_cpu" and problem.whole_cpu_s is not None:
        latency_s = problem.whole_cpu_s
        throughput = problem.whole_cores / latency_s if latency_s > 0 else math.inf
    return Baseline(
        placement=placement,
        throughput_per_s=throughput,
        latency_s=latency_s,
        stages=evaluation.stages,
        routes={},
    )


def _mix(singles: Mapping[str, Baseline | None], loads: Mapping[str, FloatArray]) -> Baseline | None:
    """Return the best routing of whole requests between the CPU and one GPU plan."""
    cpu = singles["all_cpu"]
    best: Baseline | None = None
    for name in ("all_gpu", "capability_first"):
        gpu = singles[name]
        if cpu is None or gpu is None:
            continue
        share, load_s = _best_share(loads["all_cpu"], loads[name])
        throughput = 1 / load_s if load_s > 0 else math.inf
        if best is None or throughput > best.throughput_per_s:
            best = Baseline(
                placement=None,
                throughput_per_s=throughput,
                latency_s=share * cpu.latency_s + (1 - share) * gpu.latency_s,
                stages=max(cpu.stages, gpu.stages),
                routes={"all_cpu": share, name: 1 - share},
            )
    return best


def _best_share(a: FloatArray, b: FloatArray) -> tuple[float, float]:
    """Return the share of `a` that minimises the largest load of the mix, and that load.

    The largest of a few lines is smallest at an end or where two of them cross, so those points are all of the linear
    program.
    """
    points = [0.0, 1.0]
    for i, j in combinations(range(len(a)), 2):
        slope = (a[i] - b[i]) - (a[j] - b[j])
        if slope:
            points.append(float((b[j] - b[i]) / slope))
    inside = sorted(p for p in points if 0 <= p <= 1)
    values = [float((p * a + (1 - p) * b).max()) for p in inside]
    best = int(np.argmin(values))
    return inside[best], values[best]
