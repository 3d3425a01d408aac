"""Reading back what `partition` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cutset.errors import UsageError
from cutset.partitioner.plan_file import read_plan


def read_plan_document(directory: Path) -> dict[str, Any]:
    """Return the ``plan.json`` of an output folder of `partition`.

    Raises:
        UsageError: If there is none, or it was changed to what is no plan.
    """
    path = directory / "plan.json"
    if not path.is_file():
        raise UsageError(f"{directory} holds no plan", hint="make one: cutset partition MODEL -o DIR")
    return read_plan(path)
