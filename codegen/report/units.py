"""What the report's tables list: units (nodes that were costed and placed together) and why some had no choice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cutset.partitioner.reasons import WEIGHED, kind_of_reason
from cutset.profilers.table import CostTable, GroupCost
from cutset.profilers.workload import CLASSES, OTHER


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Nodes that run, cost and move together.

    Args:
        nodes: Their names, in graph order.
        device: ``cpu`` or ``gpu``.
        stage: Index of the stage that computes them, None for weights and dead nodes.
        cpu_s: Seconds a request on the CPU, None if unknown.
        gpu_s: Seconds a request on the GPU, None if unknown or impossible.
        reason: Why they had no choice; empty where the costs decided.
        sources: Where the times on the CPU and on the GPU came from; empty where there is none.
        work: Class of its leading operator, as `workload.CLASSES` names it.
        flops: Operations of a request, of the whole group that it is part of.
        bytes: Bytes over that group's border.
    """

    nodes: tuple[str, ...]
    device: str
    stage: int | None
    cpu_s: float | None
    gpu_s: float | None
    reason: str
    sources: tuple[str, str] = ("", "")
    work: str = OTHER
    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """One kind of reason, and the nodes it left no choice.

    Args:
        number: Place in the list, from 1.
        text: The reason; names that differ between the nodes are left out.
        device: Devices the nodes run on.
        nodes: The nodes, in graph order.
        seconds: What they take of a request where they run, as far as it is known.
    """

    number: int
    text: str
    device: str
    nodes: tuple[str, ...]
    seconds: float


def units(document: Mapping[str, Any], table: CostTable) -> list[Unit]:
    """Return every node of a plan in units, in graph order.

    A unit is a fused group of the cost table, or as much of it as shares stage and reason. A group whose nodes have
    different reasons was taken apart by the planner, and its parts are priced unfused.

    Args:
        document: The plan, as in ``plan.json``.
        table: The costs it was made from.
    """
    home = {name: stage["index"] for stage in document["stages"] for name in stage["nodes"]}
    gpu = {group.nodes: group for group in table.groups_on("gpu")}
    scale = 1 / document["batch"]
    found = []
    for nodes, group in _groups(document, table):
        reasons = {name: _forced(document["reasons"][name]) for name in nodes}
        whole = len({reason for name, reason in reasons.items() if name in home}) <= 1
        parts: dict[tuple[int | None, str, str], list[str]] = {}
        for name in nodes:
            key = (home.get(name), document["placement"][name], reasons[name])
            parts.setdefault(key, []).append(name)
        for (stage, device, reason), names in parts.items():
            on_gpu = None if _refused(document, names[0], reason) else gpu.get(nodes)
            costs = [None if stage is None else _cost(names, cost, scale, whole) for cost in (group, on_gpu)]
            found.append(
                Unit(
                    nodes=tuple(names),
                    device=device,
                    stage=stage,
                    reason=reason,
                    cpu_s=costs[0],
                    gpu_s=costs[1],
                    sources=(_source(group, costs[0]), _source(on_gpu, costs[1])),
                    work=_leading(group),
                    flops=scale * group.flops if group else 0.0,
                    bytes=scale * group.bytes if group else 0.0,
                )
            )
    return found


def _source(group: GroupCost | None, cost_s: float | None) -> str:
    return "" if group is None or cost_s is None else group.source


def _leading(group: GroupCost | None) -> str:
    """Return the class of the operator that leads a fused kernel."""
    known = [name for name in CLASSES if group is not None and name in group.work]
    return known[0] if known else OTHER


def _groups(document: Mapping[str, Any], table: CostTable) -> Iterator[tuple[tuple[str, ...], GroupCost | None]]:
    """Yield the CPU's groups, then each node of the plan that no group holds."""
    placed = document["placement"]
    grouped = set[str]()
    for group in table.groups_on("cpu"):
        if all(name in placed for name in group.nodes):
            grouped.update(group.nodes)
            yield group.nodes, group
    yield from (((name,), None) for name in placed if name not in grouped)


def _cost(names: list[str], group: GroupCost | None, scale: float, whole: bool) -> float | None:
    if group is None or group.latency_s is None:
        return None
    return scale * (group.latency_s if whole else sum(group.unfused_s.get(name, 0.0) for name in names))


def _refused(document: Mapping[str, Any], name: str, reason: str) -> bool:
    """Return whether the GPU cannot run a node; its modelled time, if there is one, would mean nothing."""
    return bool(reason) and name not in document["pins"] and document["placement"][name] == "cpu"


def _forced(reason: str) -> str:
    return "" if WEIGHED in reason else reason


def dearest(found: list[Unit], limit: int) -> list[Unit]:
    """Return the `limit` units that take longest on the device where they run, dearest first."""
    staged = [unit for unit in found if unit.stage is not None]
    return sorted(staged, key=lambda unit: -(placed_s(unit) or 0.0))[:limit]


def placed_s(unit: Unit) -> float | None:
    """Return the seconds a request of a unit on the device it was placed on, None if unknown."""
    return unit.cpu_s if unit.device == "cpu" else unit.gpu_s


def refusals(found: list[Unit]) -> list[Refusal]:
    """Return the kinds of reasons that left nodes no choice, the most frequent first.

    Reasons that differ only in quoted names are one kind, or a model of a thousand uint8 tensors would have a thousand.
    """
    kinds: dict[str, list[Unit]] = {}
    for unit in found:
        if unit.reason:
            kinds.setdefault(kind_of_reason(unit.reason), []).append(unit)
    ordered = sorted(kinds.items(), key=lambda item: -sum(len(unit.nodes) for unit in item[1]))
    return [
        Refusal(
            number=number,
            text=members[0].reason if len({unit.reason for unit in members}) == 1 else kind,
            device=" and ".join(sorted({unit.device.upper() for unit in members})),
            nodes=tuple(name for unit in members for name in unit.nodes),
            seconds=sum(placed_s(unit) or 0.0 for unit in members),
        )
        for number, (kind, members) in enumerate(ordered, start=1)
    ]
