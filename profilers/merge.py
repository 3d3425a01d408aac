"""Profiles of one model from several machines in one file, and each of them back again.

Machine `i` of a merged profile has the devices ``cpu:i`` and ``gpu:i``, so that the groups of each still cover the model
once; nothing is averaged or lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from cutset.errors import UsageError
from cutset.profilers.table import CostTable, GroupCost, Machine, SessionCost, TransferModel

Costs = TypeVar("Costs", SessionCost, GroupCost, TransferModel)


def merge(tables: Sequence[CostTable]) -> CostTable:
    """Return one profile that holds every machine of `tables`, in their order; the same profile twice counts once.

    Args:
        tables: Profiles of one model, at least one; merged ones are taken apart first.

    Raises:
        UsageError: If two are of different models.
    """
    parts: list[CostTable] = []
    for table in tables:
        parts += [part for part in split(table) if part not in parts]
    first = parts[0]
    other = next((part for part in parts if part.model.sha256 != first.model.sha256), None)
    if other is not None:
        raise UsageError(
            f"the profiles are of different models: {first.model.file} (sha256 {first.model.sha256[:12]}) and "
            f"{other.model.file} (sha256 {other.model.sha256[:12]})",
            hint="merge profiles of the very same file; to compare two exports: cutset profile --diff",
        )
    if len(parts) == 1:
        return first
    numbered = [_numbered(part, index) for index, part in enumerate(parts)]
    return replace(
        first,
        sessions=tuple(session for part in numbered for session in part.sessions),
        loaded=tuple(session for part in numbered for session in part.loaded),
        groups=tuple(group for part in numbered for group in part.groups),
        pieces=tuple(piece for part in numbered for piece in part.pieces),
        transfers=tuple(transfer for part in numbered for transfer in part.transfers),
        machines=tuple(_machine(part) for part in parts),
    )


def split(table: CostTable) -> tuple[CostTable, ...]:
    """Return the profile of each machine, as it was before `merge`; one that was never merged alone."""
    if not table.machines:
        return (table,)
    return tuple(_part(table, machine, index) for index, machine in enumerate(table.machines))


def one_machine(table: CostTable, index: int | None, *, device: str | None = None, where: str) -> CostTable:
    """Return the profile of one machine.

    Args:
        table: A profile, merged or not.
        index: Which machine; None for the only one that is possible.
        device: Where no index is given, only machines that priced this device are possible; if there is none, all are.
        where: The file, for the message.

    Raises:
        UsageError: If there is no such machine, or several are possible; the hint lists them.
    """
    parts = split(table)
    listed = "; ".join(f"{where}#{number}: {_title(part)}" for number, part in enumerate(parts))
    if index is not None:
        if index >= len(parts):
            raise UsageError(f"{where} holds {len(parts)} machine(s), there is no number {index}", hint=listed)
        return parts[index]
    possible = [part for part in parts if device is None or part.groups_on(device)] or list(parts)
    if len(possible) > 1:
        raise UsageError(f"{where} holds {len(possible)} machines to choose from", hint=f"name one: {listed}")
    return possible[0]


def _title(part: CostTable) -> str:
    gpu = (part.target or {}).get("name")
    return f"{part.environment.get('cpu', 'unknown CPU')}" + (f" with {gpu}" if gpu else "")


def _machine(part: CostTable) -> Machine:
    return Machine(
        model=part.model,
        environment=part.environment,
        target=part.target,
        shapes=part.shapes,
        affine=part.affine,
        coverage=part.coverage,
    )


def _numbered(part: CostTable, index: int) -> CostTable:
    def at(costs: tuple[Costs, ...]) -> tuple[Costs, ...]:
        return tuple(replace(cost, device=f"{cost.device}:{index}") for cost in costs)

    return replace(
        part,
        sessions=at(part.sessions),
        loaded=at(part.loaded),
        groups=at(part.groups),
        pieces=at(part.pieces),
        transfers=at(part.transfers),
    )


def _part(table: CostTable, machine: Machine, index: int) -> CostTable:
    suffix = f":{index}"

    def of(costs: tuple[Costs, ...]) -> tuple[Costs, ...]:
        return tuple(replace(cost, device=cost.device.removesuffix(suffix)) for cost in costs if cost.device.endswith(suffix))

    return CostTable(
        model=machine.model,
        target=machine.target,
        environment=machine.environment,
        shapes=machine.shapes,
        sessions=of(table.sessions),
        loaded=of(table.loaded),
        groups=of(table.groups),
        pieces=of(table.pieces),
        transfers=of(table.transfers),
        affine=machine.affine,
        coverage=machine.coverage,
    )
