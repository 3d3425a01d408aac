"""The order of work of a plan: which worker runs a phase, and which tensors die after it."""

from __future__ import annotations

from dataclasses import dataclass

from .backends.base import StageBackend
from .config import PlanConfig, StageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One stage, ready to run.

    Args:
        stage: The stage's configuration.
        backend: The loaded stage.
        keep: Outputs that someone still needs.
        drop: Tensors whose last consumer this phase is.
    """

    stage: StageConfig
    backend: StageBackend
    keep: tuple[str, ...]
    drop: tuple[str, ...]

    @property
    def device(self) -> str:
        """Where the stage really runs."""
        return self.backend.device


def build_phases(plan: PlanConfig, backends: list[StageBackend]) -> tuple[Phase, ...]:
    """Return the phases in order.

    Args:
        plan: A checked plan.
        backends: The loaded stages, in the plan's order.
    """
    last_use = {name: stage.index for stage in plan.stages for name in stage.inputs}
    results = {tensor.name for tensor in plan.outputs}
    return tuple(
        Phase(
            stage=stage,
            backend=backend,
            keep=tuple(name for name in stage.outputs if name in last_use or name in results),
            drop=tuple(name for name in stage.inputs if last_use[name] == stage.index and name not in results),
        )
        for stage, backend in zip(plan.stages, backends, strict=True)
    )


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
