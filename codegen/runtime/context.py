"""One request on its way through the pipeline."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from .dtypes import Value


class ImmediateResult:
    """What comes of a request that is computed on the thread that asks for it: a future without a lock, for nobody waits.

    Its thread alone knows it. A future and the calls that settle it are a third of what the shortest request costs.
    """

    __slots__ = ("_error", "_outputs")

    def __init__(self) -> None:
        self._outputs: dict[str, Value] = {}
        self._error: BaseException | None = None

    def cancelled(self) -> bool:
        """Return False: nobody can cancel a request whose caller waits."""
        return False

    def set_running_or_notify_cancel(self) -> bool:
        """Return True, as for a future that nobody cancelled."""
        return True

    def set_result(self, outputs: dict[str, Value]) -> None:
        """Keep the model's outputs."""
        self._outputs = outputs

    def set_exception(self, error: BaseException) -> None:
        """Keep why there are none."""
        self._error = error

    def result(self) -> dict[str, Value]:
        """Return the outputs, or raise the error, once: to keep it would keep the frames that it names, with their tensors."""
        error, self._error = self._error, None
        if error is None:
            return self._outputs
        try:
            raise error
        finally:
            del error


class Context:
    """The live tensors of a request, how far it is, its deadline and its future.

    Owned by one thread at a time: the worker that runs its current phase. The future stays cancellable until the result
    is there: a worker looks before each phase.

    Args:
        tensors: The request's inputs by name; later also what the stages made.
        deadline: When it must be done, on the clock of `time.monotonic`; None for no limit.
        future: Told of the result.
        trace: Where its stages are recorded, from `Tracer.here`; None records nothing.

    Attributes:
        deaths: How often the backend of the current phase was lost while it ran the request.
    """

    __slots__ = ("deadline", "deaths", "future", "phase", "queued", "submitted", "tensors", "trace")

    def __init__(
        self,
        tensors: dict[str, Value],
        deadline: float | None,
        future: Future[dict[str, Value]] | ImmediateResult,
        trace: Any = None,
    ) -> None:
        self.tensors = tensors
        self.deadline = deadline
        self.trace = trace
        self.future = future
        self.phase = 0
        self.deaths = 0
        self.submitted = self.queued = time.perf_counter()

    def expired(self) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and time.monotonic() >= self.deadline
