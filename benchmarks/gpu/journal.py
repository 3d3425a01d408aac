"""The document of a run, written whole after each step, so that a run that was cut off goes on where it stopped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.errors import UsageError
from cutset.files import write_atomic

SCHEMA = "cutset.benchmark.gpu/1"


class Journal:
    """What was measured so far.

    Args:
        path: The JSON file; read if it is there.
        stand_in: ``cpu`` where the CPU provider stands in for the GPU, else empty.

    Raises:
        UsageError: If the file is of the other kind: numbers of a stand-in and of a GPU never mix.
    """

    def __init__(self, path: Path, stand_in: str) -> None:
        self.path = path
        self.document: dict[str, Any] = {"schema": SCHEMA, "stand_in": stand_in, "runs": [], "sections": {}}
        if path.is_file():
            self.document = serde.read_json(path, schema=SCHEMA)
        if self.document["stand_in"] != stand_in:
            raise UsageError(
                f"{path} was made {self._made_by()}",
                hint="give another file with -o, or run with the same --stand-in",
            )

    def begin(self, environment: Any) -> None:
        """Note the machine of a run that begins."""
        self.document["runs"].append(serde.to_builtins(environment))
        self._write()

    def entry(self, section: str, name: str) -> dict[str, Any] | None:
        """Return what a step gave, None if it was not reached."""
        found: dict[str, Any] | None = self.document["sections"].get(section, {}).get(name)
        return found

    def finished(self, section: str, name: str) -> bool:
        """Return whether a step gave all that it was to give."""
        entry = self.entry(section, name)
        return entry is not None and "failure" not in entry and not entry.get("left")

    def put(self, section: str, name: str, entry: dict[str, Any]) -> None:
        """Keep what a step gave."""
        self.document["sections"].setdefault(section, {})[name] = _finite(serde.to_builtins(entry))
        self._write()

    def _made_by(self) -> str:
        kind = self.document["stand_in"]
        return f"with the {kind.upper()} in place of the GPU" if kind else "on a GPU"

    def _write(self) -> None:
        write_atomic(self.path.absolute(), serde.dumps(self.document).encode())


def _finite(value: Any) -> Any:
    """Return a value with None for each number that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
