"""Where the time of a request goes: by device, by class of operator, and against the rooflines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutset.codegen.report.chart import BOTTOM, LEFT, RIGHT, TOP, Chart, Mark, axis_of, path_of, short
from cutset.codegen.report.text import seconds
from cutset.codegen.report.units import Unit, placed_s
from cutset.profilers.roofline import CORE_EFFICIENCY, MEMORY_EFFICIENCY
from cutset.profilers.without_device import sheet_of

MOST_POINTS = 400
"""Dearest units in the scatter; more hide each other."""
ROOFLINE_WIDTH, ROOFLINE_HEIGHT = 700.0, 320.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What the operators of one class take on the device where they run.

    Args:
        work: The class.
        device: Where they run.
        units: How many.
        seconds: Of a request.
        share: Of the time of all units, from 0 to 1.
        elsewhere_s: What the same units would take on the other device, None where that is not known of all.
    """

    work: str
    device: str
    units: int
    seconds: float
    share: float
    elsewhere_s: float | None


def shares(found: Sequence[Unit]) -> list[Share]:
    """Return the time by device and class of operator, most first."""
    staged = [unit for unit in found if unit.stage is not None]
    total = sum(placed_s(unit) or 0.0 for unit in staged) or 1.0
    rows: dict[tuple[str, str], list[Unit]] = {}
    for unit in staged:
        rows.setdefault((unit.work, unit.device), []).append(unit)
    result = [_share(work, device, units, total) for (work, device), units in rows.items()]
    return sorted(result, key=lambda row: -row.seconds)


def _share(work: str, device: str, units: Sequence[Unit], total: float) -> Share:
    here = sum(placed_s(unit) or 0.0 for unit in units)
    other = [unit.gpu_s if device == "cpu" else unit.cpu_s for unit in units]
    known = [value for value in other if value is not None]
    return Share(
        work=work,
        device=device,
        units=len(units),
        seconds=here,
        share=here / total,
        elsewhere_s=sum(known) if len(known) == len(other) else None,
    )


def roofline(found: Sequence[Unit], gpu: Mapping[str, Any] | None) -> Chart | None:
    """Return the operations a second of each unit over its operations a byte, on the device where it runs.

    Args:
        found: The units.
        gpu: The GPU of the plan; its roof is drawn where its data sheet is known.
    """
    points = [point for unit in found if (point := _point(unit)) is not None]
    points.sort(key=lambda point: -(placed_s(point[2]) or 0.0))
    points = points[:MOST_POINTS]
    if len(points) < 2:
        return None
    sheet = None if gpu is None else sheet_of(gpu)
    peaks = [] if sheet is None else [sheet.fp32_flops * CORE_EFFICIENCY]
    x = axis_of([intensity for intensity, _, _ in points], LEFT, ROOFLINE_WIDTH - RIGHT, log=True)
    y = axis_of([rate for _, rate, _ in points] + peaks, ROOFLINE_HEIGHT - BOTTOM, TOP, log=True)
    lines = []
    if sheet is not None:
        bandwidth = sheet.memory_bytes_per_s * MEMORY_EFFICIENCY
        knee = peaks[0] / bandwidth
        ends = sorted({x.low, min(max(knee, x.low), x.high), x.high})
        lines.append((path_of([(x.at(i), y.at(min(peaks[0], i * bandwidth))) for i in ends]), "roof"))
    return Chart(
        title="Roofline",
        across="operations a byte",
        up="operations a second",
        x=tuple((place, short(value)) for value, place in x.ticks()),
        y=tuple((place, short(value)) for value, place in y.ticks()),
        marks=tuple(
            Mark(
                x=x.at(intensity),
                y=y.at(rate),
                kind=unit.device,
                text=f"{unit.nodes[0]} on the {unit.device.upper()}: {seconds(placed_s(unit))}, {short(round(intensity, 2))} "
                f"operations a byte, {short(float(f'{rate:.3g}'))} a second",
            )
            for intensity, rate, unit in points
        ),
        lines=tuple(lines),
    )


def _point(unit: Unit) -> tuple[float, float, Unit] | None:
    time_s = placed_s(unit)
    if unit.stage is None or not time_s or unit.flops <= 0 or unit.bytes <= 0:
        return None
    return unit.flops / unit.bytes, unit.flops / time_s, unit


def sources(found: Sequence[Unit]) -> list[tuple[str, float]]:
    """Return the share of the time, on the devices where units run, by where the numbers came from; most first."""
    totals: dict[str, float] = {}
    for unit in found:
        word = unit.sources[0 if unit.device == "cpu" else 1]
        if unit.stage is not None and word:
            totals[word] = totals.get(word, 0.0) + (placed_s(unit) or 0.0)
    whole = sum(totals.values())
    return sorted(((word, value / whole) for word, value in totals.items() if whole), key=lambda entry: -entry[1])
