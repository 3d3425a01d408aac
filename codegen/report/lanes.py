"""The graph as the report draws it: a lane a stage, in it a box a unit, and folds over runs of cheap ones.

A box is as wide as its unit takes time on the device where it runs. Nothing is positioned here: boxes flow like words in
a paragraph, so the picture fits any window, prints, and is walked through with a keyboard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cutset.codegen.report.material import Material
from cutset.codegen.report.text import counted, seconds, size, visible
from cutset.codegen.report.units import Refusal, Unit, placed_s
from cutset.graph.flops import MATRIX_OPS

FULL_NODES = 300
"""Models with more nodes are drawn folded."""
MOST_BOXES = 160
"""Boxes of a folded graph, about."""
MOST_FOLDED = 100
"""Boxes in one fold: what a person can look through when it is opened."""
ROW_PX = 800.0
"""Width of the dearest box at most, in pixels: what a lane has in a window of 1280."""
ROWS = 5
"""All boxes together fill about so many rows at most."""
NAMED_TENSORS = 3
NAMED_OPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One unit: its number, operators, width in pixels at zoom 1, device, and what a screen reader says of it."""

    number: int
    label: str
    width: float
    device: str
    spoken: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """A run of boxes that is drawn as one until it is opened; a run of one box is that box."""

    boxes: tuple[Box, ...]
    label: str
    width: float
    device: str
    spoken: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One stage: its title, what it takes, its folds, and what it gets from earlier stages."""

    index: int
    device: str
    title: str
    time: str
    source: str
    folds: tuple[Fold, ...]
    arrives: tuple[str, ...]


def lanes_of(material: Material, found: Sequence[Unit], ops: Mapping[str, str], source: str) -> list[Lane]:
    """Return the lanes of a plan, in its order.

    Args:
        material: The plan.
        found: Its units.
        ops: Operator of each node.
        source: Word beside times of the GPU and of transfers, for example ``modelled``.
    """
    scale = _pixels_a_second(found)
    cheap_s = _cheap_s(found)
    lanes = []
    for stage in material.plan["stages"]:
        members = [number for number, unit in enumerate(found) if unit.stage == stage["index"]]
        boxes = [(_box(number, found[number], ops, scale), placed_s(found[number]) or 0.0) for number in members]
        lanes.append(
            Lane(
                index=stage["index"],
                device=stage["device"],
                title=f"Stage {stage['index']} on the {stage['device'].upper()}",
                time=f"{seconds(stage['service_s'])}, {counted(len(stage['nodes']), 'node')}",
                source=source if stage["device"] == "gpu" else "",
                folds=tuple(_folds(boxes, cheap_s)),
                arrives=tuple(_arrives(material.plan, stage["index"], source)),
            )
        )
    return lanes


def details_of(material: Material, found: Sequence[Unit], ops: Mapping[str, str], kinds: Sequence[Refusal]) -> dict[str, Any]:
    """Return what the page's script shows of each unit, as JSON that keeps no invisible letters.

    Args:
        material: The plan.
        found: Its units.
        ops: Operator of each node.
        kinds: The kinds of reasons that left nodes no choice.
    """
    home = {name: number for number, unit in enumerate(found) for name in unit.nodes}
    kind = {name: refusal.number for refusal in kinds for name in refusal.nodes}
    before = _before(material, home)
    reasons = material.plan["reasons"]
    units = [
        {
            "n": [visible(name) for name in unit.nodes],
            "o": [visible(ops.get(name, "")) for name in unit.nodes],
            "d": unit.device,
            "s": -1 if unit.stage is None else unit.stage,
            "c": _digits(unit.cpu_s),
            "g": _digits(unit.gpu_s),
            "f": list(unit.sources),
            "r": kind.get(unit.nodes[0], 0),
            "w": visible(reasons.get(unit.nodes[0], "")),
            "p": sorted(before[number]),
        }
        for number, unit in enumerate(found)
    ]
    return {"units": units}


def _digits(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _before(material: Material, home: Mapping[str, int]) -> list[set[int]]:
    """Return the units that each unit reads from."""
    nodes = material.topology.nodes
    found: list[set[int]] = [set() for _ in range(1 + max(home.values(), default=-1))]
    for node in nodes:
        here = home.get(node.name)
        if here is not None:
            found[here].update(home[nodes[place].name] for place in node.after if nodes[place].name in home)
    for number, before in enumerate(found):
        before.discard(number)
    return found


def _pixels_a_second(found: Sequence[Unit]) -> float:
    times = [placed_s(unit) or 0.0 for unit in found if unit.stage is not None]
    return min(ROWS * ROW_PX / (sum(times) or 1.0), ROW_PX / (max(times, default=0.0) or 1.0))


def _cheap_s(found: Sequence[Unit]) -> float:
    """Return the time up to which neighbours are folded: zero for a model that is small enough to be drawn in full."""
    staged = [unit for unit in found if unit.stage is not None]
    if sum(len(unit.nodes) for unit in staged) <= FULL_NODES:
        return 0.0
    times = sorted((placed_s(unit) or 0.0 for unit in staged), reverse=True)
    # Each dear unit stands alone and may leave a fold on either side.
    return times[min(len(times) - 1, MOST_BOXES // 2)]


def _folds(boxes: Sequence[tuple[Box, float]], cheap_s: float) -> Iterator[Fold]:
    run: list[Box] = []
    for box, time_s in boxes:
        cheap = bool(cheap_s) and time_s <= cheap_s
        if run and (not cheap or len(run) == MOST_FOLDED):
            yield _fold(run)
            run = []
        if cheap:
            run.append(box)
        else:
            yield _fold([box])
    if run:
        yield _fold(run)


def _fold(boxes: list[Box]) -> Fold:
    first, width = boxes[0], sum(box.width for box in boxes)
    if len(boxes) == 1:
        return Fold(boxes=(first,), label=first.label, width=width, device=first.device, spoken=first.spoken)
    common = Counter(box.label.partition(" +")[0] for box in boxes).most_common(NAMED_OPS)
    what = ", ".join(f"{label} ×{count}" if count > 1 else label for label, count in common)
    return Fold(
        boxes=tuple(boxes),
        label=f"{len(boxes)} groups",
        width=width,
        device=first.device,
        spoken=f"{len(boxes)} groups: {what}",
    )


def _box(number: int, unit: Unit, ops: Mapping[str, str], scale: float) -> Box:
    kinds = [ops.get(name, name) for name in unit.nodes]
    time_s = placed_s(unit)
    lead = next((op for op in kinds if op in MATRIX_OPS), kinds[0])
    label = lead if len(kinds) == 1 else f"{lead} +{len(kinds) - 1}"
    listed = "" if len(kinds) == 1 else f": {', '.join(kinds[:NAMED_OPS])}{', …' if len(kinds) > NAMED_OPS else ''}"
    return Box(
        number=number,
        label=label,
        width=round(scale * (time_s or 0.0), 1),
        device=unit.device,
        spoken=f"{label}{listed}, {seconds(time_s)}",
    )


def _arrives(plan: Mapping[str, Any], index: int, source: str) -> Iterator[str]:
    """Yield in words what a stage gets from earlier ones, the largest tensors first."""
    tensors = sorted((t for t in plan["boundary"] if index in t["to"]), key=lambda t: -(t["bytes"] or 0))
    for tensor in tensors[:NAMED_TENSORS]:
        moved = f", moved in {seconds(tensor['transfer_s'])} {source}".rstrip() if tensor["transfer_s"] else ""
        yield f"{tensor['tensor']} from stage {tensor['from']}, {size(tensor['bytes'])}{moved}"
    if len(tensors) > NAMED_TENSORS:
        rest = tensors[NAMED_TENSORS:]
        yield f"{counted(len(rest), 'smaller tensor')}, {size(sum(t['bytes'] or 0 for t in rest))}"
