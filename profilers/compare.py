"""What differs between two profiles, and whether it is more than the noise of measuring.

Two times differ significantly if their intervals do not meet and they are further apart than the same profile taken
twice. The interval of a measured time is the confidence interval of its median, for one group widened by what kernels
vary between sessions; that of a replayed or modelled one is the interval it carries.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cutset.errors import UsageError
from cutset.profilers.matching import Pair, matched
from cutset.profilers.table import CostTable, GroupCost, SessionCost

DIFF_SCHEMA = "cutset.profile-diff/1"

NOISE = 0.05
"""Totals of two profiles taken one after the other agree within this; a smaller difference is none."""

CONFIDENCE_Z = 1.96
"""Standard errors on each side of a median: a 95 % interval; two that do not meet differ at about 99 %."""

DECILES_Z = 2.563
"""Standard deviations between the 10th and the 90th percentile of a normal distribution."""

MEDIAN_ERROR = 1.2533
"""Standard error of a median over that of a mean, for a normal distribution."""

KERNEL_NOISE = 0.1
"""Share by which a kernel's time is off from one session to the next, with memory and neighbours.

Measured: 95 % of 600 groups of 20 us to 1 ms agree within twice this between two profiles on a busy machine.
"""

CLOCK_S = 1e-6
"""Resolution of the times in onnxruntime's trace."""

Verdict = Literal["same", "slower", "faster"]

Interval = tuple[float, float, float]
"""A time with the ends of its interval."""

