"""Advisory steps: work that improves or explains a plan, and whose failure ends no job.

Only loading, planning, emitting and the proof may end a job. Every other step runs inside `advisory`, which turns whatever
the step raises into a `SkippedStep`: the caller goes on with what it has, and the command shows the reason.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from types import TracebackType

from cutset.errors import CutsetError, UsageError

logger = logging.getLogger(__name__)

MAX_REASON = 300
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True)
class SkippedStep:
    """An advisory step that failed.

    Args:
        step: What was being done, such as ``comparing precisions``.
        about: Node or stage it was done for; empty for the whole model.
        reason: Why it failed.
    """

    step: str
    about: str
    reason: str

    def __str__(self) -> str:
        """Return the failure as one sentence."""
        return f"left out: {self.step}{f' of {self.about}' if self.about else ''}: {self.reason}"

    def as_json(self) -> dict[str, str]:
        """Return the failure as plan.json holds it."""
        return asdict(self)


class SkippedSteps:
    """The advisory steps of one job that failed, each once, in order.

    Args:
        tell: Told each as it fails.
    """

    def __init__(self, tell: Callable[[SkippedStep], None] = lambda _step: None) -> None:
        self._found: dict[SkippedStep, None] = {}
        self._tell = tell

    def add(self, skipped: SkippedStep) -> None:
        """Keep a failure that is not kept yet."""
        if skipped not in self._found:
            self._found[skipped] = None
            self._tell(skipped)

    def as_json(self) -> list[dict[str, str]]:
        """Return all of them as plan.json holds them."""
        return [skipped.as_json() for skipped in self._found]


_RECORD: ContextVar[SkippedSteps | None] = ContextVar("skipped_steps", default=None)


@contextmanager
def recording(record: SkippedSteps) -> Iterator[SkippedSteps]:
    """Keep in `record` the advisory steps that fail inside; an inner record takes precedence over an outer one."""
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


def skipped_steps() -> list[dict[str, str]]:
    """Return the failed advisory steps of this job so far, as plan.json holds them."""
    record = _RECORD.get()
    return [] if record is None else record.as_json()


class advisory:  # noqa: N801 - reads as a statement
    """Run an advisory step: an exception inside is recorded and goes no further.

    What the step was to change must be assigned last inside, so that a failure leaves it as it was. Ctrl-C passes; running
    out of memory is recorded, because leaving the step gives its memory back.

    Args:
        step: What is being done.
        about: Node or stage it is done for.
        ends: Exceptions that pass: what the user asked for is wrong, or cannot be had.
    """

    def __init__(self, step: str, about: str = "", *, ends: tuple[type[Exception], ...] = (UsageError,)) -> None:
        self._step, self._about, self._ends = step, about, ends

    def __enter__(self) -> None:
        """Begin the step."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        """Record what the step raised; return whether the job goes on."""
        if not isinstance(error, Exception) or isinstance(error, self._ends):
            return False
        skip(self._step, self._about, reason_of(error), error)  # a bug too: no side step is worth the job
        return True


def skip(step: str, about: str, reason: str, error: BaseException | None = None) -> None:
    """Record a failed advisory step; the traceback of `error` is logged."""
    logger.info("left out: %s %s: %s", step, about, reason, exc_info=error)
    record = _RECORD.get()
    if record is not None:
        record.add(SkippedStep(step, about, reason))


def reason_of(error: BaseException) -> str:
    """Return an exception in words, on one line."""
    if isinstance(error, CutsetError):
        words = f"{error.what}: {error.cause}" if error.cause else error.what
    else:
        words = f"{type(error).__name__}: {error}"
    return " ".join(words.split())[:MAX_REASON]
