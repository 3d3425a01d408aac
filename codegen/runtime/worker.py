"""A stage's own process; see `backends.process`. Started as ``python -m <package>.runtime.worker SENT RECEIVED``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, BinaryIO

from .backends import load_stage
from .backends.base import BackendOptions, StageBackend
from .config import CustomOps, StageConfig
from .dtypes import element_of
from .errors import ConfigError
from .sharedbuffer import SharedBuffer


def main() -> None:
    """Load the stage that the first line names, then answer a line for each until standard input ends."""
    for number in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C goes to the whole group; the parent says when to end
        signal.signal(number, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    received, sent = (SharedBuffer(int(handle)) for handle in sys.argv[1:3])
    try:
        backend = _load(json.loads(requests.readline()))
    except ConfigError as error:
        _answer(answers, {"error": str(error)})
        return
    _answer(answers, {})
    for line in requests:
        _answer(answers, _run(backend, received, sent, json.loads(line)))


def _load(message: dict[str, Any]) -> StageBackend:
    stage, options = message["stage"], message["options"]
    libraries = [{**entry, "file": Path(entry["file"]) if entry["file"] else None} for entry in options["custom_ops"]]
    stage |= {"model": Path(stage["model"]), "inputs": tuple(stage["inputs"]), "outputs": tuple(stage["outputs"])}
    options |= {"custom_ops": tuple(CustomOps(**entry) for entry in libraries)}
    return load_stage(StageConfig(**stage), BackendOptions(**options))


def _run(backend: StageBackend, received: SharedBuffer, sent: SharedBuffer, layout: list[list[Any]]) -> dict[str, Any]:
    try:
        outputs = backend.run(received.read(layout, copy=False))
        return {"outputs": sent.write([(name, element_of(value), value) for name, value in outputs.items()])}
    except Exception as error:  # whatever it is belongs to the request
        return {"error": str(error)}


def _answer(answers: BinaryIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
