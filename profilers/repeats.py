"""Several profiles of one model on one machine as one, and two of them as they can be compared."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cutset.profilers.speed import Speed, at_speed, same_work
from cutset.profilers.table import CostTable, GroupCost, Latency, SessionCost

RUNNERS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-extensions", "tensorrt", "tensorrt-rtx")
"""Packages that run a model: between two versions of one, the same groups need not be the same work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """One or more profiles of one model on one machine as one.

    Args:
        table: The medians, at the speed of the fastest.
        speeds: How many times slower than in the fastest the CPU was in each.
    """

    table: CostTable
    speeds: tuple[float, ...] = (1.0,)


def combine(tables: Sequence[CostTable]) -> Repeats:
    """Return repeated profiles of one model as one, at the speed of the fastest: the machine least disturbed.

    Args:
        tables: At least one.
    """
    fastest = min(tables, key=_total)
    speeds = [{device: same_work(fastest, table, device) for device in ("cpu", "gpu")} for table in tables]
    pooled = pool([at_speed(table, speed) for table, speed in zip(tables, speeds, strict=True)])
    return Repeats(table=pooled, speeds=tuple(speed["cpu"].factor for speed in speeds))


def _total(table: CostTable) -> float:
    return sum(group.latency_s or 0.0 for group in table.groups_on("cpu"))


def comparable(then: Repeats, now: Repeats) -> tuple[CostTable, CostTable, Speed]:
    """Return the two tables with times that can be compared, and how much slower the machine was in the second.

    Of the same work by the same libraries, the second is brought to the speed of the first. Otherwise both stay as they
    are, with intervals as wide as the speed of the machine varied between their repeats.
    """
    speeds = {device: same_work(then.table, now.table, device) for device in ("cpu", "gpu")}
    cpu = speeds["cpu"]
    if runners(then.table) != runners(now.table) or not cpu.known:
        return _spread(then), _spread(now), Speed(share=cpu.share)
    still = {device: Speed(known=speed.known) for device, speed in speeds.items()}
    return at_speed(then.table, still), at_speed(now.table, speeds, contention_of=then.table), cpu


def runners(table: CostTable) -> dict[str, str]:
    """Return the versions of the packages that run the model."""
    packages = table.environment.get("packages", {})
    return {name: packages[name] for name in RUNNERS if name in packages}


def _spread(repeats: Repeats) -> CostTable:
    """Return the table with intervals that hold every repeat at its own speed."""
    low, high = min(repeats.speeds), max(repeats.speeds)

    def session(cost: SessionCost) -> SessionCost:
        if cost.device != "cpu" or cost.source != "measured":
            return cost
        latency = cost.latency_s
        wide = replace(latency, low=_end(latency, "low") * low, high=_end(latency, "high") * high)
        return replace(cost, latency_s=wide)

    return replace(repeats.table, sessions=tuple(session(cost) for cost in repeats.table.sessions))


def _end(latency: Latency, end: str) -> float:
    value: float | None = getattr(latency, end)
    return latency.median if value is None else value


def pool(tables: Sequence[CostTable]) -> CostTable:
    """Return one profile with the median of every time, and intervals that hold those of all repeats.

    Args:
        tables: Profiles of one model, at one speed, at least one.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    sessions = _pooled_sessions([table.sessions for table in tables])
    loaded = _pooled_sessions([table.loaded for table in tables])
    return replace(first, groups=_pooled_groups(tables, sessions), sessions=sessions, loaded=loaded)


def _pooled_sessions(repeats: Sequence[Sequence[SessionCost]]) -> tuple[SessionCost, ...]:
    def key(cost: SessionCost) -> tuple[str, int, int]:
        return cost.device, cost.batch, cost.workers

    alike = {
        key(cost): [other.latency_s for costs in repeats for other in costs if key(other) == key(cost)] for cost in repeats[0]
    }
    return tuple(replace(cost, latency_s=_pooled_latency(alike[key(cost)])) for cost in repeats[0])


def _pooled_latency(found: Sequence[Latency]) -> Latency:
    return Latency(
        median=statistics.median(latency.median for latency in found),
        p10=min(latency.p10 for latency in found),
        p90=max(latency.p90 for latency in found),
        samples=sum(latency.samples for latency in found),
        runs=sum(latency.runs for latency in found),
        low=min(_end(latency, "low") for latency in found),
        high=max(_end(latency, "high") for latency in found),
        settled=all(latency.settled for latency in found),
        clock=found[0].clock,
    )


def _pooled_groups(tables: Sequence[CostTable], sessions: Sequence[SessionCost]) -> tuple[GroupCost, ...]:
    """Return the groups of the first profile with the medians, which are made to sum to the session's again."""
    repeats: dict[tuple[str, tuple[str, ...]], list[GroupCost]] = {}
    for table in tables:
        for cost in table.groups:
            repeats.setdefault((cost.device, cost.nodes), []).append(cost)
    groups = [_median_group(repeats[cost.device, cost.nodes]) for cost in tables[0].groups]
    for session in sessions:
        total = sum(g.latency_s or 0.0 for g in groups if (g.device, g.batch) == (session.device, session.batch))
        scale = session.latency_s.median / total if total and session.source == "measured" else 1.0
        groups = [_times(g, scale) if (g.device, g.batch) == (session.device, session.batch) else g for g in groups]
    return tuple(groups)


def _median_group(repeats: Sequence[GroupCost]) -> GroupCost:
    def over(values: Sequence[float | None], choose: Callable[[list[float]], float]) -> float | None:
        known = [value for value in values if value is not None]
        return choose(known) if known else None

    names = repeats[0].unfused_s
    return replace(
        repeats[0],
        latency_s=over([group.latency_s for group in repeats], statistics.median),
        low_s=over([group.low_s for group in repeats], min),
        high_s=over([group.high_s for group in repeats], max),
        unfused_s={name: statistics.median(g.unfused_s[name] for g in repeats if name in g.unfused_s) for name in names},
    )


def _times(group: GroupCost, factor: float) -> GroupCost:
    return replace(group, latency_s=None if group.latency_s is None else group.latency_s * factor)
