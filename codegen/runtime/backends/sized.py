"""A stage that is loaded once for each of a few numbers of rows: what is given is filled up to the next of them.

Libraries that plan their work for the shapes they see (cuDNN, CUDA graphs) pay for every new one. Compiling proved that the
rows of such a stage do not touch each other, so rows that fill up change nothing; they are copies of the first row, for a
row of nothing may be no valid input.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ..dtypes import Value
from .base import BackendDied, BackendError, StageBackend
from .device import TENSORS, Parts

_log = logging.getLogger(__name__)


def sizes_up_to(most: int) -> tuple[int, ...]:
    """Return the powers of two below a number of rows, and the number."""
    return (*(1 << power for power in range((most - 1).bit_length())), most)


class SizedBackend:
    """Backends of one stage, by the rows they take; `load` is given the rows, None for any number.

    Args:
        load: Loads the stage; raises `BackendError`.
        max_batch: Most rows there should be a backend for; there is one for less where memory ends before. More rows than
            that run on one for any number, loaded when they come.

    Raises:
        BackendError: If the stage does not load for one row, or the device is lost.
    """

    joins = True
    substitution: str | None = None

    def __init__(self, load: Callable[[int | None], Any], max_batch: int) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._any: StageBackend | None = None
        self._sized: dict[int, Any] = {}
        try:
            for rows in sizes_up_to(max_batch):
                self._sized[rows] = load(rows)
        except BaseException as error:
            if not self._sized or not isinstance(error, BackendError) or isinstance(error, BackendDied):
                self.close()
                raise
            _log.info("batches of at most %d rows: there is no more room (%s)", max(self._sized), error)
        self.max_batch = max(self._sized)
        first = self._sized[1]
        self.device, self.slots = first.device, first.slots

    @property
    def sized(self) -> Mapping[int, Any]:
        """The backend of each number of rows."""
        return self._sized

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        rows = {_rows(value) for value in feeds.values()}
        if len(rows) != 1:
            raise BackendError(f"its inputs have {sorted(rows)} rows, expected the same number of each")
        (given,) = rows
        size = next((size for size in self._sized if size >= given), None) if given else None  # no row to fill up with
        if size is None or size == given:
            return self._backend(size).run(feeds)
        filled = {name: _filled(value, size - given) for name, value in feeds.items()}
        return {name: value[:given] for name, value in self._backend(size).run(filled).items()}

    def close(self) -> None:
        """Close all of them."""
        for backend in self._sized.values():
            backend.close()
        if self._any is not None:
            self._any.close()

    def _backend(self, size: int | None) -> StageBackend:
        if size is not None:
            backend: StageBackend = self._sized[size]
            return backend
        with self._loading:
            if self._any is None:
                self._any = self._load(None)
            return self._any


def _rows(value: Value) -> int:
    parts = value if isinstance(value, Parts) else (value,)
    return sum(part.shape[0] for part in parts if isinstance(part, TENSORS) and part.ndim)


def _filled(value: Value, missing: int) -> Parts:
    parts = value if isinstance(value, Parts) else Parts([value])
    return Parts([*parts, *[parts[0][:1]] * missing])
