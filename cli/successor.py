"""The program that takes the place of a command's process once the command line has cleaned up behind itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn


@dataclass(frozen=True, slots=True, kw_only=True)
class Successor:
    """A program to become.

    Args:
        words: The program's file and its arguments.
        environment: The program's environment variables, all of them.
    """

    words: Sequence[str]
    environment: Mapping[str, str]

    def start(self) -> NoReturn:
        """Replace this process.

        Raises:
            OSError: If the program cannot be started.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        os.execve(self.words[0], list(self.words), dict(self.environment))  # noqa: S606 - a command chose the program
