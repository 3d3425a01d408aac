"""Reading back what `partition` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cutset.errors import UsageError
from cutset.partitioner.plan import PLAN_SCHEMA
from cutset.serde import read_json


def read_plan_document(directory: Path) -> dict[str, Any]:
    """Return the ``plan.json`` of an output folder of `partition`.

    Raises:
        UsageError: If there is none.
    """
    path = directory / "plan.json"
    if not path.is_file():
        raise UsageError(f"{directory} holds no plan", hint="make one: cutset partition MODEL -o DIR")
    return read_json(path, schema=PLAN_SCHEMA)
