"""The pipeline over time: what each server does, as simulated or as measured, laid out as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutset import serde
from cutset.codegen.report.chart import Axis
from cutset.codegen.report.text import percent, seconds
from cutset.partitioner.simulate import Span, saturated
from cutset.partitioner.steps import NO_STAGE, Step, interval_s

WIDTH, LEFT, ROW, BAR = 1120.0, 128.0, 30.0, 22.0
INTERVALS = 8
"""Length of the window, in times between two results at full load."""
MOST_ROWS = 16
MOST_BARS = 600
SHADES = 2
"""Neighbouring requests get different shades."""

RESOURCES = {"cpu": "CPU worker", "gpu": "GPU", "h2d": "copy to GPU", "d2h": "copy from GPU"}
ORDER = ("cpu", "h2d", "gpu", "d2h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One run: place, width, the class that colours it, its shade, a label if it fits, and what it is in words."""

    x: float
    y: float
    width: float
    kind: str
    shade: int
    label: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """Rows of servers and their bars between two moments.

    Args:
        rows: Name, busy share in words, and top of each row.
        bars: What ran.
        ticks: Place and label of moments.
        height: Of the drawing.
        window_s: Seconds it shows.
    """

    rows: tuple[tuple[str, str, float], ...]
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    height: float
    window_s: float


def steps_of_plan(plan: Mapping[str, Any]) -> tuple[Step, ...]:
    """Return the steps of a request in a plan; none if they take no time."""
    steps = tuple(serde.convert(step, Step, where="plan.json") for step in plan.get("steps", ()))
    return steps if any(step.seconds(1) > 0 for step in steps) else ()


def servers_of_plan(plan: Mapping[str, Any]) -> dict[str, int]:
    """Return the servers of each resource of a plan; a model left whole on the CPU has a replica on every core."""
    if plan["decision"] == "unsplit-cpu":
        prediction = plan["prediction"]
        return {"cpu": max(1, round(prediction["throughput_per_s"] * prediction["latency_s"] / plan["batch"]))}
    return {"cpu": plan["cpu_workers"]}


def simulated(plan: Mapping[str, Any]) -> Timeline | None:
    """Return a window of the saturated pipeline after it has filled, as the simulator sees it; None without work."""
    steps, servers, batch = steps_of_plan(plan), servers_of_plan(plan), plan["batch"]
    if not steps:
        return None
    found = saturated(steps, servers, max(batch, plan["tokens"]), batch)
    titles = [f"stage {step.stage}" if step.resource in {"cpu", "gpu"} else _copied(step.stage) for step in steps]
    length_s = INTERVALS * interval_s(steps, servers, batch) * batch
    begin_s = found.timeline[len(found.timeline) // 3].start_s
    return lay_out(found.timeline, titles, (begin_s, begin_s + length_s))


def measured(bench: Mapping[str, Any]) -> Timeline | None:
    """Return the measured window of a benchmark; None if it has none."""
    entries = bench.get("timeline") or ()
    if not entries:
        return None
    spans = [serde.convert(entry, Span, where="bench.json") for entry in entries]
    titles = [f"stage {index}" for index in range(1 + max(span.step for span in spans))]
    begin_s = min(span.start_s for span in spans)
    return lay_out(spans, titles, (begin_s, max(span.end_s for span in spans)))


def lay_out(spans: Sequence[Span], titles: Sequence[str], window_s: tuple[float, float]) -> Timeline:
    """Return the bars of what happened between two moments.

    Args:
        spans: What each server did.
        titles: Name of each step.
        window_s: The moments, in seconds.
    """
    begin_s, end_s = window_s
    shown = [span for span in spans if span.end_s > begin_s and span.start_s < end_s]
    keys = sorted({(ORDER.index(span.resource), span.server) for span in shown})[:MOST_ROWS]
    tops = {(ORDER[place], server): 6 + ROW * row for row, (place, server) in enumerate(keys)}
    axis = Axis(low=begin_s, high=end_s, start=LEFT, end=WIDTH)
    kept = [span for span in shown if (span.resource, span.server) in tops]
    single = {resource for resource, _ in tops if sum(name == resource for name, _ in tops) == 1}
    rows = tuple(
        (_server(resource, server, single), percent(_busy(kept, resource, server, window_s)), top)
        for (resource, server), top in tops.items()
    )
    times = Axis(low=0.0, high=end_s - begin_s, start=LEFT, end=WIDTH)
    return Timeline(
        rows=rows,
        bars=tuple(_bar(span, titles[span.step], axis, tops[span.resource, span.server]) for span in kept[:MOST_BARS]),
        ticks=tuple((place, seconds(value) if value else "0") for value, place in times.ticks()),
        height=6 + ROW * len(tops) + 22,
        window_s=end_s - begin_s,
    )


def _server(resource: str, server: int, single: set[str]) -> str:
    name = RESOURCES[resource]
    return name if resource in single and resource != "cpu" else f"{name} {server + 1}"


def _busy(spans: Sequence[Span], resource: str, server: int, window_s: tuple[float, float]) -> float:
    begin_s, end_s = window_s
    own = (span for span in spans if (span.resource, span.server) == (resource, server))
    return sum(min(span.end_s, end_s) - max(span.start_s, begin_s) for span in own) / (end_s - begin_s)


def _bar(span: Span, title: str, axis: Axis, top: float) -> Bar:
    x, right = axis.at(span.start_s), axis.at(span.end_s)
    who = f"request {span.requests[0]}" if len(span.requests) == 1 else f"requests {span.requests[0]} to {span.requests[-1]}"
    label = f"{title} · {span.requests[0]}"
    width = max(1.0, round(right - x, 1))
    return Bar(
        x=x,
        y=top + (ROW - BAR) / 2,
        width=width,
        kind=span.resource if span.resource in {"cpu", "gpu"} else "copy",
        shade=span.requests[0] // len(span.requests) % SHADES,
        label=label if width > 7 * len(label) else title if width > 7 * len(title) else "",
        text=f"{title}, {who}: {seconds(span.end_s - span.start_s)}",
    )


def _copied(stage: int) -> str:
    return "copy of results" if stage == NO_STAGE else f"copy for stage {stage}"