_VOLATILE = frozenset({"load_average"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One time in both profiles.

    Args:
        what: Name of the group's first node in the first profile, or ``total``.
        nodes: How many nodes the group has.
        device: Where it runs.
        a_s: Seconds in the first profile.
        b_s: Seconds in the second.
        ratio: Second over first; None if the first is zero.
        verdict: Whether the second is slower or faster by more than noise.
        sources: Where the two numbers come from.
        same_work: Whether both compute the same.
    """

    what: str
    nodes: int
    device: str
    a_s: float
    b_s: float
    ratio: float | None
    verdict: Verdict
    sources: tuple[str, str]
    same_work: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A circumstance that is not the same: hardware, version, batch, threads, sizes."""

    what: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Unmatched:
    """A group that only one of the profiles has: the other groups its nodes in another way, or has no cost for it."""

    what: str
    nodes: int
    device: str
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All differences between two profiles.

    Args:
        same_model: Whether both are of the very same file; if not, groups are matched by what they compute.
        changes: What makes the two incomparable, in part.
        totals: The whole model, a device each.
        groups: Every group in both, by how many seconds it changed, most first.
        only_a: Groups in the first profile alone.
        only_b: Groups in the second profile alone.
    """

    same_model: bool
    changes: tuple[Change, ...]
    totals: tuple[Difference, ...]
    groups: tuple[Difference, ...]
    only_a: tuple[Unmatched, ...]
    only_b: tuple[Unmatched, ...]
    schema: str = DIFF_SCHEMA


def compare(a: CostTable, b: CostTable) -> Comparison:
    """Return what differs from profile `a` to profile `b`.

    Raises:
        UsageError: If one is merged; take it apart first (`merge.one_machine`).
    """
    if a.machines or b.machines:
        raise UsageError("a merged profile holds several machines, of which one can be compared at a time")
    pairs = matched(a, b)
    priced = [pair for pair in pairs if pair.a.latency_s is not None and pair.b.latency_s is not None]
    groups = [_group_difference(pair, _session(a, pair.a), _session(b, pair.b)) for pair in priced]
    return Comparison(
        same_model=a.model.sha256 == b.model.sha256,
        changes=tuple(_changes(a, b)),
        totals=tuple(_totals(a, b)),
        groups=tuple(sorted(groups, key=lambda found: -abs(found.b_s - found.a_s))),
        only_a=_only(a, {id(pair.a) for pair in priced}),
        only_b=_only(b, {id(pair.b) for pair in priced}),
    )


def _only(table: CostTable, paired: Container[int]) -> tuple[Unmatched, ...]:
    """Return the groups that have a cost in this profile and none in the other."""
    return tuple(
        Unmatched(what=group.canonical[0], nodes=len(group.canonical), device=group.device, latency_s=group.latency_s)
        for group in table.groups
        if group.canonical and group.latency_s is not None and id(group) not in paired
    )


def _session(table: CostTable, group: GroupCost) -> SessionCost | None:
    alike = (s for s in table.sessions if (s.device, s.batch) == (group.device, group.batch))
    return next(alike, None)


def _group_difference(pair: Pair, in_a: SessionCost | None, in_b: SessionCost | None) -> Difference:
    a = (pair.a.latency_s or 0.0, *_group_interval(pair.a, in_a))
    b = (pair.b.latency_s or 0.0, *_group_interval(pair.b, in_b))
    return Difference(
        what=pair.a.canonical[0],
        nodes=len(pair.a.canonical),
        device=pair.a.device,
        a_s=a[0],
        b_s=b[0],
        ratio=_ratio(a, b),
        verdict=_verdict(a, b),
        sources=(pair.a.source, pair.b.source),
        same_work=pair.same_work,
    )


def _ratio(a: Interval, b: Interval) -> float | None:
    return b[0] / a[0] if a[0] > 0 else None


def _group_interval(group: GroupCost, session: SessionCost | None) -> tuple[float, float]:
    """Return where the group's true time is: of a measured one a confidence interval, else the interval it carries."""
    middle = group.latency_s or 0.0
    if group.source == "measured" and session is not None and session.latency_s.median > 0:
        low, high = _session_interval(session)
        half = ((high - low) / 2 / session.latency_s.median + KERNEL_NOISE) * middle + CLOCK_S
        return middle - half, middle + half
    return middle if group.low_s is None else group.low_s, middle if group.high_s is None else group.high_s


def _session_interval(session: SessionCost) -> tuple[float, float]:
    """Return the confidence interval of the session's median: as measured, else from its deciles and repeats."""
    latency = session.latency_s
    if latency.low is not None and latency.high is not None:
        return latency.low, latency.high
    deviation = (latency.p90 - latency.p10) / DECILES_Z
    half = CONFIDENCE_Z * MEDIAN_ERROR * deviation / math.sqrt(max(1, latency.samples))
    return latency.median - half, latency.median + half


def _totals(a: CostTable, b: CostTable) -> Iterator[Difference]:
    """Yield the whole model on each device that both priced: sessions where both ran it, else the sum of the groups."""
    for device in dict.fromkeys(group.device for group in a.groups):
        left, right = a.groups_on(device), b.groups_on(device)
        if not any(group.latency_s is not None for group in left) or not any(group.latency_s is not None for group in right):
            continue
        ran = a.session(device), b.session(device)
        if ran[0] is not None and ran[1] is not None:
            ends = [(s.latency_s.median, *_session_interval(s)) for s in ran if s is not None]
        else:
            ends = [_sum(left), _sum(right)]
        yield Difference(
            what="total",
            nodes=sum(len(group.canonical) for group in left),
            device=device,
            a_s=ends[0][0],
            b_s=ends[1][0],
            ratio=_ratio(*ends),
            verdict=_verdict(*ends),
            sources=(_sources(left), _sources(right)),
        )


def _sum(groups: Sequence[GroupCost]) -> Interval:
    priced = [(group.latency_s, *_group_interval(group, None)) for group in groups if group.latency_s is not None]
    middle, low, high = (sum(column) for column in zip(*priced, strict=True)) if priced else (0.0, 0.0, 0.0)
    return middle, low, high


def _sources(groups: Sequence[GroupCost]) -> str:
    return "+".join(dict.fromkeys(group.source for group in groups))


def _verdict(a: Interval, b: Interval) -> Verdict:
    if abs(b[0] - a[0]) <= NOISE * min(a[0], b[0]):
        return "same"
    return "slower" if b[1] > a[2] else "faster" if b[2] < a[1] else "same"


def _changes(a: CostTable, b: CostTable) -> Iterator[Change]:
    """Yield the circumstances that differ: model, machine, versions, GPU, batch and threads, sizes."""
    if a.model.sha256 != b.model.sha256:
        yield Change(what="model", a=a.model.sha256, b=b.model.sha256)
    left, right = dict(_flat(a.environment)), dict(_flat(b.environment))
    for name in sorted({*left, *right}):
        if left.get(name) != right.get(name):
            yield Change(what=name, a=left.get(name), b=right.get(name))
    if (a.target or {}).get("name") != (b.target or {}).get("name"):
        yield Change(what="target", a=(a.target or {}).get("name"), b=(b.target or {}).get("name"))
    for device in dict.fromkeys(session.device for session in (*a.sessions, *b.sessions)):
        here, there = a.session(device), b.session(device)
        if here is not None and there is not None:
            for name in ("backend", "batch", "threads"):
                if getattr(here, name) != getattr(there, name):
                    yield Change(what=f"{device} {name}", a=getattr(here, name), b=getattr(there, name))
    value = next((name for name, shape in a.shapes.items() if name in b.shapes and b.shapes[name] != shape), None)
    if value is not None:
        yield Change(what=f"shape of `{value}`", a=list(a.shapes[value]), b=list(b.shapes[value]))


def _flat(environment: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in environment.items():
        if name in _VOLATILE:
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value  # as a file would hold it
