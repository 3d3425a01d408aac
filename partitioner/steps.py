"""A plan as the steps that a request takes: compute and copies in order, each on one resource."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cutset.partitioner.evaluation import Evaluation
from cutset.partitioner.problem import CPU, GPU, Placement, Problem

TOKEN_FACTOR = 1.5
"""Requests inside the pipeline, as a multiple of latency over bottleneck: enough to keep the bottleneck busy."""

NO_STAGE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Work of one batch on one resource.

    Args:
        stage: Stage that it belongs to; a copy belongs to the stage that waits for it, `NO_STAGE` for the caller.
        resource: One of ``cpu``, ``gpu``, ``h2d``, ``d2h``.
        fixed_s: Seconds a batch, whatever its size.
        each_s: Seconds for each request in it.
    """

    stage: int
    resource: str
    fixed_s: float
    each_s: float

    def seconds(self, requests: int) -> float:
        """Return the time of a batch of so many requests."""
        return self.fixed_s + self.each_s * requests


def steps_of(problem: Problem, placement: Placement, evaluation: Evaluation, batch: int = 1) -> tuple[Step, ...]:
    """Return the steps of a placement in order; their times a request are its demands.

    A model without a stage is one step that takes no time. A copy is made once a direction, right before the first stage
    that needs it. Of what a batch costs only the stage overheads are known not to grow with it.

    Args:
        problem: The costs, seconds a request in batches of `batch`.
        placement: 0 (CPU) or 1 (GPU) for each op.
        evaluation: Of the placement.
        batch: Requests in a batch.
    """
    steps: list[Step] = []
    if not evaluation.stages:
        return (Step(stage=0, resource="cpu", fixed_s=0.0, each_s=0.0),)
    copies = _copies(problem, placement, evaluation)
    for stage in range(evaluation.stages):
        device = (evaluation.first + stage) % 2
        members = evaluation.labels == stage
        each_s = float((problem.gpu_s if device == GPU else problem.cpu_s)[members].sum())
        overhead_s = problem.gpu_stage_s if device == GPU else problem.cpu_stage_s
        steps += _copy_steps(stage, copies.get(stage, {}))
        resource = "gpu" if device == GPU else "cpu"
        steps.append(Step(stage=stage, resource=resource, fixed_s=overhead_s * batch, each_s=each_s))
    return (*steps, *_copy_steps(NO_STAGE, copies.get(NO_STAGE, {})))


def _copy_steps(stage: int, seconds: dict[str, float]) -> list[Step]:
    return [Step(stage=stage, resource=resource, fixed_s=0.0, each_s=value) for resource, value in seconds.items() if value]


def _copies(problem: Problem, placement: Placement, evaluation: Evaluation) -> dict[int, dict[str, float]]:
    """Return the seconds a request of copies by the stage that needs them first and by direction."""
    found: dict[int, dict[str, float]] = {}
    for tensor in problem.tensors:
        there = GPU if placement[tensor.producer] == CPU else CPU
        readers = [v for v in tensor.consumers if placement[v] == there]
        if not readers:
            continue
        direction, seconds = ("h2d", tensor.h2d_s) if there == GPU else ("d2h", tensor.d2h_s)
        labels = [int(evaluation.labels[v]) for v in readers if v not in problem.pseudo]
        at = found.setdefault(min(labels, default=NO_STAGE), {})
        at[direction] = at.get(direction, 0.0) + seconds
    return found


def tokens_for(latency_s: float, throughput_per_s: float, workers: int, batch: int = 1) -> int:
    """Return how many requests must be inside to keep the bottleneck busy: a multiple of what Little's law asks.

    Args:
        latency_s: Seconds of one batch alone in the pipeline.
        throughput_per_s: Requests a second at the bottleneck.
        workers: CPU workers; each must have a batch, and one must wait.
        batch: Requests in a batch; whole batches are let in.
    """
    inside = TOKEN_FACTOR * latency_s * throughput_per_s if math.isfinite(throughput_per_s) else 0.0
    return batch * max(workers + 1, math.ceil(inside / batch - 1e-9))


def demand_of(steps: Sequence[Step], batch: int) -> dict[str, float]:
    """Return the seconds a request of each resource in batches of `batch`."""
    totals: dict[str, float] = {}
    for step in steps:
        totals[step.resource] = totals.get(step.resource, 0.0) + step.seconds(batch) / batch
    return totals


def interval_s(steps: Sequence[Step], servers: Mapping[str, int], batch: int) -> float:
    """Return the seconds between requests at full load: the largest demand over its servers."""
    return max((seconds / servers.get(name, 1) for name, seconds in demand_of(steps, batch).items()), default=0.0)


def latency_s(steps: Sequence[Step], batch: int) -> float:
    """Return the seconds of one batch alone."""
    return sum(step.seconds(batch) for step in steps)
