"""Costs replayed from a profile taken elsewhere: on another machine, with another library, of another export of the model.

A group is known again by what it computes, or by its nodes where the file is of the very same model. What is found keeps
the time, the interval and the source that the file gives it; nothing is scaled to this machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from cutset.profilers.table import CostTable, GroupCost, Source


def carried(source: Source) -> Source:
    """Return what a number's source becomes in a replay: a measured one is recorded, a modelled one stays modelled."""
    return "modelled" if source == "modelled" else "recorded"


class Recording:
    """The groups of one device of a recorded profile, to be found by what they compute.

    Args:
        table: The profile.
        device: Device whose groups are replayed.
        same_run: Whether the profile is of this very model at these input sizes, so that node names say the same.
    """

    def __init__(self, table: CostTable, device: str = "gpu", *, same_run: bool) -> None:
        self.groups = table.groups_on(device)
        self._by_signature: dict[str, list[GroupCost]] = {}
        self._by_node: dict[str, GroupCost] = {}
        for group in self.groups:
            if group.signature:
                self._by_signature.setdefault(group.signature, []).append(group)
            if same_run:
                self._by_node.update(dict.fromkeys(group.canonical, group))

    def find(self, group: GroupCost) -> GroupCost | None:
        """Return the recorded cost of `group`, under its node names, or None if nothing in the recording is the same.

        By signature first: of several that compute the same, the one of the same nodes, else their mean, which keeps
        sums, with the widest of their intervals. Else by names: the recorded groups that consist of just these nodes.
        """
        alike = self._by_signature.get(group.signature, []) if group.signature else []
        same_nodes = [found for found in alike if self._by_node.get(next(iter(group.canonical), "")) is found]
        found = _mean(same_nodes or alike, group) if alike else self._by_names(group)
        if found is None:
            return None
        return replace(
            found,
            nodes=group.nodes,
            device="gpu",
            batch=group.batch,
            source=carried(found.source),
            flops=group.flops,
            bytes=group.bytes,
            signature=group.signature,
            canonical=group.canonical,
            work=group.work,
        )

    def _by_names(self, group: GroupCost) -> GroupCost | None:
        """Return the sum of the recorded groups whose nodes together are those of `group`."""
        parts = {found.nodes: found for name in group.canonical if (found := self._by_node.get(name)) is not None}
        names = sorted(name for part in parts.values() for name in part.canonical)
        return _sum(list(parts.values())) if names and names == sorted(group.canonical) else None


def _mean(alike: Sequence[GroupCost], group: GroupCost) -> GroupCost:
    """Return one cost for groups that compute the same, in the node names of `group`."""
    timed = [found for found in alike if found.latency_s is not None]
    if not timed:
        return alike[0]
    alone = [_unfused(found) for found in timed]
    return replace(
        timed[0],
        source=_weakest(timed),
        latency_s=fmean(found.latency_s or 0.0 for found in timed),
        low_s=min(_low(found) for found in timed),
        high_s=max(_high(found) for found in timed),
        unfused_s={name: fmean(prices[index] for prices in alone) for index, name in enumerate(group.canonical)},
    )


def _sum(parts: Sequence[GroupCost]) -> GroupCost:
    """Return the cost of recorded groups that are one group here; fused as one, they would cost no more."""
    refused = next((part for part in parts if part.latency_s is None), None)
    if refused is not None or len(parts) == 1:
        return refused or parts[0]
    unfused = {name: price for part in parts for name, price in zip(part.canonical, _unfused(part), strict=True)}
    return replace(
        parts[0],
        source=_weakest(parts),
        latency_s=sum(part.latency_s or 0.0 for part in parts),
        low_s=sum(map(_low, parts)),
        high_s=sum(map(_high, parts)),
        unfused_s=unfused,
    )


def _unfused(group: GroupCost) -> list[float]:
    """Return the price of each node alone, in canonical order; one that was not recorded costs what the whole group does."""
    return [group.unfused_s.get(name, group.latency_s or 0.0) for name in group.canonical]


def _weakest(groups: Sequence[GroupCost]) -> Source:
    return "modelled" if any(group.source == "modelled" for group in groups) else "recorded"


def _low(group: GroupCost) -> float:
    return (group.latency_s or 0.0) if group.low_s is None else group.low_s


def _high(group: GroupCost) -> float:
    return (group.latency_s or 0.0) if group.high_s is None else group.high_s
