"""The emitted package as a server of its own process, as a user would start it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cutset.errors import CutsetError

READY = "ready: "
STOP_S = 30


@contextlib.contextmanager
def serving(package: Path) -> Iterator[str]:
    """Start the server of a package on a free port and yield the model's URL; stop it at the end.

    Raises:
        CutsetError: If it does not start; its own words have gone to stderr.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", package.name, "--port", "0"]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as child:  # noqa: S603 - our own package
        try:
            assert child.stdout is not None
            line = next((line for line in child.stdout if line.startswith(READY)), None)
            if line is None:
                raise CutsetError(f"the server of {package.name} did not start", hint=f"try: python -m {package.name}")
            yield line.removeprefix(READY).strip()
        finally:
            child.terminate()
            child.wait(STOP_S)
