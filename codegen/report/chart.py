"""Geometry of the report's charts: values to SVG user units, with ticks that people can read. The template draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_TICKS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values from `low` to `high` on a line from `start` to `end`.

    Args:
        low: Value at `start`.
        high: Value at `end`; more than `low`.
        start: Place of `low` in user units.
        end: Place of `high`.
        log: Whether equal ratios take equal room; both ends are positive then.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, one that is outside at the nearer end."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[tuple[float, float]]:
        """Return values and their places: powers of ten, or multiples of 1, 2 or 5 of one."""
        values = _powers(self.low, self.high) if self.log else _multiples(self.low, self.high)
        return [(value, self.at(value)) for value in values]


def axis_of(values: Sequence[float], start: float, end: float, *, log: bool = False) -> Axis:
    """Return an axis that holds all values: from zero if it is linear, between powers of ten if not."""
    if log:
        low = 10.0 ** math.floor(math.log10(min(values)))
        high = 10.0 ** math.ceil(math.log10(max(values)))
        return Axis(low=low, high=high if high > low else low * 10, start=start, end=end, log=True)
    return Axis(low=0.0, high=max(values, default=0.0) * 1.08 or 1.0, start=start, end=end)


def _powers(low: float, high: float) -> list[float]:
    first, last = round(math.log10(low)), round(math.log10(high))
    step = max(1, math.ceil((last - first) / MOST_TICKS))
    return [10.0**power for power in range(first, last + 1, step)]


def _multiples(low: float, high: float) -> list[float]:
    rough = (high - low) / MOST_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A point of a chart: its place, what it is in words, and the class that colours it."""

    x: float
    y: float
    text: str
    kind: str = ""
    chosen: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A line or a scatter of marks between two axes, ready to be drawn.

    Args:
        title: What it shows.
        across: What the horizontal axis is.
        up: What the vertical axis is.
        x: Ticks of the horizontal axis: place and label.
        y: Ticks of the vertical axis.
        marks: The points.
        lines: SVG paths and the class of each.
        rows: The same in numbers: what a screen reader, and whoever wants digits, reads.
    """

    title: str
    across: str
    up: str
    x: tuple[tuple[float, str], ...]
    y: tuple[tuple[float, str], ...]
    marks: tuple[Mark, ...]
    lines: tuple[tuple[str, str], ...] = ()
    rows: tuple[tuple[str, str], ...] = ()


WIDTH, HEIGHT = 340.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 40.0
"""Room around the plot of a chart."""


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """Return the SVG path through points."""
    return "".join(f"{'L' if index else 'M'}{x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))


def short(value: float) -> str:
    """Return a number of an axis: ``2.5``, ``40``, ``12 k``."""
    for factor, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:g}{unit}"
    return f"{value:.3g}"


def curve(title: str, across: str, points: Sequence[tuple[float, float]], chosen: float, *, log: bool = False) -> Chart:
    """Return the chart of a throughput over one setting.

    Args:
        title: What it shows.
        across: What the setting is.
        points: Setting and requests a second, ascending.
        chosen: The setting that is deployed.
        log: Whether the settings are spread by ratio.
    """
    values = [x for x, _ in points]
    if log:
        across_axis = Axis(low=min(values), high=max(values), start=LEFT, end=WIDTH - RIGHT, log=True)
        ticks = [(across_axis.at(value), short(value)) for value in values]
    else:
        across_axis = axis_of(values, LEFT, WIDTH - RIGHT)
        ticks = [(place, short(value)) for value, place in across_axis.ticks()]
    up = axis_of([y for _, y in points], HEIGHT - BOTTOM, TOP)
    marks = tuple(
        Mark(x=across_axis.at(x), y=up.at(y), text=f"{short(x)}: {y:,.1f} requests/s", chosen=x == chosen) for x, y in points
    )
    return Chart(
        title=title,
        across=across,
        up="requests a second",
        x=tuple(ticks),
        y=tuple((place, short(value)) for value, place in up.ticks()),
        marks=marks,
        lines=((path_of([(mark.x, mark.y) for mark in marks]), "line"),),
        rows=tuple((short(x), f"{y:,.1f}") for x, y in points),
    )
