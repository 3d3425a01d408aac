"""Layout of the pipeline's picture: two lanes, stages as boxes in order, what crosses as arrows on tracks of their own.

Coordinates only, in SVG user units; the template draws them. Every arrow runs out of its producer to a horizontal track
and from there into its consumer: between the lanes where it changes device, outside them where it skips a stage. Arrows
share a track only where neither they nor their labels overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cutset.codegen.report.text import counted, seconds, size

WIDTH = 1120.0
LEFT, RIGHT = 64.0, 8.0
GAP = 40.0
MIN_BOX = 128.0
BOX_HEIGHT = 78.0
TRACK = 34.0
MARGIN = 12.0
PORT = 16.0
LETTER = 6.4
"""Width of a label's letter, on the safe side for 12 px system fonts."""

_Span = tuple[float, float]
_Zone = Literal["cpu", "between", "gpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One stage: where it is drawn, and its lines of text."""

    device: str
    x: float
    y: float
    width: float
    title: str
    time: str
    nodes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrow:
    """All that one stage hands to another: SVG path, label and its place, and whether it changes device."""

    path: str
    label: str
    x: float
    y: float
    crosses: bool
    source: int
    target: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """The whole drawing; `lanes` has the device and the top of the boxes of each lane that is in use."""

    width: float
    height: float
    lanes: tuple[tuple[str, float], ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """The tensors that go from one stage to another, and where their arrow is drawn."""

    source: int
    target: int
    zone: _Zone
    label: str
    exit_x: float
    entry_x: float
    label_x: float

    @property
    def right(self) -> float:
        """Right end of what it needs of a track."""
        return max(self.entry_x, self.label_x + LETTER * len(self.label)) + PORT


def draw(document: Mapping[str, Any], transfer_source: str) -> Picture:
    """Return the picture of a plan.

    Args:
        document: The plan, as in ``plan.json``.
        transfer_source: Word beside transfer times, for example ``modelled``; empty for none.
    """
    stages = document["stages"]
    devices = [stage["device"] for stage in stages]
    spans = _spans([stage["service_s"] for stage in stages])
    width = max(WIDTH, spans[-1][1] + RIGHT)
    tracks = _tracks(_links(document["boundary"], devices, spans, width, transfer_source))
    rows = {zone: 1 + max((row for link, row in tracks if link.zone == zone), default=-1) for zone in _ZONES}
    tops, y = dict[str, float](), MARGIN + TRACK * rows["cpu"]
    for device in sorted(set(devices)):
        tops[device] = y
        y += BOX_HEIGHT + MARGIN + TRACK * (max(1, rows["between"]) if device == "cpu" and "gpu" in devices else 0)
    return Picture(
        width=width,
        height=y + TRACK * rows["gpu"],
        lanes=tuple(tops.items()),
        boxes=tuple(_box(stage, span, tops[stage["device"]]) for stage, span in zip(stages, spans, strict=True)),
        arrows=tuple(_arrow(link, row, devices, tops) for link, row in tracks),
    )


_ZONES: tuple[_Zone, ...] = ("cpu", "between", "gpu")


def _spans(service_s: Sequence[float]) -> list[_Span]:
    """Return left and right edge of each box: room for its text, and a share of the rest in proportion to its time."""
    count = len(service_s)
    spare = max(0.0, WIDTH - LEFT - RIGHT - GAP * (count - 1) - MIN_BOX * count)
    total = sum(service_s) or 1.0
    spans, x = [], LEFT
    for value in service_s:
        width = MIN_BOX + spare * value / total
        spans.append((x, x + width))
        x += width + GAP
    return spans


def _links(
    boundary: Sequence[Mapping[str, Any]], devices: Sequence[str], spans: Sequence[_Span], width: float, source: str
) -> Iterator[_Link]:
    """Yield one link for each pair of stages that exchange tensors, in order of stages."""
    pairs: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for tensor in boundary:
        for target in tensor["to"]:
            pairs.setdefault((tensor["from"], target), []).append(tensor)
    paid: set[str] = set()
    for (start, end), tensors in sorted(pairs.items(), key=lambda item: item[0]):
        crosses = devices[start] != devices[end]
        label = _label(tensors, _first_move(tensors, paid) if crosses else None, source)
        exit_x, entry_x = spans[start][1] - PORT, spans[end][0] + PORT
        yield _Link(
            source=start,
            target=end,
            zone="between" if crosses else "cpu" if devices[start] == "cpu" else "gpu",
            label=label,
            exit_x=exit_x,
            entry_x=entry_x,
            label_x=_label_x(exit_x, LETTER * len(label), width - RIGHT),
        )


def _label_x(exit_x: float, length: float, right: float) -> float:
    """Return where a label begins: right of the line that leaves its stage, or left of it where there is no room."""
    return exit_x + 6 if exit_x + 6 + length <= right else max(LEFT, exit_x - 6 - length)


def _first_move(tensors: Sequence[Mapping[str, Any]], paid: set[str]) -> float:
    """Return the seconds of those copies that no earlier arrow has made: a tensor moves once, however many read it."""
    first = [tensor for tensor in tensors if tensor["tensor"] not in paid]
    paid.update(tensor["tensor"] for tensor in first)
    return float(sum(tensor["transfer_s"] for tensor in first))


def _label(tensors: Sequence[Mapping[str, Any]], move_s: float | None, source: str) -> str:
    sizes = [tensor["bytes"] for tensor in tensors]
    parts = [counted(len(tensors), "tensor"), "size not known" if None in sizes else size(sum(sizes))]
    if move_s is not None:
        parts.append(f"{seconds(move_s)} {source}".rstrip())
    return " · ".join(parts)


def _tracks(links: Iterator[_Link]) -> list[tuple[_Link, int]]:
    """Return each link with its track, counted within its zone: the first one that is free where it runs."""
    taken: dict[tuple[str, int], list[_Link]] = {}
    found = []
    for link in links:
        row = 0
        while any(_overlap(link, other) for other in taken.get((link.zone, row), ())):
            row += 1
        taken.setdefault((link.zone, row), []).append(link)
        found.append((link, row))
    return found


def _overlap(one: _Link, other: _Link) -> bool:
    return min(one.exit_x, one.label_x) < other.right and min(other.exit_x, other.label_x) < one.right


def _arrow(link: _Link, row: int, devices: Sequence[str], tops: Mapping[str, float]) -> Arrow:
    if link.zone == "cpu":
        base = tops["cpu"] - TRACK * (row + 0.35)
    else:
        base = tops["cpu" if link.zone == "between" else "gpu"] + BOX_HEIGHT + TRACK * (row + 0.75)
    # CPU boxes are left and entered at the top for the track above the lane, else at the bottom; GPU boxes mirrored.
    start, end = (
        tops[device] + (BOX_HEIGHT if (device == "cpu") == (link.zone == "between") else 0.0)
        for device in (devices[link.source], devices[link.target])
    )
    # A label lies on the side of its track from which no line of its own arrow comes.
    over = link.zone == "cpu" or (link.zone == "between" and devices[link.source] == "cpu")
    return Arrow(
        path=f"M{link.exit_x:.1f} {start:.1f}V{base:.1f}H{link.entry_x:.1f}V{end:.1f}",
        label=link.label,
        x=round(link.label_x, 1),
        y=round(base - 6 if over else base + 15, 1),
        crosses=link.zone == "between",
        source=link.source,
        target=link.target,
    )


def _box(stage: Mapping[str, Any], span: _Span, y: float) -> Box:
    word = "" if stage["source"] == "measured" else f" {stage['source']}"
    return Box(
        device=stage["device"],
        x=round(span[0], 1),
        y=round(y, 1),
        width=round(span[1] - span[0], 1),
        title=f"Stage {stage['index']}",
        time=f"{seconds(stage['service_s'])}{word}",
        nodes=counted(len(stage["nodes"]), "node"),
    )
