"""A plan as the steps that a request takes: compute and copies in order, each on one resource."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cutset.partitioner.cost import Costed
from cutset.partitioner.evaluation import Evaluation
from cutset.partitioner.problem import CPU, GPU, BoolArray, Placement

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
        rows: Requests that it takes as one where that is more than the plan's batch.
    """

    stage: int
    resource: str
    fixed_s: float
    each_s: float
    rows: int = 1

    def seconds(self, requests: int) -> float:
        """Return the time of a batch of so many requests."""
        return self.fixed_s + self.each_s * requests

    def most(self, batch: int) -> int:
        """Return how many requests it takes as one in a pipeline of batches of `batch`."""
        return max(batch, self.rows)


def steps_of(costed: Costed, placement: Placement, evaluation: Evaluation) -> tuple[Step, ...]:
    """Return the steps of a placement in order; their times a request are its demands.

    A model without a stage is one step that takes no time. A copy is made once a direction, right before the first stage
    that needs it. Of what a batch costs only the overheads of stages and copies are known not to grow with it.

    Args:
        costed: The costs.
        placement: 0 (CPU) or 1 (GPU) for each op.
        evaluation: Of the placement.
    """
    if not evaluation.stages:
        return (Step(stage=0, resource="cpu", fixed_s=0.0, each_s=0.0),)
    problem = costed.problem
    steps: list[Step] = []
    copies = _copies(costed, placement, evaluation)
    for stage in range(evaluation.stages):
        on_gpu = (evaluation.first + stage) % 2 == GPU
        costs, overhead_s = (problem.gpu_s, problem.gpu_stage_s) if on_gpu else (problem.cpu_s, problem.cpu_stage_s)
        each_s = float(costs[evaluation.labels == stage].sum())
        steps += copies.get(stage, {}).values()
        if on_gpu and costed.rows > 1:
            steps.append(_shared(costed, evaluation.labels == stage, stage, each_s))
            continue
        steps.append(Step(stage=stage, resource="gpu" if on_gpu else "cpu", fixed_s=overhead_s * costed.batch, each_s=each_s))
    return (*steps, *copies.get(NO_STAGE, {}).values())


def _shared(costed: Costed, members: BoolArray, stage: int, share_s: float) -> Step:
    """Return a stage on the GPU that several requests share, on the line through its run for one and for all of them."""
    rows, found = costed.rows, [atom for atom, member in zip(costed.atoms, members[: len(costed.atoms)], strict=True) if member]
    alone_s = sum(atom.gpu_alone_s for atom in found) / costed.batch
    each_s = min(max(0.0, (share_s * rows - alone_s) / (rows - 1)), share_s)
    overhead_s = costed.problem.gpu_stage_s * rows * costed.batch
    return Step(stage=stage, resource="gpu", fixed_s=(share_s - each_s) * rows + overhead_s, each_s=each_s, rows=rows)


def _copies(costed: Costed, placement: Placement, evaluation: Evaluation) -> dict[int, dict[str, Step]]:
    """Return the copies by the stage that needs them first and by direction."""
    found: dict[int, dict[str, Step]] = {}
    for tensor in costed.problem.tensors:
        there = GPU if placement[tensor.producer] == CPU else CPU
        readers = [v for v in tensor.consumers if placement[v] == there]
        if not readers:
            continue
        direction, seconds = ("h2d", tensor.h2d_s) if there == GPU else ("d2h", tensor.d2h_s)
        fixed_s = min(seconds, costed.copy_fixed_s.get(direction, 0.0))
        stage = min((int(evaluation.labels[v]) for v in readers if v not in costed.problem.pseudo), default=NO_STAGE)
        before = found.setdefault(stage, {}).get(direction)
        found[stage][direction] = Step(
            stage=stage,
            resource=direction,
            fixed_s=fixed_s * costed.batch + (before.fixed_s if before else 0.0),
            each_s=seconds - fixed_s + (before.each_s if before else 0.0),
        )
    return found


def tokens_for(latency_s: float, throughput_per_s: float, workers: int, batch: int = 1) -> int:
    """Return how many requests must be inside to keep the bottleneck busy: a multiple of what Little's law asks.

    Args:
        latency_s: Seconds of one batch alone in the pipeline.
        throughput_per_s: Requests a second at the bottleneck.
        workers: Workers of all devices that compute; each must have a batch, and one must wait, for no two runs take as long.
        batch: Requests in a batch; whole batches are let in.
    """
    inside = TOKEN_FACTOR * latency_s * throughput_per_s if math.isfinite(throughput_per_s) else 0.0
    return batch * max(workers + 1, math.ceil(inside / batch - 1e-9))


def demand_of(steps: Sequence[Step], batch: int) -> dict[str, float]:
    """Return the seconds a request of each resource in batches of `batch`, or of what a step takes as one."""
    totals: dict[str, float] = {}
    for step in steps:
        totals[step.resource] = totals.get(step.resource, 0.0) + step.seconds(step.most(batch)) / step.most(batch)
    return totals


def interval_s(steps: Sequence[Step], servers: Mapping[str, int], batch: int) -> float:
    """Return the seconds between requests at full load: the largest demand over its servers."""
    return max((seconds / servers.get(name, 1) for name, seconds in demand_of(steps, batch).items()), default=0.0)


def latency_s(steps: Sequence[Step], batch: int) -> float:
    """Return the seconds of one batch alone."""
    return sum(step.seconds(batch) for step in steps)
