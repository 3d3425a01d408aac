"""The standard streams as they may be: closed, full, or in an encoding that lacks letters."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_NUMBERS = {"stdin": (0, os.O_RDONLY, "r"), "stdout": (1, os.O_RDONLY, "w"), "stderr": (2, os.O_WRONLY, "w")}
"""Number, mode of the null device, and mode of the stream. What is written to a closed stdout shall fail, not vanish."""


class StdoutError(OSError):
    """Stdout took no more, which says nothing of the files that a command writes."""


class _Stdout(io.FileIO):
    """Tells a failure to write to stdout from one to write a file."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, as a file does.

        Raises:
            StdoutError: If the system refuses.
        """
        try:
            return super().write(data)
        except OSError as error:
            raise StdoutError(error.errno, error.strerror) from error


def prepare_streams() -> None:
    """Open standard streams that are closed, and let every stream escape letters that its encoding lacks.

    A number that stays free would be given to the next file, and libraries that print would write into that file.
    """
    for name, (number, flags, mode) in _NUMBERS.items():
        if getattr(sys, name) is None:
            null = os.open(os.devnull, flags)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - as Python does
            setattr(sys, f"__{name}__", getattr(sys, name))
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):  # nobody has put another one there
        raw = io.BufferedWriter(_Stdout(sys.stdout.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(raw, sys.stdout.encoding, line_buffering=sys.stdout.line_buffering)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def drop_stdout() -> None:
    """Send what is left for stdout nowhere: Python would try again at its end, and fail with a code of its own."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
