"""The errors a user can see, each with what happened, where, why, and the way out.

A library function raises one of these and never prints; `cutset.cli.main` renders them and sets the exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Self


class CutsetError(Exception):
    """A failure the user can act on.

    Args:
        what: One sentence that says what is wrong, naming the thing.
        where: File, node or option at fault.
        cause: Why it happened, if that is known.
        hint: What to type or change to get past it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, cause: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        lines += [f"  at: {self.where}"] if self.where else []
        lines += [f"  cause: {self.cause}"] if self.cause else []
        lines += [f"hint: {self.hint}"] if self.hint else []
        return "\n".join(lines)

    def reworded(self, reword: Callable[[str], str]) -> Self:
        """Return this error with `reword` applied to its texts: a working copy's names become the user's."""
        self.what = reword(self.what)
        self.where = self.where and reword(self.where)
        self.cause = self.cause and reword(self.cause)
        self.args = (self.what,)
        return self

    def as_json(self) -> dict[str, str | int | None]:
        """Return the fields as plain JSON values, with the error's kind and exit code."""
        return {
            "kind": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "cause": self.cause,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


class UsageError(CutsetError):
    """The command line or an argument is wrong."""

    exit_code = 2


class ModelError(CutsetError):
    """The model file cannot be read, or is not a valid model."""


class UnknownShapeError(ModelError):
    """A tensor's size is needed and not known."""


class ProfileError(CutsetError):
    """A cost could not be measured, modelled or replayed."""


class PlanError(CutsetError):
    """No placement satisfies what was asked."""


class EngineBuildError(CutsetError):
    """A backend refused to build a stage."""


class UnavailableError(CutsetError):
    """This machine lacks something; the hint names what brings it."""

    exit_code = 3


class VerificationError(CutsetError):
    """The parts do not equal the whole."""

    exit_code = 4
