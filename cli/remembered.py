"""The profile that the same command made before, found without reading the model.

Loading a model, and the libraries that understand it, takes longer than finding its costs. So a finished profile is kept
under what went into it: the digests of the files, the options, the machine and the versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cutset import serde
from cutset.cli.arguments import PROFILE_FILE, CostArguments, ModelArguments, cache_folder
from cutset.digest import sha256_file
from cutset.profilers.cache import METHOD, CostCache
from cutset.profilers.environment import PACKAGES, cpu_name, gpus, installed_versions, usable_cores
from cutset.profilers.table import PROFILE_SCHEMA, CostTable


def recall(about: ModelArguments, costs: CostArguments) -> CostTable | None:
    """Return the profile that this command made of these files before, or None.

    One that was stopped by its time does not serve a command that has more.
    """
    key = _key(about, costs)
    stored = None if key is None else CostCache(cache_folder(costs.cache)).get(key)
    try:
        if stored is None or stored["files"] != _digests([Path(name) for name in stored["files"]]):
            return None
        table = msgspec.convert(stored["table"], CostTable)
    except (OSError, KeyError, TypeError, msgspec.ValidationError):  # a file is gone, or another version wrote the entry
        return None
    settled = all(session.latency_s.settled for session in table.sessions)
    return table if settled or costs.profile_seconds <= stored["seconds"] else None


def remember(about: ModelArguments, costs: CostArguments, table: CostTable, files: Sequence[Path]) -> None:
    """Keep a profile for `recall`.

    Args:
        about: What the command line said about the model.
        costs: What it said about measuring.
        table: The profile.
        files: What the model was read from: the file, then its external data.
    """
    key = _key(about, costs)
    if key is not None:
        value = {"files": _digests(files[1:]), "seconds": costs.profile_seconds, "table": serde.to_builtins(table)}
        CostCache(cache_folder(costs.cache)).put(key, value)


def _key(about: ModelArguments, costs: CostArguments) -> dict[str, Any] | None:
    """Return what decides the profile; None where something else does too (a GPU of this machine) or a file is missing."""
    beside = about.model.with_suffix(".npz")
    inputs = about.inputs or (beside if beside.is_file() and not about.shapes else None)
    try:
        return {
            "command": "profile",
            "schema": PROFILE_SCHEMA,
            "method": METHOD,
            "model": [about.model.name, sha256_file(about.model)],
            "inputs": [list(about.shapes), about.seed] if inputs is None else sha256_file(inputs),
            "custom_ops": [sha256_file(Path(library)) for library in about.custom_ops],
            "target": _target(costs.target),
            "batch": costs.batch,
            "threads": costs.threads,
            "optimization": costs.optimization,
            "cpu": cpu_name(),
            "cores": usable_cores(),
            "packages": installed_versions(PACKAGES),
        }
    except (OSError, ValueError, LookupError):  # the command says what is wrong with a file or a target
        return None


def _target(text: str) -> list[str]:
    """Return what a target stands for.

    Raises:
        LookupError: If it stands for a GPU that is measured.
    """
    named = PROFILE_FILE.fullmatch(text)
    if named is not None:
        return [named["machine"] or "", sha256_file(Path(named["file"]))]
    if text.startswith("cuda") or (text == "auto" and gpus()):
        raise LookupError(text)
    return [text]


def _digests(files: Sequence[Path]) -> dict[str, str]:
    return {str(file): sha256_file(file) for file in files}
