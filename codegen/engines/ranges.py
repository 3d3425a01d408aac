"""What the engines must take: the shapes that the tensors at the cuts have in real runs of the whole model.

A number that depends on the data, such as how many boxes a suppression keeps, is only as large as the samples happened to
make it. So such a size may fall to one and rise to twice the largest size that was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cutset.codegen.runtime.engine_config import EngineInput, Sizes
from cutset.graph.model import ModelGraph
from cutset.profilers.segments import Segment, boundary_values
from cutset.profilers.session import Arrays

MAX_SHAPE_ELEMENTS = 64
"""Longer integer tensors are no shapes."""
COUNTING = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "StringSplit"})
"""Operators that decide by the data how many rows there are."""
DATA_GROWTH = 2
"""How many times the largest size that was seen a size that depends on the data may be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Complete inputs whose shapes the engines must take.

    Args:
        usual: The samples; the first has the shapes that engines are tuned for.
        ends: Returns inputs of the least and the largest shapes; asked only where something is built.
    """

    usual: Sequence[Arrays]
    ends: Callable[[], Sequence[Arrays]] = tuple


def engine_inputs(graph: ModelGraph, names: Sequence[str], runs: Runs) -> tuple[EngineInput, ...]:
    """Return for each value its least, usual and largest shape, and elements, over all runs.

    Args:
        graph: The whole model.
        names: Values that cross into a GPU stage.
        runs: Inputs of the whole model.

    Raises:
        ProfileError: If the model does not run on one of them.
    """
    return input_ranges(graph, names, runs)[0]


def input_ranges(
    graph: ModelGraph, names: Sequence[str], runs: Runs
) -> tuple[tuple[EngineInput, ...], tuple[EngineInput, ...]]:
    """Return the ranges of `engine_inputs`, and those of the samples alone: for an engine that does not build for more."""
    if not names:
        return (), ()
    cut = Segment(nodes=(), inputs=tuple(names), outputs=())
    found = [boundary_values(graph, inputs, [cut]) for inputs in (*runs.usual, *runs.ends())]
    counted = counted_axes(graph, names)
    arrays = {name: [np.asarray(values[name]) for values in found] for name in names}
    wide = tuple(_widened(_range(name, arrays[name]), counted[name]) for name in names)
    return wide, tuple(_range(name, arrays[name][: len(runs.usual)]) for name in names)


def counted_axes(graph: ModelGraph, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the axes of values whose sizes depend on the data, as far as that is known."""
    own = {size for spec in graph.inputs for size in spec.shape or ()}
    counted: set[str] = set()
    for node in graph.nodes:
        if node.op.op_type in COUNTING or not counted.isdisjoint(node.inputs):
            counted.update(node.outputs)
    return {
        name: tuple(
            axis
            for axis, size in enumerate(graph.values[name].shape or ())
            if name in counted and not isinstance(size, int) and size not in own
        )
        for name in names
    }


def _widened(given: EngineInput, axes: Sequence[int]) -> EngineInput:
    least, usual, most = (list(shape) for shape in given.shapes)
    for axis in axes:
        least[axis], usual[axis], most[axis] = 1, max(1, usual[axis]), max(1, DATA_GROWTH * most[axis])
    return replace(given, shapes=(tuple(least), tuple(usual), tuple(most)))


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
