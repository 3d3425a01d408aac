"""Cutset's own commands, run as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def cutset(*words: object) -> dict[str, Any]:
    """Return the JSON that a command prints.

    Raises:
        RuntimeError: If it fails; the message has its words.
    """
    command = [sys.executable, "-P", "-m", "cutset", *map(str, words), "--json", "-q"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"cutset {words[0]} ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-400:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
