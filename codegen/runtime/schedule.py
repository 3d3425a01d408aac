"""The order of work of a plan: which worker runs a phase, and which tensors die after it."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from .backends.base import GPU_BATCH, StageBackend, time_limit_s
from .config import PlanConfig, StageConfig, Wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stage, ready to run.

    Args:
        stage: The stage's configuration.
        backend: The loaded stage.
        device: Where it ran when it was loaded; names its workers.
        fetch: Inputs that may lie in a GPU's memory, and are to be fetched for a stage that runs on the CPU.
        joins: Whether the backend joins the parts of a batch itself.
        keep: Outputs that someone still needs.
        drop: Tensors whose last consumer this phase is.
        max_batch: Most rows of one run; 1 keeps requests apart.
        limit_s: Seconds after which a run counts as hung; infinite for a stage in a process, whose backend ends the process.
    """

    stage: StageConfig
    backend: StageBackend
    device: str
    fetch: tuple[str, ...]
    joins: bool
    keep: tuple[str, ...]
    drop: tuple[str, ...]
    max_batch: int
    limit_s: float


def build_phases(plan: PlanConfig, backends: list[StageBackend]) -> tuple[Phase, ...]:
    """Return the phases in order.

    Args:
        plan: A checked plan.
        backends: The loaded stages, in the plan's order.
    """
    last_use = {name: stage.index for stage in plan.stages for name in stage.inputs}
    results = {tensor.name for tensor in plan.outputs}
    on_device = {name for stage in plan.stages for name, place in places(plan, stage).items() if place & Wanted.DEVICE}
    return tuple(
        Phase(
            stage=stage,
            backend=backend,
            device=backend.device,
            fetch=tuple(name for name in stage.inputs if name in on_device) if backend.device == "cpu" else (),
            joins=getattr(backend, "joins", False),
            keep=tuple(name for name in stage.outputs if name in last_use or name in results),
            drop=tuple(name for name in stage.inputs if last_use[name] == stage.index and name not in results),
            max_batch=batch_limit(plan, stage, backend),
            limit_s=math.inf if stage.execution == "process" else time_limit_s(stage, plan.stage_timeout_s),
        )
        for stage, backend in zip(plan.stages, backends, strict=True)
    )


def places(plan: PlanConfig, stage: StageConfig) -> dict[str, Wanted]:
    """Return where each output of a GPU stage is taken, as planned: what only GPU stages read stays there."""
    if stage.device == "cpu":
        return {}
    found = dict.fromkeys(stage.outputs, Wanted(0))
    for reader in plan.stages:
        for name in found.keys() & set(reader.inputs):
            found[name] |= Wanted.DEVICE if reader.device == "gpu" else Wanted.HOST
    for tensor in plan.outputs:
        if tensor.name in found:
            found[tensor.name] |= Wanted.RESULT
    return found


def batch_limit(plan: PlanConfig, stage: StageConfig, backend: StageBackend) -> int:
    """Return the most rows that one run of a stage takes; 1 keeps requests apart."""
    if not stage.batchable:
        return 1
    wanted = plan.max_batch or (GPU_BATCH if backend.device == "gpu" else 1)
    limit: int | None = getattr(backend, "max_batch", None)
    return wanted if limit is None else min(wanted, limit)


def pool_sizes(plan: PlanConfig, phases: tuple[Phase, ...]) -> dict[str, int]:
    """Return how many requests each device computes at once.

    Where every GPU stage had to move to the CPU, the core that was to feed the GPU computes like the others.
    """
    slots = [getattr(phase.backend, "slots", 1) for phase in phases if phase.device == "gpu"]
    moved = not slots and any(phase.stage.device == "gpu" for phase in phases)
    sizes = {"cpu": plan.cpu_workers + moved, "gpu": min(slots, default=1)}
    return {device: sizes[device] for device in sorted({phase.device for phase in phases})}


def tokens(plan: PlanConfig, phases: tuple[Phase, ...]) -> int:
    """Return how many requests may be inside: the plan's number of them, or of full batches that it does not know of."""
    return math.ceil(plan.tokens * max(1.0, max(phase.max_batch for phase in phases) / plan.planned_rows))


def replicas(plan: PlanConfig) -> int:
    """Return the workers of a plan that leaves the whole model on the CPU: as many as this machine's cores hold.

    No core has a GPU to feed then, and replicas of the whole are the best that cores alone can do.
    """
    if plan.decision != "unsplit-cpu":
        return plan.cpu_workers
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // plan.intra_op_threads)


def needed_inputs(plan: PlanConfig) -> frozenset[str]:
    """Return the model inputs that a stage reads or that are passed straight to an output."""
    read = {name for stage in plan.stages for name in stage.inputs}
    results = {tensor.name for tensor in plan.outputs}
    return frozenset(tensor.name for tensor in plan.inputs if tensor.name in read or tensor.name in results)


def interval_s(plan: PlanConfig) -> float:
    """Return the planned seconds between two finished requests at saturation: the busiest device's share of one."""
    on_cpu = sum(stage.service_s for stage in plan.stages if stage.device == "cpu") / plan.cpu_workers
    on_gpu = sum(stage.service_s for stage in plan.stages if stage.device == "gpu")
    return max(on_cpu, on_gpu)
