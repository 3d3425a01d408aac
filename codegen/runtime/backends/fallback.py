"""A stage that has several backends in order of preference: what one of them refuses, the next one runs.

An engine takes a range of shapes, and onnxruntime takes every shape the model takes. So a stage that is planned as an engine
has onnxruntime's CUDA provider behind the engine, and the CPU provider behind both.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..dtypes import Value
from .base import BackendDied, BackendError, StageBackend

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One backend that may run a stage.

    Args:
        name: The backend's name, such as ``onnxruntime-cuda``; metrics count runs under the name.
        load: Loads the stage in the backend; raises `BackendError` where the backend cannot run the stage at all.
        failure: What a failed load means, in words: the beginning of the reason why the stage runs elsewhere.
    """

    name: str
    load: Callable[[], StageBackend]
    failure: str


def load_first(candidates: Sequence[Candidate]) -> StageBackend:
    """Return the stage in the first backend that loads, with the later backends behind it.

    The backend's `substitution` gives the reason against every candidate before it. A backend on the CPU has nothing behind
    it: no later backend takes more.

    Args:
        candidates: The backends, the preferred one first.

    Raises:
        BackendError: If no candidate loads; the message is the last candidate's.
    """
    reasons: list[str] = []
    for position, candidate in enumerate(candidates):
        try:
            backend = candidate.load()
        except BackendError as error:
            if position == len(candidates) - 1:
                raise
            reasons.append(f"{candidate.failure}: {error}")
            continue
        substitution = "; ".join([*reasons, *filter(None, [backend.substitution])]) or None
        return FallbackBackend(backend, substitution, candidates[position + 1 :])
    raise BackendError("the stage has no backend")


class FallbackBackend:
    """A loaded backend of a stage, and the candidates for runs that the backend refuses.

    A run that raises `BackendError` is tried on the next candidate, and so on; the last error is the request's. A candidate is
    loaded when a run needs it for the first time, because its weights would otherwise fill memory for nothing.

    Args:
        first: The loaded backend.
        substitution: Why the stage is not on the planned backend; None where it is.
        others: The candidates behind `first`, in order.
    """

    def __init__(self, first: StageBackend, substitution: str | None, others: Sequence[Candidate]) -> None:
        self.substitution = substitution
        self.device = first.device
        self.slots: int = getattr(first, "slots", 1)
        self.max_batch: int | None = getattr(first, "max_batch", None)
        self.joins: bool = getattr(first, "joins", False)
        self._first = first
        self._others = [_LateBackend(candidate) for candidate in others] if first.device != "cpu" else []
        self._counting = threading.Lock()
        self._fallbacks: Counter[str] = Counter()
        self._told: set[str] = set()

    @property
    def first(self) -> StageBackend:
        """The backend that every run tries first."""
        return self._first

    @property
    def fallbacks(self) -> dict[str, int]:
        """How many runs each later backend did, by the backend's name."""
        with self._counting:
            return dict(self._fallbacks)

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        try:
            return self._first.run(feeds)
        except BackendDied:
            raise
        except BackendError as error:
            if not self._others:
                raise
            refusal = error
        for other in self._others:
            try:
                outputs = other.backend().run(feeds)
            except BackendDied:
                raise
            except BackendError as error:
                refusal = error
                continue
            self._count(other.name, refusal)
            return outputs
        raise refusal

    def close(self) -> None:
        """Close every backend that was loaded."""
        with contextlib.ExitStack() as stack:
            for backend in [other.loaded for other in self._others]:
                if backend is not None:
                    stack.callback(backend.close)
            stack.callback(self._first.close)

    def _count(self, name: str, refusal: BackendError) -> None:
        with self._counting:
            self._fallbacks[name] += 1
            new = name not in self._told
            self._told.add(name)
        if new:  # once, for a client may send such shapes for ever
            _log.warning("a stage ran on %s, as later ones may: %s", name, refusal)


class _LateBackend:
    """A backend that is loaded when a run needs it; a load that failed is not tried again."""

    def __init__(self, candidate: Candidate) -> None:
        self.name = candidate.name
        self.loaded: StageBackend | None = None
        self._candidate = candidate
        self._failure: str | None = None
        self._loading = threading.Lock()

    def backend(self) -> StageBackend:
        """Return the loaded backend.

        Raises:
            BackendError: If the backend does not load.
        """
        with self._loading:
            if self._failure is not None:
                raise BackendError(self._failure)
            if self.loaded is None:
                try:
                    self.loaded = self._candidate.load()
                except BackendDied:
                    raise
                except BackendError as error:
                    self._failure = f"{self._candidate.failure}: {error}"
                    raise BackendError(self._failure) from error
            return self.loaded
