"""The baseline: a file that is kept beside the model, with an entry for each model on each machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.codegen.ci.record import Record, essential
from cutset.digest import sha256_json
from cutset.errors import UsageError
from cutset.files import write_atomic
from cutset.visible import visible_json

BASELINE_SCHEMA = "cutset.baseline/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What deployments were like when they were last approved."""

    entries: tuple[Record, ...] = ()
    schema: str = BASELINE_SCHEMA


def read_baseline(path: Path) -> Baseline:
    """Return the baseline in `path`.

    Raises:
        CutsetError: If the file cannot be read.
        UsageError: If it is not a baseline of this version.
    """
    return serde.convert(serde.read_json(path, schema=BASELINE_SCHEMA), Baseline, where=str(path))


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline, whole or not at all: a line an entry, in an order that leaves the others' lines where they were."""
    entries = sorted(baseline.entries, key=lambda entry: (entry.name, sha256_json([dict(entry.options), entry.machine])))
    lines = [visible_json(json.dumps(serde.to_builtins(entry), ensure_ascii=False, allow_nan=False)) for entry in entries]
    text = f'{{"schema": {json.dumps(baseline.schema)}, "entries": [\n' + ",\n".join(lines) + "\n]}\n"
    write_atomic(path, text.encode())


def updated(baseline: Baseline, record: Record) -> Baseline:
    """Return a baseline with `record` in the place of the entry of that model, with those options, on that machine."""
    kept = [
        entry
        for entry in baseline.entries
        if (entry.name, entry.machine) != (record.name, record.machine) or _differing(entry, record.options)
    ]
    record = replace(record, repeats=replace(record.repeats, table=essential(record.repeats.table)))
    return Baseline(entries=(*kept, record))


def pick(baseline: Baseline, name: str, options: Mapping[str, Any], machine: Mapping[str, Any]) -> Record:
    """Return the entry to compare with: that of this machine, or else one of another.

    Raises:
        UsageError: If the baseline has no entry of this model with these options; the message names what differs.
    """
    named = [entry for entry in baseline.entries if entry.name == name]
    if not named:
        known = ", ".join(sorted({entry.name for entry in baseline.entries})) or "nothing"
        raise UsageError(f"the baseline holds no entry of `{name}`", where=f"it holds {known}", hint="add it with --update")
    alike = [entry for entry in named if not _differing(entry, options)]
    if not alike:
        closest = min((_differing(entry, options) for entry in named), key=len)
        raise UsageError(
            f"the baseline of `{name}` was taken with other options", where="; ".join(closest),
            hint="give the same options, or take a baseline with these: --update",
        )  # fmt: skip
    return next((entry for entry in alike if entry.machine == dict(machine)), alike[0])


def _differing(entry: Record, options: Mapping[str, Any]) -> list[str]:
    """Return in what way an entry was taken with other options; one that an older version did not know is no difference."""
    return [
        f"{key} {entry.options[key]!r}, not {options[key]!r}"
        for key in sorted(entry.options.keys() & options.keys())
        if entry.options[key] != options[key]
    ]
