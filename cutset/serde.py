"""JSON in and out: every file Cutset writes carries a schema name and version, checked when it is read.

Values are frozen dataclasses; `msgspec` converts and validates them, so a wrong field is named by its path.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cutset.errors import CutsetError, UsageError
from cutset.visible import visible_json

T = TypeVar("T")


def to_builtins(value: Any) -> Any:
    """Return `value` as plain JSON types; dataclasses become dicts in field order."""
    return msgspec.to_builtins(value)


def dumps(value: Any) -> str:
    """Return stable, human-readable JSON that ends in a newline; not-a-number and infinities are refused.

    Any text can be written: what UTF-8 cannot hold (a file name of other bytes), or a terminal would obey, is escaped.
    """
    return visible_json(json.dumps(to_builtins(value), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


def convert(data: Any, kind: type[T], *, where: str) -> T:
    """Return `data` (plain JSON types) as a value of `kind`.

    Raises:
        UsageError: If a field is missing or of the wrong type; the message names its path and `where`.
    """
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where} does not have the expected fields", where=where, cause=str(error)) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def read_json(path: Path, *, schema: str) -> dict[str, Any]:
    """Return the object in the JSON file `path` after checking its ``schema`` field.

    Args:
        path: File to read.
        schema: Expected name and version, for example ``cutset.plan/1``.

    Raises:
        CutsetError: If the file cannot be read.
        UsageError: If it is not JSON, or carries another schema or version.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CutsetError(f"cannot read {path}", cause=str(error)) from error
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
        raise UsageError(f"{path} is not JSON", cause=str(error)) from error
    found = data.get("schema") if isinstance(data, Mapping) else None
    if found != schema:
        raise UsageError(
            f"{path} has schema {found!r}, this version of cutset reads {schema!r}",
            hint="write the file again with this version of cutset",
        )
    return dict(data)
