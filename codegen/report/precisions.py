"""Error against gain: what each precision would do to the numbers of each GPU stage, and how much faster it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutset.codegen.report.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Mark, axis_of, short

LEAST_ERROR = 1e-9
"""Where errors of nothing are drawn: their axis is logarithmic."""
HOW: Mapping[str, str] = {"tf32": "emulated", "fp16": "emulated", "bf16": "emulated", "int8": "calibrated"}
"""How the CPU came by the numbers of a precision that it does not compute in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One precision of one stage.

    Args:
        stage: Index of the stage.
        precision: The precision.
        chosen: Whether the stage is deployed in it.
        how: How its numbers were come by.
        error: The error of the worst output, as plan.json holds it; None where there is none.
        top1: Least share of rows with the same largest element, of the outputs that are distributions.
        reduced: Nodes in the precision.
        kept: Nodes that went back to fp32.
        gain: How many times faster than fp32, None where that is not modelled.
        note: Why it was not compared, or cannot be had.
    """

    stage: int
    precision: str
    chosen: bool
    how: str
    error: Mapping[str, Any] | None
    top1: float | None
    reduced: int
    kept: int
    gain: float | None
    note: str


def rows_of(engines: Mapping[str, Any] | None) -> list[Row]:
    """Return the precisions of every stage that were compared; fp32, which they are compared with, first.

    Args:
        engines: ``engines`` of plan.json, None in one that has none.
    """
    return [row for stage in (engines or {}).get("stages", ()) if stage.get("compared") for row in _rows(stage)]


def _rows(stage: Mapping[str, Any]) -> list[Row]:
    mine = stage["precision"]
    plain = Row(
        stage=stage["stage"], precision="fp32", chosen=mine == "fp32", how="", error=None, top1=None, reduced=0, kept=0,
        gain=1.0, note="what the others are compared with",
    )  # fmt: skip
    return [plain, *(_row(stage["stage"], found, mine) for found in stage["compared"])]


def _row(stage: int, found: Mapping[str, Any], chosen: str) -> Row:
    tops = [error["top1"] for error in found["errors"] if error["top1"] is not None]
    return Row(
        stage=stage,
        precision=found["precision"],
        chosen=found["precision"] == chosen,
        how=HOW[found["precision"]] if found["errors"] else "",
        error=max(found["errors"], key=lambda error: error["max_rel"], default=None),
        top1=min(tops, default=None),
        reduced=found["reduced"],
        kept=found["kept"],
        gain=found["gain"],
        note=found["note"],
    )


def charts_of(rows: Sequence[Row]) -> list[Chart]:
    """Return for each stage its errors over its gains; none where less than two precisions have a modelled gain."""
    charts = []
    for stage in sorted({row.stage for row in rows}):
        points = [
            (row, row.gain, max(row.error["max_rel"], LEAST_ERROR))
            for row in rows
            if row.stage == stage and row.error is not None and row.gain is not None
        ]
        if len(points) > 1:
            charts.append(_chart(stage, points))
    return charts


def _chart(stage: int, points: Sequence[tuple[Row, float, float]]) -> Chart:
    x = axis_of([gain for _, gain, _ in points], LEFT, WIDTH - RIGHT)
    y = axis_of([error for _, _, error in points], HEIGHT - BOTTOM, TOP, log=True)
    marks = tuple(
        Mark(x=x.at(gain), y=y.at(error), text=f"{row.precision}: error {error:.2g}, {gain:.2f}x", chosen=row.chosen)
        for row, gain, error in points
    )
    return Chart(
        title=f"Stage {stage}: error against gain",
        across="times faster than fp32, modelled",
        up="largest error over magnitude",
        x=tuple((place, short(value)) for value, place in x.ticks()),
        y=tuple((place, f"{value:.0e}") for value, place in y.ticks()),
        marks=marks,
        rows=tuple((f"{row.precision}, {gain:.2f}x", f"{error:.2g}") for row, gain, error in points),
    )
