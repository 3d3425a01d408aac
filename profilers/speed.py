"""How much slower a machine was in one profile than in another, and a profile at the speed of another.

A machine that others share is slower in one minute than in the next (measured: by 70 %), and all it runs is slower alike.
So seconds are not compared with seconds: the same work, done in both, says how much slower the machine was, and what is
slower than that has become dearer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cutset.profilers.compare import CLOCK_S, CONFIDENCE_Z
from cutset.profilers.matching import matched
from cutset.profilers.table import CostTable, GroupCost, Latency, SessionCost

ENOUGH_SHARE = 0.5
"""Least share of the measured time that has to be the same work for that to be a measure of speed."""

FEWEST_GROUPS = 3

TINY_S = 5 * CLOCK_S
"""Times of kernels that are shorter say more of the clock than of the machine."""

MAD_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """How many times longer the same work takes in one profile than in another.

    Args:
        factor: That number; one where nothing says so.
        error: Share by which a whole model's time, divided by it, may be off: 95 % of the time it is less.
        share: Share of the time that the same work takes.
        known: Whether there was enough of it.
    """

    factor: float = 1.0
    error: float = 0.0
    share: float = 0.0
    known: bool = False


def same_work(reference: CostTable, table: CostTable, device: str = "cpu") -> Speed:
    """Return how many times longer the work that both measured takes in `table`.

    The factor is the median over groups, each weighed by its time: a group that became dearer by itself does not move it
    as long as most of the time is in others.
    """
    pairs = [
        (pair.a.latency_s, pair.b.latency_s)
        for pair in matched(reference, table)
        if pair.same_work and pair.a.device == device and _measured(pair.a) and _measured(pair.b)
    ]
    seen = [(a, b) for a, b in pairs if a is not None and b is not None and min(a, b) >= TINY_S]
    total = sum(group.latency_s or 0.0 for group in reference.groups_on(device))
    share = sum(a for a, _ in seen) / total if total else 0.0
    if len(seen) < FEWEST_GROUPS or share < ENOUGH_SHARE:
        return Speed(share=share)
    then, now = np.array(seen).T
    ratios, weights = now / then, then / then.sum()
    factor = _weighted_median(ratios, weights)
    spread = MAD_SIGMA * _weighted_median(np.abs(ratios / factor - 1), weights)
    error = CONFIDENCE_Z * spread * math.sqrt(float((weights**2).sum()))
    return Speed(factor=factor, error=error, share=share, known=True)


def _measured(group: GroupCost) -> bool:
    return group.source == "measured" and group.latency_s is not None


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def at_speed(table: CostTable, speeds: Mapping[str, Speed], *, contention_of: CostTable | None = None) -> CostTable:
    """Return a profile as it would be where its machine is as fast as that of another.

    Args:
        table: The profile.
        speeds: How many times longer the same work takes in it, by device; other devices stay as they are.
        contention_of: A profile whose ratio of busy to idle cores is taken instead of the profile's own.
    """

    def group(cost: GroupCost) -> GroupCost:
        speed = speeds.get(cost.device)
        if speed is None or cost.source != "measured":
            return cost
        return replace(
            cost,
            latency_s=_over(cost.latency_s, speed.factor),
            low_s=_over(cost.low_s, speed.factor),
            high_s=_over(cost.high_s, speed.factor),
            unfused_s={name: value / speed.factor for name, value in cost.unfused_s.items()},
        )

    def session(cost: SessionCost) -> SessionCost:
        speed = speeds.get(cost.device)
        if speed is None or cost.source != "measured":
            return cost
        return replace(cost, latency_s=_slower(cost.latency_s, 1 / speed.factor, speed))

    found = replace(
        table,
        groups=tuple(group(cost) for cost in table.groups),
        sessions=tuple(session(cost) for cost in table.sessions),
        loaded=tuple(session(cost) for cost in table.loaded),
        pieces=tuple(group(cost) for cost in table.pieces),
        affine=_affine(table.affine, speeds.get("cpu")),
    )
    return found if contention_of is None else _with_contention(found, contention_of)


def _over(value: float | None, factor: float) -> float | None:
    return None if value is None else value / factor


def _affine(affine: tuple[float, float] | None, speed: Speed | None) -> tuple[float, float] | None:
    return affine if affine is None or speed is None else (affine[0] / speed.factor, affine[1] / speed.factor)


def _slower(latency: Latency, factor: float, speed: Speed | None = None) -> Latency:
    """Return a latency times a factor; with a speed the interval is what is uncertain about that.

    The groups sum to the session, so whatever made all of a run slower is in the factor, and how sure the median was of
    itself no longer matters.
    """
    low, high = latency.low, latency.high
    if speed is not None and speed.known:
        low, high = latency.median * (1 - speed.error), latency.median * (1 + speed.error)
    return replace(
        latency,
        median=latency.median * factor,
        p10=latency.p10 * factor,
        p90=latency.p90 * factor,
        low=None if low is None else low * factor,
        high=None if high is None else high * factor,
    )


def _with_contention(table: CostTable, other: CostTable) -> CostTable:
    loaded = []
    for cost in table.loaded:
        alone, others = table.session(cost.device), (other.session(cost.device), other.session(cost.device, loaded=True))
        if alone is None or others[0] is None or others[1] is None or not others[0].latency_s.median:
            loaded.append(cost)
            continue
        ratio = others[1].latency_s.median / others[0].latency_s.median
        loaded.append(replace(cost, latency_s=_slower(alone.latency_s, ratio)))
    return replace(table, loaded=tuple(loaded))
