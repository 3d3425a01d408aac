"""Which group of one profile is which of another: by nodes in the same file, by what they compute in two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cutset.profilers.table import CostTable, GroupCost


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A group in both profiles; of the same work unless its nodes compute something else in the second."""

    a: GroupCost
    b: GroupCost
    same_work: bool


def matched(a: CostTable, b: CostTable) -> list[Pair]:
    """Return the groups that are in both profiles, in the first's order.

    Of the very same file they are those of the same nodes. Of two files they are those that compute the same, under the
    same names where there are such; then those of the same nodes, which may compute something else.
    """
    same_model = a.model.sha256 == b.model.sha256
    keys = (_by_nodes,) if same_model else (_by_work_and_nodes, _by_work, _by_nodes)
    found: dict[int, tuple[GroupCost, bool]] = {}
    taken: set[int] = set()
    for key in keys:
        waiting: dict[tuple[Any, ...], list[GroupCost]] = {}
        for group in b.groups:
            if group.canonical and id(group) not in taken:
                waiting.setdefault(key(group), []).append(group)
        for group in a.groups:
            others = waiting.get(key(group), []) if group.canonical and id(group) not in found else []
            if others:
                found[id(group)] = others[0], same_model or key is not _by_nodes
                taken.add(id(others.pop(0)))
    return [Pair(a=group, b=found[id(group)][0], same_work=found[id(group)][1]) for group in a.groups if id(group) in found]


def _by_nodes(group: GroupCost) -> tuple[Any, ...]:
    return group.device, *sorted(group.canonical)


def _by_work(group: GroupCost) -> tuple[Any, ...]:
    return group.device, group.signature or f"unsigned {group.canonical}"


def _by_work_and_nodes(group: GroupCost) -> tuple[Any, ...]:
    return (*_by_work(group), *sorted(group.canonical))
