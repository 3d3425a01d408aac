"""Groups of one model that compute the same share one cost: a layer that is repeated is measured as often as it occurs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from cutset.profilers.compare import CLOCK_S, KERNEL_NOISE
from cutset.profilers.table import GroupCost


def pooled(groups: Sequence[GroupCost]) -> tuple[GroupCost, ...]:
    """Return the groups, those of one signature whose times differ by no more than noise with the mean of their times.

    What a kernel takes can depend on where in the model it runs (what is in the cache, which values it meets), so times
    further apart are left apart: in order of size, two neighbours belong together if kernels vary that much between
    two sessions. The sum over all groups stays what it was.

    Args:
        groups: Of one device, measured in one run; a group without a signature or a time equals no other.
    """
    alike: dict[str, list[int]] = {}
    for index, group in enumerate(groups):
        if group.signature and group.latency_s is not None:
            alike.setdefault(group.signature, []).append(index)
    result = list(groups)
    for indices in alike.values():
        for cluster in _clusters(groups, sorted(indices, key=lambda index: _seconds(groups[index]))):
            mean_s = sum(_seconds(groups[index]) for index in cluster) / len(cluster)
            for index in cluster:
                result[index] = _at(groups[index], mean_s)
    return tuple(result)


def _clusters(groups: Sequence[GroupCost], ordered: Sequence[int]) -> Iterator[list[int]]:
    """Yield runs of `ordered` without a gap that is more than noise."""
    cluster = [ordered[0]]
    for before, after in pairwise(ordered):
        if _seconds(groups[after]) > _seconds(groups[before]) * (1 + KERNEL_NOISE) + CLOCK_S:
            yield cluster
            cluster = []
        cluster.append(after)
    yield cluster


def _seconds(group: GroupCost) -> float:
    return group.latency_s or 0.0


def _at(group: GroupCost, seconds: float) -> GroupCost:
    """Return `group` at another time, its interval as wide for its time as before."""
    factor = seconds / group.latency_s if group.latency_s else 1.0
    low_s, high_s = (None if end is None else end * factor for end in (group.low_s, group.high_s))
    return replace(group, latency_s=seconds, low_s=low_s, high_s=high_s)
