"""What the plan would do with other sizes: its steps under more workers, batches, copies of other speed, and more load.

The placement stays as it is, but for the curves that were planned again (`explore`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cutset.codegen.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Mark, axis_of, curve, path_of, short
from cutset.codegen.report.text import seconds
from cutset.codegen.report.timeline import servers_of_plan, steps_of_plan
from cutset.partitioner.capacity import busy_with
from cutset.partitioner.simulate import saturated
from cutset.partitioner.steps import Step, demand_of, interval_s
from cutset.profilers.table import CostTable

BATCHES = (1, 2, 4, 8, 16, 32)
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0)
MOST_WORKERS = 16
COPIES = {"h2d", "d2h"}


def charts(
    plan: Mapping[str, Any],
    table: CostTable,
    explored: Mapping[str, Any] | None = None,
    capacity: Mapping[str, Any] | None = None,
) -> list[Chart]:
    """Return the curves of a plan; those that would be flat by construction are left out.

    Args:
        plan: ``plan.json``.
        table: The costs that it was made from.
        explored: What plans with other limits reach, where that was found out.
        capacity: What other sizes of this plan do, where that was asked.
    """
    steps = steps_of_plan(plan)
    if not steps:
        return []
    found = [_load(plan, steps), _workers(plan, table, steps)]
    if plan["decision"] != "unsplit-cpu":
        found.append(_batches(plan, steps))
    if any(step.resource in COPIES for step in steps):
        found.append(_link(plan, steps))
    found += [] if explored is None else _explored(explored)
    return found + ([] if capacity is None else [_capacity(capacity)])


def _explored(explored: Mapping[str, Any]) -> list[Chart]:
    stages = [(point["at"], point["throughput_per_s"]) for point in explored["stages"]]
    link = [(point["at"], point["throughput_per_s"]) for point in explored["link"]]
    return [
        curve("Stages, planned again", "stages at most", stages, float(explored["max_stages"])),
        curve("Speed of copies, planned again", "times the bandwidth planned with", link, 1.0, log=True),
    ]


def _capacity(capacity: Mapping[str, Any]) -> Chart:
    """Return what one replica does with each number of workers, a line a batch size, the recommended size marked."""
    rows = capacity["rows"]
    x = axis_of([row["cpu_workers"] for row in rows], LEFT, WIDTH - RIGHT)
    y = axis_of([row["throughput_per_s"] for row in rows], HEIGHT - BOTTOM, TOP)
    places = [(x.at(row["cpu_workers"]), y.at(row["throughput_per_s"])) for row in rows]
    lines = [
        path_of([place for row, place in zip(rows, places, strict=True) if row["batch"] == batch])
        for batch in sorted({row["batch"] for row in rows})
    ]
    marks = tuple(
        Mark(x=across, y=up, text=": ".join(_size(row)), chosen=row == capacity["recommended"])
        for row, (across, up) in zip(rows, places, strict=True)
    )
    return Chart(
        title="Capacity of a replica, simulated, a line a batch size",
        across="CPU workers",
        up="requests a second",
        x=tuple((place, short(value)) for value, place in x.ticks()),
        y=tuple((place, short(value)) for value, place in y.ticks()),
        marks=marks,
        lines=tuple((line, "line") for line in lines),
        rows=tuple(_size(row) for row in rows),
    )


def _size(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a size and what it does, in words."""
    does = f"{row['throughput_per_s']:,.1f} requests/s, {row['bottleneck']} busiest"
    if row["replicas"] is not None:
        does += f"; {row['replicas']} replica(s) at the rate asked, p99 {seconds(row['latency_p99_s'])}"
    return f"{row['cpu_workers']} workers, batch {row['batch']}", does


def _workers(plan: Mapping[str, Any], table: CostTable, steps: Sequence[Step]) -> Chart:
    """Return the rate over the number of CPU workers, up to one more than keeps the rest busy."""
    batch = plan["batch"]
    planned = servers_of_plan(plan)["cpu"]
    demand = demand_of(steps, batch)
    others = max((value for name, value in demand.items() if name != "cpu"), default=0.0)
    enough = int(demand.get("cpu", 0.0) / others) + 2 if others else 2 * planned
    counts = range(1, min(MOST_WORKERS, max(enough, planned + 1)) + 1)
    points = [(float(n), 1 / interval_s(busy_with(plan, steps, table, n), {"cpu": n}, batch)) for n in counts]
    return curve("CPU workers", "CPU workers", points, float(planned))


def _batches(plan: Mapping[str, Any], steps: Sequence[Step]) -> Chart:
    servers = servers_of_plan(plan)
    points = [(float(batch), 1 / interval_s(steps, servers, batch)) for batch in sorted({*BATCHES, plan["batch"]})]
    return curve("Batch", "requests a batch", points, float(plan["batch"]), log=True)


def _link(plan: Mapping[str, Any], steps: Sequence[Step]) -> Chart:
    servers, batch = servers_of_plan(plan), plan["batch"]

    def faster(by: float) -> list[Step]:
        return [replace(step, each_s=step.each_s / by) if step.resource in COPIES else step for step in steps]

    points = [(by, 1 / interval_s(faster(by), servers, batch)) for by in SPEEDS]
    return curve("Speed of copies (PCIe)", "times the speed planned with", points, 1.0, log=True)


def _load(plan: Mapping[str, Any], steps: Sequence[Step]) -> Chart:
    """Return throughput and latency as more requests are let in, and the front of other sizes where it was explored."""
    servers, batch, most = servers_of_plan(plan), plan["batch"], max(plan["tokens"], plan["batch"])
    counts = sorted({*range(batch, most + 1, max(1, (most - batch) // 6)), most, 2 * most})
    runs = [(tokens, saturated(steps, servers, tokens, batch)) for tokens in counts]
    front = plan.get("pareto") or ()
    rates = [run.throughput_per_s for _, run in runs] + [point["throughput_per_s"] for point in front]
    waits = [run.latency_p50_s * 1e3 for _, run in runs] + [point["latency_s"] * 1e3 for point in front]
    x, y = axis_of(rates, LEFT, WIDTH - RIGHT), axis_of(waits, HEIGHT - BOTTOM, TOP)
    marks = [
        Mark(
            x=x.at(run.throughput_per_s),
            y=y.at(run.latency_p50_s * 1e3),
            text=f"{tokens} inside: {run.throughput_per_s:,.1f} requests/s, {seconds(run.latency_p50_s)}",
            chosen=tokens == plan["tokens"],
        )
        for tokens, run in runs
    ]
    others = [
        Mark(
            x=x.at(point["throughput_per_s"]),
            y=y.at(point["latency_s"] * 1e3),
            text=f"batch {point['batch']}, {point['cpu_workers']} workers, {point['tokens']} inside: "
            f"{point['throughput_per_s']:,.1f} requests/s, {seconds(point['latency_s'])}",
            kind="front",
        )
        for point in front
    ]
    return Chart(
        title="Latency and throughput",
        across="requests a second",
        up="milliseconds, median",
        x=tuple((place, short(value)) for value, place in x.ticks()),
        y=tuple((place, short(value)) for value, place in y.ticks()),
        marks=(*others, *marks),
        lines=((path_of([(mark.x, mark.y) for mark in marks]), "line"),),
        rows=tuple((mark.text.partition(": ")[0], mark.text.partition(": ")[2]) for mark in (*marks, *others)),
    )
