"""What the engines must take: the shapes that the tensors at the cuts have in real runs of the whole model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutset.codegen.runtime.engine_config import EngineInput, Sizes
from cutset.graph.model import ModelGraph
from cutset.profilers.segments import Segment, boundary_values
from cutset.profilers.session import Arrays

MAX_SHAPE_ELEMENTS = 64
"""Longer integer tensors are no shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Complete inputs whose shapes the engines must take.

    Args:
        usual: The samples; the first has the shapes that engines are tuned for.
        extremes: Inputs of the least and the largest shapes, if the user named a range.
    """

    usual: Sequence[Arrays]
    extremes: Sequence[Arrays] = ()


def engine_inputs(graph: ModelGraph, names: Sequence[str], runs: Runs) -> tuple[EngineInput, ...]:
    """Return for each value its least, usual and largest shape, and elements, over all runs.

    Args:
        graph: The whole model.
        names: Values that cross into a GPU stage.
        runs: Inputs of the whole model.

    Raises:
        ProfileError: If the model does not run on one of them.
    """
    cut = Segment(nodes=(), inputs=tuple(names), outputs=())
    found = [boundary_values(graph, inputs, [cut]) for inputs in (*runs.usual, *runs.extremes)] if names else []
    return tuple(_range(name, [np.asarray(values[name]) for values in found]) for name in names)


def _range(name: str, arrays: Sequence[np.ndarray]) -> EngineInput:
    shapes = [array.shape for array in arrays]
    small = all(array.dtype.kind in "iu" and array.size <= MAX_SHAPE_ELEMENTS for array in arrays)
    values = [tuple(int(element) for element in array.ravel()) for array in arrays] if small else []
    return EngineInput(name=name, shapes=_ends(shapes), values=_ends(values) if values else ((), (), ()))


def _ends(sizes: Sequence[Sizes]) -> tuple[Sizes, Sizes, Sizes]:
    """Return the least, the first and the largest at each position; where lengths differ, of those as long as the first."""
    alike = [one for one in sizes if len(one) == len(sizes[0])]
    positions = list(zip(*alike, strict=True))
    return tuple(min(column) for column in positions), sizes[0], tuple(max(column) for column in positions)


def as_json(given: EngineInput) -> Mapping[str, Any]:
    """Return the input as plan.json holds it."""
    return {"name": given.name, "shapes": [list(one) for one in given.shapes], "values": [list(one) for one in given.values]}
