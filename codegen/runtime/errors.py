"""The errors of a running pipeline, each with what happened, where, and the way out.

A request's error stays with its request: it is what `run` raises and what the future of `submit` holds.
"""

from __future__ import annotations

import traceback


class PipelineError(RuntimeError):
    """A failure of the pipeline or of one request.

    Args:
        what: One sentence that says what is wrong, naming the thing.
        where: The file, stage or tensor at fault.
        hint: What to change to get past it.
    """

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  at: {self.where}"] if self.where else []
        lines += [f"hint: {self.hint}"] if self.hint else []
        return "\n".join(lines)


class ConfigError(PipelineError):
    """The package on disk, or a setting given to it, cannot be served."""


class InputError(PipelineError):
    """A request's tensor does not fit the model's signature; nothing ran.

    Args:
        tensor: The input's name.
        got: What came, in words.
        expected: What the model takes, in words.
    """

    def __init__(self, tensor: str, *, got: str, expected: str) -> None:
        super().__init__(f"input {tensor!r}: got {got}, expected {expected}")
        self.tensor = tensor
        self.got = got
        self.expected = expected


class StageError(PipelineError):
    """A stage failed on one request; the pipeline goes on with the others.

    Args:
        index: The stage's index in the plan.
        device: Where it ran, ``"cpu"`` or ``"gpu"``.
        cause: The backend's own words.
        shapes: Shape of every tensor the stage was given; None for a value that is no tensor.
    """

    def __init__(self, index: int, *, device: str, cause: str, shapes: dict[str, tuple[int, ...] | None]) -> None:
        given = ", ".join(f"{name!r}: {shape}" for name, shape in shapes.items())
        super().__init__(f"stage {index} failed on the {device}: {cause}", where=f"inputs {{{given}}}")
        self.index = index
        self.device = device
        self.cause = cause
        self.shapes = shapes


class Overloaded(PipelineError):  # noqa: N818 - a state the caller waits out, not a fault
    """The waiting line is full; the request was not taken.

    Args:
        waiting: How many requests the line holds.
        retry_after_s: About how long the work already taken needs, in seconds.
    """

    def __init__(self, *, waiting: int, retry_after_s: float) -> None:
        super().__init__(f"the pipeline is full: {waiting} requests are waiting", hint="retry later, or raise the queue limit")
        self.waiting = waiting
        self.retry_after_s = retry_after_s


class Closed(PipelineError):  # noqa: N818 - a state, as above
    """The pipeline is closed or closing; the request was not finished."""


class DeadlineExceeded(PipelineError):  # noqa: N818 - the name gRPC and HTTP users know
    """The request's time ran out before its result was there."""


class DegradedWarning(UserWarning):
    """A stage runs on another device than the plan says."""


def release_frames(error: BaseException, *, forget: bool = False) -> None:
    """Drop the tensors that the frames of a failed run or call hold.

    The error, its frames and the request's future refer to each other; a burst of failures would keep every tensor
    alive until the cycle collector comes by.
    """
    links: dict[int, BaseException] = {}
    more: list[BaseException | None] = [error]
    while more:
        link = more.pop()
        if link is not None and id(link) not in links:
            links[id(link)] = link
            traceback.clear_frames(link.__traceback__)
            if forget:  # a frame that still runs cannot be cleared
                link.__traceback__ = None
            more += [link.__cause__, link.__context__]
