"""Questions about a plan that need another look at its problem: what crosses, what forces a stage, what more would buy.

Each answer about a change comes from planning again with the change, so it is exact in the cost model; that takes as long
as planning, and is done when asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.pareto import pareto_front
from cutset.partitioner.problem import CPU, GPU, Problem, Tensor
from cutset.partitioner.solve import Solution, solve
from cutset.partitioner.study import Study

DEAREST = 3
"""CPU-only ops of a stage that are also tried one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """What a plan reaches: requests a second, seconds of one batch alone, stages."""

    throughput_per_s: float
    latency_s: float
    stages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A tensor that is copied between host and device: bytes and seconds of a batch."""

    tensor: str
    direction: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forced:
    """Ops that only the CPU runs, the stage they hold there, and what the best plan would reach were they free on the GPU.

    Attributes:
        nodes: Their nodes.
        reason: Why the first of them cannot leave.
        stage: Index of the stage.
        between: Whether a GPU stage comes before and after, so that they force two more stages.
        gain: Best plan without them over the best with them, at most: on the GPU they would cost something.
        reach: That plan.
    """

    nodes: tuple[str, ...]
    reason: str
    stage: int
    between: bool
    gain: float
    reach: Reach


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """A change of the machine or the limits, and the best plan with it."""

    change: str
    gain: float
    reach: Reach


def crossings(study: Study) -> list[Crossing]:
    """Return the tensors that are copied, the dearest first, inputs and outputs of the model included."""
    found = []
    for tensor, size in zip(study.problem.tensors, study.sizes, strict=True):
        here = int(study.placement[tensor.producer])
        if any(study.placement[v] != here for v in tensor.consumers):
            direction, seconds = ("h2d", tensor.h2d_s) if here == CPU else ("d2h", tensor.d2h_s)
            crossing = Crossing(tensor=tensor.name, direction=direction, size_bytes=size, seconds=seconds * study.batch)
            found.append(crossing)
    return sorted(found, key=lambda crossing: -crossing.seconds)


def best_reach(study: Study, problem: Problem | None = None, max_stages: int | None = None) -> Reach:
    """Return what the best plan reaches, unsplit ones included.

    Args:
        study: What the plan was chosen from.
        problem: Other costs, those of the study by default.
        max_stages: Another limit, that of the study by default.

    Raises:
        PlanError: If no placement has so few stages and keeps the limits.
    """
    problem = study.problem if problem is None else problem
    stages = max_stages or study.max_stages
    solution = solve(problem, objective=study.objective, max_stages=stages, limits=study.limits)
    return max(_reaches(study, solution), key=lambda reach: score(study, reach))


def trade_offs(study: Study) -> list[Reach]:
    """Return plans of one batch from the quickest to the widest, none of them beaten by another in both."""
    front = pareto_front(study.problem, max_stages=study.max_stages, limits=study.limits)
    return [
        Reach(
            throughput_per_s=found.evaluation.throughput_per_s,
            latency_s=found.evaluation.latency_s * study.batch,
            stages=found.evaluation.stages,
        )
        for found in front
    ]


def score(study: Study, reach: Reach) -> float:
    """Return what is to be large."""
    return reach.throughput_per_s if study.objective == "throughput" else 1 / max(reach.latency_s, 1e-12)


def _reaches(study: Study, solution: Solution) -> Iterator[Reach]:
    found = solution.evaluation
    for name in ("all_cpu", "all_gpu"):
        whole = solution.baselines[name]
        if whole is not None and _allowed(study, name, whole.latency_s):
            yield Reach(throughput_per_s=whole.throughput_per_s, latency_s=whole.latency_s * study.batch, stages=whole.stages)
    yield Reach(throughput_per_s=found.throughput_per_s, latency_s=found.latency_s * study.batch, stages=found.stages)


def _allowed(study: Study, name: str, latency_s: float) -> bool:
    return latency_s <= study.limits.latency_s and (name == "all_cpu" or study.gpu_bytes_limit is None)


def forced_stages(study: Study, now: Reach) -> Iterator[Forced]:
    """Yield for each CPU stage the ops that hold it there, together and the dearest of them one by one.

    Nothing where no GPU is planned for.

    Args:
        study: What the plan was chosen from.
        now: The best plan as it is.
    """
    problem = study.problem
    if not problem.on_gpu.any():
        return
    found = evaluate(problem, study.placement)
    on_gpu = [stage for stage in range(found.stages) if (found.first + stage) % 2 == GPU]
    tied = ~problem.on_gpu & problem.real
    for stage in range(found.stages):
        members = [v for v in np.flatnonzero(tied & (found.labels == stage)).tolist() if study.placement[v] == CPU]
        between = bool(on_gpu) and on_gpu[0] < stage < on_gpu[-1]
        dearest = sorted(members, key=lambda v: -problem.cpu_s[v])[:DEAREST] if len(members) > 1 else []
        for ops in ([members] if members else []) + [[v] for v in dearest]:
            yield _without(study, now, ops, stage=stage, between=between)


def _without(study: Study, now: Reach, ops: list[int], *, stage: int, between: bool) -> Forced:
    gpu_s = study.problem.gpu_s.copy()
    gpu_s[ops] = 0.0
    reach = best_reach(study, replace(study.problem, gpu_s=gpu_s))
    return Forced(
        nodes=tuple(name for v in ops for name in study.nodes[v]),
        reason=study.reasons[ops[0]],
        stage=stage,
        between=between,
        gain=score(study, reach) / score(study, now),
        reach=reach,
    )


def what_ifs(study: Study, now: Reach) -> Iterator[WhatIf]:
    """Yield what more stages, workers, bandwidth and a faster GPU would buy; nothing where no GPU is planned for.

    Args:
        study: What the plan was chosen from.
        now: The best plan as it is.
    """
    problem = study.problem
    if not problem.on_gpu.any():
        return
    changes = [
        (f"{study.max_stages - 1} stages at most", problem, study.max_stages - 1),
        (f"{study.max_stages + 2} stages at most", problem, study.max_stages + 2),
        (f"{2 * problem.cpu_workers} CPU workers", _twice_the_cores(problem), None),
        ("twice the PCIe bandwidth", replace(problem, tensors=with_faster_copies(study, 2.0)), None),
        ("a GPU twice as fast", replace(problem, gpu_s=problem.gpu_s / 2), None),
    ]
    for change, other, most in changes:
        if most == 0:
            continue
        try:
            reach = best_reach(study, other, most)
        except PlanError:  # what is tied to one device needs more stages
            continue
        yield WhatIf(change=change, gain=score(study, reach) / score(study, now), reach=reach)


def _twice_the_cores(problem: Problem) -> Problem:
    return replace(problem, cpu_workers=2 * problem.cpu_workers, whole_cores=2 * problem.whole_cores)


def with_faster_copies(study: Study, factor: float) -> tuple[Tensor, ...]:
    """Return the tensors over a link of `factor` times the bandwidth; what a copy costs whatever its size stays.

    Args:
        study: What the plan was chosen from.
        factor: Above zero.
    """
    fixed = study.copy_fixed_s

    def shorter(seconds: float, direction: str) -> float:
        part = min(seconds, fixed.get(direction, 0.0))
        return part + (seconds - part) / factor

    return tuple(replace(t, h2d_s=shorter(t.h2d_s, "h2d"), d2h_s=shorter(t.d2h_s, "d2h")) for t in study.problem.tensors)
