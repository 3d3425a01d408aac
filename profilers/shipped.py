"""GPUs that were recorded once and ship with Cutset: what `--target h200` replays where ``recorded/h200.json`` is there.

A recording is a profile like any other but that it is of no one model: each of its groups computes something else, and
nodes are called by their place in their group. So it is replayed, and rates are fitted to it, by what does so for profiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from cutset import serde
from cutset.errors import UsageError
from cutset.files import write_atomic
from cutset.profilers.table import CostTable, GroupCost, ModelFile, TransferModel, read_profile

RECORDED = Path(__file__).parent / "recorded"

_BLANK = {"flops": 0, "bytes": 0, "unfused_s": {}, "reason": "", "work": {}}
"""Fields of a group that are left out where they say this."""


def shipped(folder: Path = RECORDED) -> tuple[str, ...]:
    """Return the names of the GPUs that were recorded."""
    return tuple(sorted(path.stem for path in folder.glob("*.json")))


def shipped_device(name: str, folder: Path = RECORDED) -> CostTable | None:
    """Return the recording of a GPU, None if it was not recorded.

    Raises:
        UsageError: If the file is not a profile of this version, or holds no GPU costs.
    """
    if name not in shipped(folder):
        return None
    path = folder / f"{name}.json"
    table = read_profile(path)
    if not table.groups_on("gpu"):
        raise UsageError(f"{path} holds no GPU costs", hint="record it anew: docs/gpu.md")
    return table


def record(
    fitted: Sequence[CostTable], others: Sequence[CostTable], *, target: Mapping[str, Any], transfers: Sequence[TransferModel]
) -> CostTable:
    """Return one recording of what several profiles measured on one GPU.

    Groups that compute the same become one with their mean time and the widest of their intervals; those whose sizes are
    not known are left out.

    Args:
        fitted: Profiles in the arithmetic that rates are fitted to.
        others: Profiles in another (float16), whose groups are replayed and nothing more: no rate holds for both.
        target: What the GPU is: ``id`` and ``name``.
        transfers: What copies to it and back take.

    Raises:
        UsageError: If there are no profiles.
    """
    if not fitted:
        raise UsageError("there are no profiles to make a recording of")
    groups = {
        group.signature: group for group in _distinct([g for table in others for g in table.groups_on("gpu")], work=False)
    }
    groups |= {
        group.signature: group for group in _distinct([g for table in fitted for g in table.groups_on("gpu")], work=True)
    }
    return CostTable(
        model=ModelFile(file=f"{len({table.model.file for table in fitted})} models", sha256="", nodes=0),
        target={**target, "source": "measured"},
        environment=fitted[0].environment,
        shapes={},
        sessions=(),
        groups=tuple(groups[signature] for signature in sorted(groups)),
        transfers=tuple(transfers),
    )


def write_recording(table: CostTable, path: Path) -> Path:
    """Return the path of a recording after writing it without what a reader fills in, which is a third of a profile's size."""
    document = serde.to_builtins(table)
    document["groups"] = [{k: v for k, v in group.items() if k not in _BLANK or v != _BLANK[k]} for group in document["groups"]]
    return write_atomic(path, msgspec.json.encode(document) + b"\n")


def _distinct(groups: Sequence[GroupCost], *, work: bool) -> list[GroupCost]:
    """Return one group for each signature; without its work, no rate is fitted to it."""
    alike: dict[str, list[GroupCost]] = {}
    for group in groups:
        if group.signature:
            alike.setdefault(group.signature, []).append(group)
    return [_one(found, work=work) for found in alike.values()]


def _one(alike: Sequence[GroupCost], *, work: bool) -> GroupCost:
    """Return groups of one signature as one, its nodes named by their place."""
    timed = [group for group in alike if group.latency_s is not None]
    first = (timed or alike)[0]
    names = tuple(str(index) for index in range(len(first.canonical)))
    prices = [[group.unfused_s.get(name) for name in group.canonical] for group in timed]
    unfused = {
        name: fmean(known)
        for index, name in enumerate(names)
        if len(names) > 1 and (known := [price for row in prices if (price := row[index]) is not None])
    }
    return replace(
        first,
        nodes=names,
        canonical=names,
        latency_s=fmean(group.latency_s or 0.0 for group in timed) if timed else None,
        low_s=min(group.low_s or 0.0 for group in timed) if timed else None,
        high_s=max(group.high_s or 0.0 for group in timed) if timed else None,
        unfused_s=unfused,
        work=first.work if work else {},
    )
