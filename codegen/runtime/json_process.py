"""Read and write large JSON in a process of its own.

Python's JSON holds the interpreter's lock for as long as a document takes: 64 MB of numbers stop every other request, and the
health checks, for two seconds. The process is started by the first large document.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .dtypes import Tensor
from .errors import Closed, PipelineError
from .json_worker import receive, send
from .protocol import Codec, Described, Header, ProtocolError

_BINARY = "send and ask for large tensors as binary tensor data"
_STOP_S = 5.0


class JsonTooLarge(Exception):  # noqa: N818 - the status's name
    """The JSON has more bytes, or takes more memory, than the server allows; 413."""


class JsonProcess:
    """A codec's slow half, in a process that takes one document after the other.

    Args:
        codec: The codec of the served model.
        memory_bytes: Memory that the process may take for a document.
    """

    def __init__(self, codec: Codec, memory_bytes: int) -> None:
        self._words, self._memory_bytes = codec.words, memory_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cutset-json")

    @property
    def process_id(self) -> int | None:
        """Id of the process, None before the first large document."""
        return None if self._child is None else self._child.pid

    async def read_header(self, text: memoryview) -> Header:
        """Return what the JSON part of a request says; see `Codec.read_header`.

        Raises:
            ProtocolError: If it is malformed.
            JsonTooLarge: If it takes more memory than allowed.
            PipelineError: If the process died of it.
        """
        header: Header = await self._call(None, text)
        return header

    async def write_header(
        self, identifier: str | None, described: Sequence[Described], tensors: Mapping[str, Tensor]
    ) -> bytes:
        """Return the JSON part of a response; see `Codec.write_header`.

        Raises:
            ProtocolError, JsonTooLarge, PipelineError: As `read_header`.
        """
        header: bytes = await self._call((identifier, described, tensors), memoryview(b""))
        return header

    def close(self) -> None:
        """End the process."""
        self._closed = True
        child = self._child
        if child is not None:
            child.kill()  # it has nothing to finish, and a call that waits for it ends
        self._thread.shutdown()
        self._end()

    async def _call(self, arguments: tuple[object, ...] | None, text: memoryview) -> Any:
        if self._closed:
            raise Closed("the server is stopping")
        loop = asyncio.get_running_loop()
        kind, result = await loop.run_in_executor(self._thread, self._ask, arguments, text)
        if kind == "refused":
            raise ProtocolError(result)
        if kind == "memory":
            raise JsonTooLarge(f"the JSON takes more memory than the server gives it; {_BINARY}")
        if kind == "failed":
            raise RuntimeError(result)
        return result

    def _ask(self, arguments: tuple[object, ...] | None, text: memoryview) -> tuple[str, Any]:
        """Return the answer of the process. Runs in the only thread that uses the pipes."""
        if self._child is not None and self._child.poll() is not None:
            self._end()  # it died between two documents: no fault of this one
        try:
            child = self._started()
            assert child.stdin is not None
            assert child.stdout is not None
            send(child.stdin, arguments, text)  # type: ignore[arg-type]
            (kind, result), _ = receive(child.stdout)  # type: ignore[arg-type]
        except (OSError, EOFError) as error:
            self._end()
            raise PipelineError("the process that handles large JSON ended", hint=_BINARY) from error
        except BaseException:  # out of memory, say: no later call may read the answer to this one
            self._end()
            raise
        return kind, result

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            module = f"{__package__}.json_worker"
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            environment["OPENBLAS_NUM_THREADS"] = "1"  # numpy multiplies nothing here, and each thread takes memory
            self._child = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
            )
            assert self._child.stdin is not None
            send(self._child.stdin, (self._words, self._memory_bytes))  # type: ignore[arg-type]
        return self._child

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait(_STOP_S)
        for stream in (child.stdin, child.stdout):
            if stream is not None:
                stream.close()


def check_json_size(size: int, limit: int) -> None:
    """Check the length of the JSON part of a request.

    Raises:
        JsonTooLarge: If it is longer than the limit.
    """
    if size > limit:
        raise JsonTooLarge(f"the JSON has {size} bytes, more than {limit}; {_BINARY}, or raise the server's --max-json-mb")
