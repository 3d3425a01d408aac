"""What YAML must not hold, found before it is read: its reader takes quadratic time in depth, and aliases multiply."""

from __future__ import annotations

from pathlib import Path

import yaml

from cutset.errors import UsageError

DEEPEST = 50
"""Levels of lists and mappings; no file that Cutset reads needs ten."""


def check_events(text: str, path: Path, *, aliases: bool = True) -> None:
    """Refuse nesting without an end and, unless `aliases`, aliases: a few lines of those stand for more than fits a memory.

    Raises:
        UsageError: If there is such a thing; the message names the line.
        yaml.YAMLError: If `text` is not YAML.
    """
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        where = str(path) if event.start_mark is None else f"{path}:{event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) and not aliases:
            raise UsageError(f"`*{event.anchor}` is an alias, which cannot stand here", where=where, hint="write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise UsageError(f"lists and mappings are nested more than {DEEPEST} deep", where=where)
