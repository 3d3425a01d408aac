"""How well profiles of a GPU predict a model that was left out of them, from the profiles alone: it needs no GPU.

usage: python -m benchmarks.gpu.left_out [FOLDER] [--keep FILE]

Without a folder of profiles (`gpu/profiles` of a run) it reads those that were kept from an H100: each group's time and
work, without the names of nodes.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.tables import fit_table
from cutset import serde
from cutset.files import write_atomic
from cutset.profilers.calibrated import Calibration, calibrate
from cutset.profilers.recorded import Recording
from cutset.profilers.shipped import record
from cutset.profilers.table import CostTable, GroupCost, read_profile
from cutset.profilers.without_device import sheet_of

KEPT = Path(__file__).parents[1] / "data" / "h100_profiles.json.gz"
"""Profiles of seven models on an H100, batch 1, fp32."""

LOW, HIGH = 0.75, 1.25

_ENVIRONMENT = ("cpu", "logical_cores", "packages", "gpus")


def identity(gpu: str) -> dict[str, str]:
    """Return what a GPU is called in a recording: the id of its data sheet where there is one."""
    sheet = sheet_of({"name": gpu})
    return {"id": sheet.id if sheet else gpu.lower().replace(" ", "-"), "name": gpu}


def leave_each_out(tables: Mapping[str, CostTable], target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row for each profile, and how many of them are near enough.

    Args:
        tables: Profiles by names that end in ``-PRECISION-BATCH``, all of one GPU and one precision.
        target: ``id`` and ``name`` of the GPU.
    """
    rows = [left_out(name, tables, target) for name in tables]
    known = [row for row in rows if row["predicted"] is not None]
    return {"rows": rows, "within_25_percent": sum(LOW <= row["predicted"] <= HIGH for row in known), "of": len(rows)}


def left_out(name: str, tables: Mapping[str, CostTable], target: Mapping[str, Any]) -> dict[str, Any]:
    """Return one profile's total as the profiles of all other models say, over its measured one.

    ``traced`` is the same of the kernels' times in the trace, which are not scaled to the latency of a session: it leaves
    out how quickly the host went on from kernel to kernel while each session was timed.
    """
    model = name.rpartition("-")[0]
    others = [table for key, table in tables.items() if key.rpartition("-")[0] != model]
    groups = _timed(tables[name])
    total = _total(groups)
    recording = Recording(record(others, [], target=target, transfers=()), same_run=False)
    sheet = sheet_of(target)
    fitted = calibrate([table.groups for table in others], sheet)
    found = [recording.find(group) for group in groups]
    replayed = _total([group for group, one in zip(groups, found, strict=True) if one and one.latency_s is not None])
    traced = calibrate([_as_traced(table) for table in others], sheet)
    whole = _as_traced(tables[name])
    return {
        "profile": name,
        "measured_s": total,
        "groups": len(groups),
        "recorded_share": replayed / total if total else 0.0,
        "calibrated": _modelled(groups, fitted) / total if fitted and total else None,
        "predicted": _predicted(groups, found, fitted) / total if fitted and total else None,
        "traced": _modelled(whole, traced) / _total(whole) if traced and _total(whole) else None,
    }


def kept(path: Path = KEPT) -> dict[str, CostTable]:
    """Return the profiles that were kept in a file, by their names."""
    read = json.loads(gzip.decompress(path.read_bytes()))
    return {name: serde.convert(table, CostTable, where=f"{path} {name}") for name, table in read.items()}


def keep(tables: Mapping[str, CostTable], path: Path) -> Path:
    """Return the path of a file with what leaving out needs of the profiles, after writing it."""
    read = {name: serde.to_builtins(_bare(table)) for name, table in tables.items()}
    return write_atomic(path, gzip.compress(msgspec.json.encode(read), mtime=0))


def profiles(folder: Path) -> dict[str, CostTable]:
    """Return the profiles of a folder by their names, which end in ``-PRECISION-BATCH``."""
    return {path.stem: read_profile(path) for path in sorted(folder.glob("*.json"))}


def _bare(table: CostTable) -> CostTable:
    """Return a profile without values and names of nodes, and without what is left to chance of its machine."""
    groups = [
        replace(group, nodes=(), canonical=tuple(map(str, range(len(group.canonical)))), unfused_s={}, reason="")
        for group in _timed(table)
    ]
    environment = {key: table.environment[key] for key in _ENVIRONMENT}
    return replace(table, shapes={}, groups=tuple(groups), environment=environment)


def _timed(table: CostTable) -> list[GroupCost]:
    return [group for group in table.groups_on("gpu") if group.latency_s is not None]


def _total(groups: Sequence[GroupCost]) -> float:
    return sum(group.latency_s or 0.0 for group in groups)


def _as_traced(table: CostTable) -> list[GroupCost]:
    """Return the groups with the times that the trace gave them."""
    scale = (table.target or {})["kernel_sum_ratio"]
    return [replace(group, latency_s=(group.latency_s or 0.0) * scale) for group in _timed(table)]


def _modelled(groups: Sequence[GroupCost], fitted: Calibration) -> float:
    return sum(fitted.seconds(group.work) for group in groups)


def _predicted(groups: Sequence[GroupCost], found: Sequence[GroupCost | None], fitted: Calibration) -> float:
    """Return the total: replayed where a group of another model computes the same, else modelled by the rates."""
    return sum(
        one.latency_s if one is not None and one.latency_s is not None else fitted.seconds(group.work)
        for group, one in zip(groups, found, strict=True)
    )


def main() -> None:
    """Write the table to stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="of one GPU and one precision")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write what was read without names, to read it again")
    arguments = parser.parse_args()
    tables = profiles(arguments.folder) if arguments.folder else kept()
    if arguments.keep:
        keep(tables, arguments.keep)
    (gpu,) = {table.environment["gpus"][0]["name"] for table in tables.values()}
    found = leave_each_out(tables, identity(gpu))
    sys.stdout.write(f"{fit_table(found['rows'])}\n\n{found['within_25_percent']} of {found['of']} within 25 %\n")


if __name__ == "__main__":
    main()
