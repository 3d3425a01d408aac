"""One request on its way through the pipeline."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from .dtypes import Value


class Context:
    """The live tensors of a request, how far it is, its deadline and its future.

    Owned by one thread at a time: the worker that runs its current phase. The future stays cancellable until the result
    is there: a worker looks before each phase.

    Args:
        tensors: The request's inputs by name; later also what the stages made.
        deadline: When it must be done, on the clock of `time.monotonic`; None for no limit.
        trace: Where its stages are recorded, from `Tracer.here`; None records nothing.
    """

    __slots__ = ("deadline", "future", "phase", "queued", "submitted", "tensors", "trace")

    def __init__(self, tensors: dict[str, Value], deadline: float | None, trace: Any = None) -> None:
        self.tensors = tensors
        self.deadline = deadline
        self.trace = trace
        self.future: Future[dict[str, Value]] = Future()
        self.phase = 0
        self.submitted = self.queued = time.perf_counter()

    def expired(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline
