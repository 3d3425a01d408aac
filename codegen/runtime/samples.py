"""The inputs that a package was verified with: what it warms up with, and what `bench` sends."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .config import PlanConfig
from .dtypes import Value

FILE = "sample.npz"


def read_sample(plan: PlanConfig, folder: str | Path | None = None) -> dict[str, Value] | None:
    """Return one value an input of the model; None if the package has no sample of all of them.

    Args:
        plan: The package's plan.
        folder: The package; by default the one this module lies in.
    """
    root = Path(__file__).resolve().parent.parent if folder is None else Path(folder)
    path = root / FILE
    if not path.is_file():
        return None
    with np.load(path) as opened:
        arrays = dict(opened)
    found = {}
    for tensor in plan.inputs:
        if tensor.name not in arrays:
            return None
        found[tensor.name] = arrays[tensor.name]
    return found
