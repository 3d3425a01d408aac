"""Default ranges of the sizes that a model leaves free, so that engines take more than the sample's own sizes.

The rule, and its reasons:

- Rows (a first axis of tensors of two or more axes): 1 to 8, or to the planned batch or the sample's own where that is more.
  The server runs up to 8 rows as one on a GPU unless it is told otherwise.
- Other free sizes: from 1 to eightfold the sample's; where two or more are free, to twofold each. Memory of an engine is laid
  out for the largest shapes, and so grows about eightfold.
- Bytes of one dimension are an encoded file, such as a JPEG picture: cut or repeated they are none, so their number stays.
- No size that the model does not take: the ends are tried on onnxruntime in a child process whose time and memory are limited.
  A limit between two tried sizes, as the length of position embeddings, is searched for. Where the ends fail together, the
  largest sizes are drawn back towards the sample's.

A range that the user gives wins. Sizes outside the ranges run in onnxruntime.
"""

from __future__ import annotations

import ast
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cutset.codegen.least_sizes import Places, free_dimensions
from cutset.codegen.runtime.backends.base import GPU_BATCH
from cutset.codegen.runtime.backends.engine_build import free_memory_bytes
from cutset.graph.model import ModelGraph
from cutset.profilers.child import Failure, Limits, Worker
from cutset.profilers.session import Arrays, open_session, run

GROWTH, GROWTH_OF_SEVERAL = 8, 2
"""How many times the sample's size the largest one is: of one free size, and of each of several."""
TRY_S = 30.0
"""Most seconds of one trial: a size that takes longer is not promised."""
BUDGET_S = 120.0
"""Most seconds of all trials together; sizes that were not tried by then stay as the sample has them."""
MEMORY_SHARE = 0.5
"""Of the free memory, for the child."""
MOST_HALVINGS = 8
"""Steps of the search for a limit between a size that runs and one that does not."""

Shape = tuple[int, ...]
Formulas = Mapping[Places, Callable[[Mapping[Places, int]], int]]
"""What computes a size that follows from the others."""
GivenRanges = Mapping[str, tuple[Shape, Shape, Shape]]
_OPERATIONS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeSize:
    """A size that the model leaves free.

    Args:
        places: The dimensions that have the size.
        least: Smallest size.
        usual: The sample's size.
        most: Largest size.
        rows: Whether the size is a number of rows.
        given: Whether the user gave the range.
    """

    places: Places
    least: int
    usual: int
    most: int
    rows: bool = False
    given: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTrial:
    """A run of the whole model on one input."""

    model: Path
    custom_ops: tuple[str, ...]
    feeds: Arrays


def default_ends(graph: ModelGraph, sample: Arrays, *, rows: int = 1, given: GivenRanges | None = None) -> list[Arrays]:
    """Return inputs of the least and of the largest sizes that engines should take; nothing where no size is free.

    Args:
        graph: The whole model.
        sample: One complete input, whose sizes are the usual ones.
        rows: Rows of the planned batch.
        given: Least, usual and largest shape of inputs that the user gave a range.
    """
    formulas = _formulas(graph, sample)
    sizes = wanted_sizes(graph, sample, [*formulas], rows=rows, given=given or {})
    if all(size.least == size.most for size in sizes):
        return []
    limits = Limits(time_s=TRY_S, memory_bytes=int(MEMORY_SHARE * free_memory_bytes()))
    with Worker(limits=limits) as worker:
        search = _Search(graph, sample, sizes, formulas, worker)
        sizes = search.settle_together([size if size.given else search.settle(size) for size in sizes])
    ends = ({size.places: size.least for size in sizes}, {size.places: size.most for size in sizes})
    return [resized(sample, end, formulas) for end in ends]


def wanted_sizes(
    graph: ModelGraph, sample: Arrays, derived: Sequence[Places], *, rows: int, given: GivenRanges
) -> list[FreeSize]:
    """Return the free sizes with the ends that the rule wants, whether the model takes them or not.

    Args:
        graph: The whole model.
        sample: One complete input.
        derived: Dimensions whose sizes follow from others, which are left out.
        rows: As for `default_ends`.
        given: As for `default_ends`.
    """
    ranks = {spec.name: len(spec.shape or ()) for spec in graph.inputs}
    encoded = {spec.name for spec in graph.inputs if spec.dtype == "uint8" and ranks[spec.name] == 1}
    free = {places: _size(sample, places) for places in free_dimensions(graph.inputs) if places not in derived}
    are_rows = {places: all(axis == 0 and ranks[name] > 1 for name, axis in places) for places in free}
    growth = GROWTH if list(are_rows.values()).count(False) == 1 else GROWTH_OF_SEVERAL
    found = []
    for places, usual in free.items():
        most = max(GPU_BATCH, rows, usual) if are_rows[places] else growth * usual
        ends = next(((given[name][0][axis], given[name][2][axis]) for name, axis in places if name in given), None)
        fixed = not usual or encoded.issuperset(name for name, _ in places)  # a sample of nothing cannot be repeated
        least, most = ends or ((usual, usual) if fixed else (1, most))
        found.append(
            FreeSize(places=places, least=least, usual=usual, most=most, rows=are_rows[places], given=ends is not None)
        )
    return found


