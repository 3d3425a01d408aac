"""A command of Cutset in this process: what it does is tested without paying its imports again each time.

It has what a process of its own would have: words, streams, a folder, an environment and a TMPDIR. What ends with a process
(signals, imports, limits) is tested with one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO
from unittest import mock

from cutset.cli.main import run


def call(words: Sequence[str], *, folder: Path, environment: Mapping[str, str]) -> tuple[int, str, str]:
    """Run a command to its end and return its exit code and all that it and its children wrote to stdout and stderr."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with (
            mock.patch.dict(os.environ, environment, clear=True),
            mock.patch.object(tempfile, "tempdir", environment["TMPDIR"]),
            mock.patch.object(sys, "argv", ["cutset", *words]),
            contextlib.chdir(folder),
            _redirected("stdout", 1, out),
            _redirected("stderr", 2, err),
        ):
            code = run(words)
        out.seek(0)
        err.seek(0)
        return code, out.read().decode(), err.read().decode()


@contextlib.contextmanager
def _redirected(name: str, number: int, file: IO[bytes]) -> Iterator[None]:
    """Send a stream to a file, and so what children and libraries in C write to its number."""
    shown, kept = getattr(sys, name), os.dup(number)
    shown.flush()
    os.dup2(file.fileno(), number)
    try:
        with open(number, "w", encoding="utf-8", closefd=False) as text:
            setattr(sys, name, text)
            yield
    finally:
        setattr(sys, name, shown)
        os.dup2(kept, number)
        os.close(kept)
