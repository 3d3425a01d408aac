"""Run a stage in processes of its own: one that holds Python's interpreter lock, or may crash, does not hold up the rest.

Tensors lie in shared memory, and one line of JSON each way says where. A child ends when its parent does, because its
standard input ends then.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..config import StageConfig
from ..dtypes import Value, element_of
from ..sharedbuffer import SharedBuffer
from .base import BackendDied, BackendError, BackendOptions

_STOP_S = 5.0


class ProcessBackend:
    """As many children as workers call the stage at once, each with the stage loaded."""

    device = "cpu"
    substitution = None

    @classmethod
    def load(cls, stage: StageConfig, options: BackendOptions) -> ProcessBackend:
        """Return the stage, loaded in every child.

        Raises:
            BackendError: If a child cannot load it.
        """
        children: list[_Child] = []
        try:
            children.extend(_Child(stage, options) for _ in range(options.workers))
            for child in children:
                child.await_ready()
        except BaseException:
            for child in children:
                child.close()
            raise
        return cls(children)

    def __init__(self, children: list[_Child]) -> None:
        self._children = children
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        for child in children:
            self._idle.put(child)

    @property
    def process_ids(self) -> list[int]:
        """The children's process ids."""
        return [child.pid for child in self._children]

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        child = self._idle.get()
        try:
            return child.run(feeds)
        finally:
            self._idle.put(child)

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.close()


class _Child:
    """One process, and the two buffers shared with it; used by one thread at a time."""

    def __init__(self, stage: StageConfig, options: BackendOptions) -> None:
        self._sent, self._received = SharedBuffer(), SharedBuffer()
        handles = (self._sent.handle, self._received.handle)
        module = f"{__package__.rpartition('.')[0]}.worker"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, *map(str, handles)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=handles,
            env=environment,
        )
        self.pid = self._process.pid
        self._closed = False
        self._tell(
            {"stage": asdict(stage) | {"execution": "thread", "wanted": {}}, "options": asdict(options) | {"workers": 1}}
        )

    def await_ready(self) -> None:
        """Return when the stage is loaded."""
        with contextlib.suppress(BackendDied):
            self._hear()
            return
        raise BackendError(f"the stage's process ended with exit code {self._process.wait()} while it was loading")

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run.

        Raises:
            BackendDied: If the process is gone.
            BackendError: If the run failed in it.
        """
        layout = self._sent.write([(name, element_of(value), value) for name, value in feeds.items()])
        self._tell(layout)
        return self._received.read(self._hear()["outputs"], copy=True)

    def close(self) -> None:
        """End the process, by force if it does not go."""
        if self._closed:
            return
        self._closed = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._sent.close()
        self._received.close()

    def _tell(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message, default=str).encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError) as error:
            raise BackendDied(f"the stage's process {self.pid} is gone") from error

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = self._process.stdout.readline()
        except ValueError:  # closed by `close`
            line = b""
        if not line.endswith(b"\n"):
            raise BackendDied(f"the stage's process {self.pid} is gone")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BackendError(answer["error"])
        return answer
