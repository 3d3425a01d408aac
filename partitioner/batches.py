"""Costs at a batch size between two that were measured: each is affine in the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cutset.partitioner.atoms import Evidence
from cutset.partitioner.steps import Step
from cutset.profilers.table import CostTable, GroupCost, Latency, SessionCost

Dims = tuple[int, ...]


def between(small: Evidence, large: Evidence, batch: int) -> Evidence | None:
    """Return the evidence at `batch`, on the line through two measured batches; None where the two were fused differently.

    Args:
        small: Measured at the smaller batch.
        large: Measured at the larger one.
        batch: Between the two.
    """
    share = _share(small.table, large.table, batch)
    groups = _groups(small.table, large.table, share, batch)
    if groups is None:
        return None
    shapes = _shapes(small.table.shapes, large.table.shapes, share)
    table = replace(
        large.table,
        groups=groups,
        pieces=_pieces(small.table, large.table, share, batch),
        shapes=shapes,
        sessions=_sessions(small.table.sessions, large.table.sessions, share, batch),
        loaded=_sessions(small.table.loaded, large.table.loaded, share, batch),
    )
    return replace(large, table=table, graph=large.graph.with_measured(shapes, {}))


def fitted_steps(small: Sequence[Step], first: int, large: Sequence[Step], last: int) -> tuple[Step, ...] | None:
    """Return steps whose times lie on the line through two batch sizes; None where the two are not the same steps.

    Args:
        small: Steps of a placement at batch `first`.
        first: The smaller batch.
        large: Steps of the same placement at batch `last`.
        last: The larger batch.
    """
    if [(step.stage, step.resource) for step in small] != [(step.stage, step.resource) for step in large]:
        return None
    found = []
    for a, b in zip(small, large, strict=True):
        begin, end = a.seconds(first), b.seconds(last)
        each_s = min((end - begin) / (last - first), begin / first)
        found.append(replace(a, fixed_s=max(0.0, begin - each_s * first), each_s=max(0.0, each_s)))
    return tuple(found)


def batch_of(table: CostTable) -> int:
    """Return the batch that a table's groups were measured at."""
    return table.groups[0].batch if table.groups else 1


def _share(small: CostTable, large: CostTable, batch: int) -> float:
    first, last = batch_of(small), batch_of(large)
    return (batch - first) / (last - first)


def _groups(small: CostTable, large: CostTable, share: float, batch: int) -> tuple[GroupCost, ...] | None:
    other = {(group.device, group.nodes): group for group in small.groups}
    if other.keys() != {(group.device, group.nodes) for group in large.groups}:
        return None
    return tuple(_group(other[group.device, group.nodes], group, share, batch) for group in large.groups)


def _pieces(small: CostTable, large: CostTable, share: float, batch: int) -> tuple[GroupCost, ...]:
    """Return the pieces that were measured at both batches; the others keep their unfused price."""
    other = {piece.nodes: piece for piece in small.pieces}
    return tuple(_group(other[piece.nodes], piece, share, batch) for piece in large.pieces if piece.nodes in other)


def _group(a: GroupCost, b: GroupCost, share: float, batch: int) -> GroupCost:
    return replace(
        b,
        batch=batch,
        latency_s=_line(a.latency_s, b.latency_s, share),
        low_s=_line(a.low_s, b.low_s, share),
        high_s=_line(a.high_s, b.high_s, share),
        unfused_s={name: _value(a.unfused_s.get(name, seconds), seconds, share) for name, seconds in b.unfused_s.items()},
    )


def _sessions(
    small: tuple[SessionCost, ...], large: tuple[SessionCost, ...], share: float, batch: int
) -> tuple[SessionCost, ...]:
    """Return the last session of each table, which is the one at its batch, on the line between them."""
    if not small or not large:
        return large
    a, b = small[-1], large[-1]
    return (*large[:-1], replace(b, batch=batch, latency_s=_latency(a.latency_s, b.latency_s, share)))


def _latency(a: Latency, b: Latency, share: float) -> Latency:
    return replace(
        b,
        median=_value(a.median, b.median, share),
        p10=_value(a.p10, b.p10, share),
        p90=_value(a.p90, b.p90, share),
        low=_line(a.low, b.low, share),
        high=_line(a.high, b.high, share),
    )


def _shapes(small: Mapping[str, Dims], large: Mapping[str, Dims], share: float) -> dict[str, Dims]:
    return {
        name: tuple(round(_value(m, n, share)) for m, n in zip(small[name], dims, strict=True))
        if len(small.get(name, ())) == len(dims)
        else dims
        for name, dims in large.items()
    }


def _line(a: float | None, b: float | None, share: float) -> float | None:
    return None if a is None or b is None else _value(a, b, share)


def _value(a: float, b: float, share: float) -> float:
    return a + (b - a) * share
