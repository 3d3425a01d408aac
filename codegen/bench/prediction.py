"""What the plan predicts for the devices that are really here: where a GPU is missing, a CPU core stands in for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from cutset.codegen.report.timeline import servers_of_plan, steps_of_plan
from cutset.codegen.report.units import units
from cutset.partitioner.capacity import busy_with
from cutset.partitioner.cost import contention
from cutset.partitioner.simulate import saturated
from cutset.partitioner.steps import NO_STAGE, Step
from cutset.profilers.table import CostTable


def predicted_here(plan: Mapping[str, Any], table: CostTable, stand_ins: Collection[int]) -> float:
    """Return requests a second by the simulator, with the CPU's costs for the stages that stand in for a GPU.

    Nothing is copied then, and one more core is busy, which slows all of them as far as the profile has measured that.

    Args:
        plan: ``plan.json``.
        table: The costs that it was made from.
        stand_ins: Stages planned for a GPU that run on a core of their own.
    """
    steps = steps_of_plan(plan)
    if not steps:
        return 0.0
    servers = servers_of_plan(plan)
    if stand_ins:
        cores = plan["cpu_workers"] + 1
        on_cpu, alone = _cpu_seconds(plan, table), contention(table, cores)
        steps = tuple(
            replace(step, fixed_s=0.0, each_s=on_cpu[step.stage] * alone, rows=1)
            if step.stage in stand_ins and step.resource == "gpu"
            else step
            for step in busy_with(plan, steps, table, cores)
            if not _copies(step)
        )
    batch = 1 if stand_ins else plan["batch"]
    return saturated(steps, servers, max(batch, plan["tokens"]), batch).throughput_per_s


def slowed_by(plan: Mapping[str, Any], table: CostTable, cores: int, measured_per_s: float | None) -> float | None:
    """Return how much slower than profiled this machine is just now, told by the unsplit model in the same rounds.

    What is held against the measured pipeline is then the gain that the plan predicts over the unsplit model: whatever slows
    both, now or while the costs were measured, is on both sides.

    Args:
        plan: ``plan.json``.
        table: The costs that it was made from.
        cores: Replicas of the unsplit model that were measured.
        measured_per_s: Requests a second that they answered, None where they were not measured.

    Returns:
        None where that says nothing: for a plan that is such replicas itself, and without the model's own cost.
    """
    alone = table.session("cpu")
    if plan["decision"] == "unsplit-cpu" or not measured_per_s or alone is None or not alone.latency_s.median:
        return None
    return cores / (alone.latency_s.median * contention(table, cores)) / measured_per_s


def _copies(step: Step) -> bool:
    return step.stage == NO_STAGE or step.resource in {"h2d", "d2h"}


def _cpu_seconds(plan: Mapping[str, Any], table: CostTable) -> dict[int, float]:
    """Return the seconds a request of each stage on the CPU."""
    found: dict[int, float] = {}
    for unit in units(plan, table):
        if unit.stage is not None:
            found[unit.stage] = found.get(unit.stage, 0.0) + (unit.cpu_s or 0.0)
    return found