def resized(sample: Arrays, sizes: Mapping[Places, int], formulas: Formulas) -> Arrays:
    """Return the sample with other sizes: cut, or repeated from its beginning, so that its contents stay valid.

    Args:
        sample: One complete input.
        sizes: Every free size.
        formulas: What computes the sizes that follow from the free ones.
    """
    found = dict(sample)
    for places, size in [*sizes.items(), *((places, formula(sizes)) for places, formula in formulas.items())]:
        for name, axis in places:
            array = np.asarray(found[name])
            if array.shape[axis] != size:
                index = np.arange(size) % max(array.shape[axis], 1)
                found[name] = np.ascontiguousarray(np.take(array, index, axis=axis))
    return found


def _size(sample: Arrays, places: Places) -> int:
    name, axis = places[0]
    return int(np.shape(sample[name])[axis])


def _formulas(graph: ModelGraph, sample: Arrays) -> dict[Places, Callable[[Mapping[Places, int]], int]]:
    """Return what computes the sizes whose symbols are expressions of others, as those of a cache of keys and values are."""
    shapes = {spec.name: spec.shape or () for spec in graph.inputs}
    groups = free_dimensions(graph.inputs)
    by_symbol = {str(shapes[name][axis]): places for places in groups for name, axis in places[:1]}
    usual = {places: _size(sample, places) for places in groups}
    found = {places: _formula(symbol, by_symbol) for symbol, places in by_symbol.items()}
    return {places: formula for places, formula in found.items() if formula is not None and formula(usual) == usual[places]}


def _formula(symbol: str, by_symbol: Mapping[str, Places]) -> Callable[[Mapping[Places, int]], int] | None:
    """Return what computes a size whose symbol is an expression of other symbols, such as ``past + new``; None for others."""
    try:
        tree = ast.parse(symbol, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    kinds = (ast.BinOp, ast.Name, ast.Constant, ast.Load, *_OPERATIONS)
    plain = all(isinstance(node, kinds) for node in ast.walk(tree)) and isinstance(tree, ast.BinOp)
    numbers = all(type(node.value) is int and node.value > 0 for node in ast.walk(tree) if isinstance(node, ast.Constant))
    if not plain or not numbers or not names or not names <= by_symbol.keys():
        return None

    def value(node: ast.expr, sizes: Mapping[Places, int]) -> int:
        if isinstance(node, ast.BinOp):
            left, right = value(node.left, sizes), value(node.right, sizes)
            return 0 if isinstance(node.op, ast.FloorDiv) and right == 0 else _OPERATIONS[type(node.op)](left, right)
        if isinstance(node, ast.Name):
            return sizes[by_symbol[node.id]]
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    return lambda sizes: value(tree, sizes)


class _Search:
    """Tries sizes on the whole model until the time is over."""

    def __init__(
        self, graph: ModelGraph, sample: Arrays, sizes: Sequence[FreeSize], formulas: Formulas, worker: Worker
    ) -> None:
        self._graph, self._sample, self._formulas, self._worker = graph, sample, formulas, worker
        self._usual = {size.places: size.usual for size in sizes}
        self._until = time.monotonic() + BUDGET_S

    def settle(self, size: FreeSize) -> FreeSize:
        """Return a size with the widest ends on which the model runs, all other sizes as the sample has them."""
        return replace(size, least=self._least(size), most=self._most(size))

    def settle_together(self, sizes: Sequence[FreeSize]) -> list[FreeSize]:
        """Return the sizes with ends on which the model runs when all sizes are at the same end."""
        if not self._runs({size.places: size.least for size in sizes}):
            sizes = [size if size.given else replace(size, least=size.usual) for size in sizes]
        for step in (_same, _halfway, _halfway, _inner_as_usual, _as_usual):
            sizes = [size if size.given else step(size) for size in sizes]
            if self._runs({size.places: size.most for size in sizes}):
                break
        return list(sizes)

    def _least(self, size: FreeSize) -> int:
        smaller = sorted({1, *(size.usual // part for part in (8, 4, 2))} - {0})
        return next((least for least in smaller if least >= size.usual or self._runs({size.places: least})), size.usual)

    def _most(self, size: FreeSize) -> int:
        high = size.most
        low = size.usual
        if high <= low or self._runs({size.places: high}):
            return max(high, low)
        while high > 2 * size.usual:
            if self._runs({size.places: high // 2}):
                low = high // 2
                break
            high //= 2
        for _ in range(MOST_HALVINGS):
            middle = (low + high) // 2
            if middle == low:
                break
            low, high = (middle, high) if self._runs({size.places: middle}) else (low, middle)
        return low

    def _runs(self, sizes: Mapping[Places, int]) -> bool:
        if time.monotonic() > self._until:
            return False
        feeds = resized(self._sample, {**self._usual, **sizes}, self._formulas)
        trial = SizeTrial(model=self._graph.path, custom_ops=self._graph.custom_ops, feeds=feeds)
        return not isinstance(self._worker.ask(try_sizes, trial), Failure)


def _same(size: FreeSize) -> FreeSize:
    return size


def _halfway(size: FreeSize) -> FreeSize:
    return size if size.rows else replace(size, most=(size.usual + size.most) // 2)


def _inner_as_usual(size: FreeSize) -> FreeSize:
    return size if size.rows else replace(size, most=size.usual)


def _as_usual(size: FreeSize) -> FreeSize:
    return replace(size, most=size.usual)


def try_sizes(trial: SizeTrial) -> None:
    """Run the whole model on one input; raises what onnxruntime raises."""
    session, names = _session(trial.model, trial.custom_ops)
    run(session, trial.feeds, names)


@lru_cache(1)
def _session(model: Path, custom_ops: tuple[str, ...]) -> tuple[Any, list[str]]:
    session = open_session(model, custom_ops=custom_ops)
    return session, [value.name for value in session.get_outputs()]
