"""Find symbols that a model gives to sizes which in truth differ, and free these sizes of each other in the served signature.

ONNX says that one symbol is one size, and the server refuses requests whose sizes differ. Some exporters reuse a symbol all
the same (``N`` or ``?`` for every unknown size). A sample whose inputs disagree on a symbol is the proof.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cutset.profilers.session import Arrays


def free_loose_symbols(inputs: Sequence[dict[str, Any]], samples: Sequence[Arrays]) -> list[str]:
    """Replace each loose symbol in the shapes of a plan's inputs by an unknown size, and return the symbols.

    Args:
        inputs: The plan's ``inputs``; changed.
        samples: Complete inputs of the model.
    """
    loose = sorted({symbol for sample in samples for symbol, sizes in _sizes(inputs, sample).items() if len(sizes) > 1})
    for entry in inputs:
        if entry["shape"] is not None:
            entry["shape"] = [None if size in loose else size for size in entry["shape"]]
    return loose


def _sizes(inputs: Sequence[Mapping[str, Any]], sample: Arrays) -> dict[str, set[int]]:
    """Return the sizes that each symbol has in a sample."""
    found: dict[str, set[int]] = {}
    for entry in inputs:
        for symbol, size in zip(entry["shape"] or (), np.shape(sample[entry["name"]]), strict=False):
            if isinstance(symbol, str):
                found.setdefault(symbol, set()).add(size)
    return found
