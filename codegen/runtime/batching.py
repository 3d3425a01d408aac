"""Run the rows of several requests as one, in stages where compiling proved that this changes nothing.

Greedy: a batch is what waits when a worker comes free, so a lone request never waits for company. Requests are put
together only when all their tensors agree in element type and in every size but the first; nothing is padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from .backends.device import TENSORS, Parts, as_array
from .context import Context
from .dtypes import Value

Key: TypeAlias = tuple[tuple[np.dtype, tuple[int, ...]], ...]


def batch_key(feeds: Sequence[Value]) -> tuple[Key, int] | None:
    """Return what the tensors of requests in one batch have in common, and this request's rows.

    Args:
        feeds: The inputs of one stage.

    Returns:
        None if the request can only run alone: a value is no tensor, the numbers of rows differ, or a size is zero, for
        which the proof of batching does not speak.
    """
    rows = {value.shape[0] if isinstance(value, TENSORS) and value.ndim and 0 not in value.shape else 0 for value in feeds}
    if len(rows) != 1 or rows == {0}:
        return None
    return tuple((value.dtype, value.shape[1:]) for value in feeds), rows.pop()


def count_rows(feeds: Sequence[Value]) -> int:
    """Return the rows of one request, for the statistics: the first size of its tensors, 1 where they do not agree.

    Args:
        feeds: The inputs of one stage.
    """
    rows = {value.shape[0] if isinstance(value, TENSORS) and value.ndim else 1 for value in feeds}
    return rows.pop() if len(rows) == 1 else 1


class Batch:
    """The requests that one run will answer.

    Args:
        first: The request a worker came with.
        names: The stage's inputs.
        max_rows: Most rows of a batch; a first request of more runs alone.
    """

    def __init__(self, first: Context, names: Sequence[str], max_rows: int) -> None:
        self.members = [first]
        self._names = names
        self._max_rows = max_rows
        found = batch_key([first.tensors[name] for name in names])
        self._key = found[0] if found else None
        rows = found[1] if found else max_rows
        self._rows = [rows]
        self._total = rows

    @property
    def full(self) -> bool:
        """Whether no request fits any more."""
        return self._total >= self._max_rows

    @property
    def rows(self) -> int:
        """Rows of all requests."""
        return self._total

    def take(self, context: Context) -> bool:
        """Return whether a waiting request was added."""
        found = batch_key([context.tensors[name] for name in self._names])
        if found is None or found[0] != self._key or self._total + found[1] > self._max_rows:
            return False
        self.members.append(context)
        self._rows.append(found[1])
        self._total += found[1]
        return True

    def feeds(self, *, joined: bool = True) -> dict[str, Value]:
        """Return the stage's inputs, the requests one below the other.

        Args:
            joined: False leaves that to a backend which copies them anyway.
        """
        parts = {name: Parts(member.tensors[name] for member in self.members) for name in self._names}
        return {name: as_array(several) for name, several in parts.items()} if joined else dict(parts)

    def split(self, outputs: Mapping[str, Value]) -> list[dict[str, Value]] | None:
        """Return each request's rows of the outputs, or None if an output has not the batch's rows."""
        if any(not isinstance(v, TENSORS) or v.ndim == 0 or v.shape[0] != self._total for v in outputs.values()):
            return None
        shares, start = [], 0
        for rows in self._rows:
            shares.append({name: value[start : start + rows] for name, value in outputs.items()})
            start += rows
        return shares
