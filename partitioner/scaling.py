"""A cost table in which some nodes cost more or less than they did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cutset.profilers.table import CostTable, GroupCost, SessionCost


def scaled(table: CostTable, device: str, factors: Mapping[str, float]) -> CostTable:
    """Return the table with the costs of some nodes on one device multiplied.

    Args:
        table: The costs.
        device: ``cpu`` or ``gpu``.
        factors: Factor of each node that changes; a group of which some change is scaled by their share of its work.
    """
    if all(factor == 1.0 for factor in factors.values()):
        return table
    return replace(
        table,
        groups=tuple(_scaled(group, factors) if group.device == device else group for group in table.groups),
        pieces=tuple(_scaled(piece, factors) if piece.device == device else piece for piece in table.pieces),
    )


def scaled_sessions(table: CostTable, device: str, factor: float) -> CostTable:
    """Return the table with every latency of the whole model on one device multiplied."""

    def times(session: SessionCost) -> SessionCost:
        if session.device != device:
            return session
        latency = session.latency_s
        ends = {name: getattr(latency, name) for name in ("median", "p10", "p90", "low", "high")}
        changed: dict[str, Any] = {name: None if value is None else value * factor for name, value in ends.items()}
        return replace(session, latency_s=replace(latency, **changed))

    return replace(table, sessions=tuple(map(times, table.sessions)), loaded=tuple(map(times, table.loaded)))


def _scaled(group: GroupCost, factors: Mapping[str, float]) -> GroupCost:
    factor = _factor(group, factors)

    def times(value: float | None) -> float | None:
        return None if value is None else value * factor

    return replace(
        group,
        latency_s=times(group.latency_s),
        low_s=times(group.low_s),
        high_s=times(group.high_s),
        alone_s=times(group.alone_s),
        unfused_s={name: seconds * factors.get(name, 1.0) for name, seconds in group.unfused_s.items()},
    )


def _factor(group: GroupCost, factors: Mapping[str, float]) -> float:
    """Return the mean factor of a group's nodes, each by its time unfused."""
    weights = {name: group.unfused_s.get(name, 0.0) for name in group.nodes if name in factors or name in group.unfused_s}
    total = sum(weights.values())
    if total <= 0:
        known = [factors[name] for name in group.nodes if name in factors]
        return sum(known) / len(known) if known else 1.0
    return sum(seconds * factors.get(name, 1.0) for name, seconds in weights.items()) / total
