"""Run a stage in processes of its own: one that holds Python's interpreter lock, or may crash, does not hold up the rest.

Tensors lie in shared memory, and one line of JSON each way says where. A child ends when its parent does, because its
standard input ends then. A child whose run takes longer than the stage's limit is killed: a thread could not be.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ..config import StageConfig
from ..dtypes import Value, element_of
from ..sharedbuffer import SharedBuffer
from .base import BackendDied, BackendError, BackendGone, BackendHung, BackendOptions, time_limit_s

_STOP_S = 5.0
_CHUNK_BYTES = 2**16


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
            _close(children)
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
        _close(self._children)


def _close(children: list[_Child]) -> None:
    """End children: all are told before the first is waited for."""
    for child in children:
        child.dismiss()
    until = time.monotonic() + _STOP_S
    for child in children:
        child.close(until)


class _Child:
    """One process, and the two buffers shared with it; used by one thread at a time."""

    def __init__(self, stage: StageConfig, options: BackendOptions) -> None:
        self._sent, self._received = SharedBuffer(), SharedBuffer()
        handles = (self._sent.handle, self._received.handle)
        self._limit_s = time_limit_s(stage, options.stage_timeout_s)
        module = f"{__package__.rpartition('.')[0]}.worker"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", module, *map(str, handles)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=handles,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._requests.fileno(), False)
        self.pid = self._process.pid
        self._lost = False
        self._closed = False
        self._send(
            {"stage": asdict(stage) | {"execution": "thread", "wanted": {}}, "options": asdict(options) | {"workers": 1}},
            math.inf,
        )

    def await_ready(self) -> None:
        """Return when the stage is loaded."""
        with contextlib.suppress(BackendDied):
            _check(self._receive(math.inf))
            return
        raise BackendError(f"the stage's process ended with exit code {self._process.wait()} while it was loading")

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run.

        Raises:
            BackendGone: If the process was gone before the run.
            BackendHung: If the run took longer than the stage's limit; the process is killed.
            BackendDied: If the process ended during the run.
            BackendError: If the run failed in it.
        """
        if self._lost or self._closed or self._process.poll() is not None:
            raise BackendGone(f"the stage's process {self.pid} is gone")
        until = time.monotonic() + self._limit_s
        layout = self._sent.write([(name, element_of(value), value) for name, value in feeds.items()])
        self._lost = True  # whatever ends this run early, no later run may read the answer to this one
        self._send(layout, until)
        answer = self._receive(until)
        self._lost = False
        _check(answer)
        return self._received.read(answer["outputs"], copy=True)

    def dismiss(self) -> None:
        """Tell the process that nothing more will come."""
        with contextlib.suppress(OSError):
            self._requests.close()

    def close(self, until: float) -> None:
        """End the process, by force if it has not gone at a time of `time.monotonic`."""
        if self._closed:
            return
        self._closed = True
        self.dismiss()
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._sent.close()
        self._received.close()

    def _send(self, message: object, until: float) -> None:
        """Write a line; a child that does not read is as good as hung, for the pipe holds more than one message."""
        rest = memoryview(json.dumps(message, default=str).encode() + b"\n")
        try:
            while rest:
                self._wait(self._requests.fileno(), select.POLLOUT, until)
                rest = rest[self._requests.write(rest) or 0 :]
        except (OSError, ValueError) as error:
            raise BackendDied(f"the stage's process {self.pid} is gone") from error

    def _receive(self, until: float) -> dict[str, Any]:
        """Return the message that the child answers."""
        line = b""
        while not line.endswith(b"\n"):
            try:
                self._wait(self._answers.fileno(), select.POLLIN, until)
                chunk = self._answers.read(_CHUNK_BYTES)
            except (OSError, ValueError):  # closed by `close`
                chunk = b""
            if not chunk:
                raise BackendDied(f"the stage's process {self.pid} is gone")
            line += chunk
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _wait(self, handle: int, event: int, until: float) -> None:
        """Return when a pipe can be used, or has been closed by the child; kill the child when its time is up."""
        poll = select.poll()
        poll.register(handle, event)
        left_s = until - time.monotonic()
        if not poll.poll(None if left_s == math.inf else max(0.0, 1000 * left_s)):
            self._process.kill()
            raise BackendHung(f"the run took longer than {self._limit_s:g} s, and its process {self.pid} was ended")


def _check(answer: Mapping[str, Any]) -> None:
    """Raise `BackendError` if a child's answer says that the run failed."""
    if "error" in answer:
        raise BackendError(answer["error"])
