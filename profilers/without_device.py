"""GPU costs on a machine that has not got the GPU: recorded before calibrated before data sheet, group by group.

Each provider prices a group or passes it on; each number keeps the source and the interval of the one that gave it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from cutset.advisory import reason_of, skip
from cutset.errors import UnknownShapeError, UsageError
from cutset.graph.model import ModelGraph
from cutset.profilers import calibrated
from cutset.profilers.calibrated import calibrate, calibrated_group
from cutset.profilers.datasheets import Datasheet, Precision, datasheets
from cutset.profilers.recorded import Recording, carried
from cutset.profilers.roofline import model_group, transfer_times
from cutset.profilers.table import CostTable, Coverage, GroupCost, TransferModel

DATASHEET_BACKEND = "roofline"

Provider = Callable[[GroupCost], GroupCost | None]
"""Returns what a group costs on the GPU, or None to ask the next one."""


def with_gpu(graph: ModelGraph, table: CostTable, target: Datasheet | CostTable, precision: Precision = "fp32") -> CostTable:
    """Return `table` with the costs of the target's GPU: every group, each of its nodes alone, and transfers.

    Args:
        graph: The model, with the shapes of the run.
        table: Costs of the CPU.
        target: Data sheet of the GPU, or a profile taken where it is.
        precision: Of what the data sheet models.

    Raises:
        UsageError: If the profile holds no GPU costs, or nothing says what a transfer costs.
    """
    if isinstance(target, Datasheet):
        return replace(
            table,
            target={"id": target.id, "name": target.name, "source": "modelled"},
            groups=table.groups + _priced(table, [partial(datasheet_group, graph, sheet=target, precision=precision)]),
            transfers=transfer_times(target),
        )
    return _replayed(graph, table, target)


def _replayed(graph: ModelGraph, table: CostTable, recorded: CostTable) -> CostTable:
    groups = recorded.groups_on("gpu")
    if not groups:
        raise UsageError("the recorded profile holds no GPU costs", hint="record it with `cutset profile --target`")
    same_run = recorded.model.sha256 == table.model.sha256 and all(
        recorded.shapes.get(spec.name) == table.shapes.get(spec.name) for spec in graph.inputs
    )
    sheet = sheet_of(recorded.target)
    providers: list[Provider] = [Recording(recorded, same_run=same_run).find]
    fitted = calibrate([groups], sheet)
    if fitted is not None:
        providers.append(lambda group: calibrated_group(graph, group, fitted))
    if sheet is not None:
        providers.append(partial(datasheet_group, graph, sheet=sheet))
    priced = _priced(table, providers)
    whole = all(group.source == "recorded" for group in priced if group.latency_s)
    return replace(
        table,
        target={**(recorded.target or {}), "source": "recorded" if whole else "modelled"},
        groups=table.groups + priced,
        transfers=_transfers(recorded, sheet),
        coverage=coverage_of(table.groups, priced),
    )


def _priced(table: CostTable, providers: Sequence[Provider]) -> tuple[GroupCost, ...]:
    return tuple(_price(group, providers) for group in table.groups_on("cpu"))


def _price(group: GroupCost, providers: Sequence[Provider]) -> GroupCost:
    """Return the first provider's answer that is a cost, else the last refusal."""
    refusal = None
    for provider in providers:
        try:
            found = provider(group)
        except UsageError:
            raise
        except Exception as error:  # one group without a cost is no reason to have none
            reason = reason_of(error)
            skip("modelling the GPU's cost", f"node `{group.nodes[0]}`", reason, error)
            refusal = _unpriced(group, f"its cost could not be modelled: {reason}")
            continue
        if found is not None and (found.latency_s is not None or found.source != "modelled"):
            return found
        refusal = found or refusal
    return refusal or _unpriced(group, "no recorded group computes the same, and nothing models this GPU")


def _unpriced(group: GroupCost, reason: str) -> GroupCost:
    return replace(
        group, device="gpu", backend=DATASHEET_BACKEND, latency_s=None, low_s=None, high_s=None, source="modelled",
        unfused_s={}, reason=reason,
    )  # fmt: skip


def datasheet_group(graph: ModelGraph, group: GroupCost, *, sheet: Datasheet, precision: Precision = "fp32") -> GroupCost:
    """Return what `group` should cost on the GPU of `sheet`; without a cost, and with the reason, where a size is not known."""
    try:
        cost = model_group(graph, group.canonical, sheet, precision)
        alone: Mapping[str, float] = (
            {group.canonical[0]: cost.latency_s}
            if len(group.canonical) == 1
            else {name: model_group(graph, [name], sheet, precision).latency_s for name in group.canonical}
        )
    except UnknownShapeError as error:
        return _unpriced(group, f"its cost cannot be modelled: {error.what}")
    return replace(
        group, device="gpu", backend=DATASHEET_BACKEND, latency_s=cost.latency_s, low_s=cost.low_s, high_s=cost.high_s,
        source="modelled", unfused_s=alone, reason="",
    )  # fmt: skip


def sheet_of(target: Mapping[str, Any] | None) -> Datasheet | None:
    """Return the data sheet of a recorded GPU, by its id or a name such as ``NVIDIA A100-SXM4-80GB``, if there is one."""
    known = datasheets()
    about = target or {}
    if about.get("id") in known:
        return known[str(about["id"])]
    name = re.sub(r"rtx\s+", "rtx", str(about.get("name", "")).lower())
    return next((sheet for id_, sheet in known.items() if re.search(rf"(?<![a-z0-9]){id_}(?![a-z0-9])", name)), None)


def _transfers(recorded: CostTable, sheet: Datasheet | None) -> tuple[TransferModel, ...]:
    if {t.direction for t in recorded.transfers if t.bytes_per_s > 0} == {"h2d", "d2h"}:
        return tuple(replace(t, source=carried(t.source)) for t in recorded.transfers)
    if sheet is not None:
        return transfer_times(sheet)
    raise UsageError("the recorded profile does not say what a copy to the GPU and back costs", hint="record it again")


def coverage_of(cpu: Sequence[GroupCost], gpu: Sequence[GroupCost]) -> Coverage:
    """Return how much of the model was replayed, and what priced the rest.

    Args:
        cpu: The groups as they cost on the CPU.
        gpu: The same groups, in the same order, on the GPU.
    """
    kinds = [_kind(group) for group in gpu]
    counted = Counter(kinds)
    total = sum(group.latency_s or 0.0 for group in cpu)
    covered = sum(group.latency_s or 0.0 for group, kind in zip(cpu, kinds, strict=True) if kind == "recorded")
    return Coverage(
        recorded=counted["recorded"],
        calibrated=counted["calibrated"],
        datasheet=counted["datasheet"],
        unknown=counted["unknown"],
        cpu_time_share=covered / total if total else 0.0,
    )


def _kind(group: GroupCost) -> str:
    if group.source != "modelled":
        return "recorded"
    if group.latency_s is None:
        return "unknown"
    return "calibrated" if group.backend == calibrated.BACKEND else "datasheet"
