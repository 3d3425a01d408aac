"""The process that reads and writes large JSON; see `json_process`. Started as ``python -m <package>.runtime.json_worker``."""

from __future__ import annotations

import io
import os
import pickle
import signal
import struct
import traceback
from typing import Any

import numpy as np

from .protocol import Codec, ProtocolError

_SIZES = struct.Struct("<QQ")
_NOTHING = memoryview(b"")
_NICENESS = 10  # large JSON is the slow way: on two cores it must not take half of what small requests have


def main() -> None:
    """Answer one call after the other until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they go to the whole group; the parent says when to end
        signal.signal(number, signal.SIG_IGN)
    calls, answers = io.FileIO(0, closefd=False), io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not look like an answer
    os.nice(_NICENESS)
    (words, memory_bytes), _ = receive(calls)
    codec = Codec(*words)
    from .backends.engine_build import limit_memory  # noqa: PLC0415 - the parent does without

    limit_memory(memory_bytes)
    try:
        while True:
            arguments, text = receive(calls)
            send(answers, _answer(codec, arguments, text))
            del arguments, text
    except EOFError:
        return


def _answer(codec: Codec, arguments: tuple[Any, ...] | None, text: memoryview) -> tuple[str, Any]:
    """Return what came of a call, ``"done"`` or the kind of its failure, and the result or the words.

    Args:
        codec: The codec of the served model.
        arguments: Those of `Codec.write_header`; None reads the text.
        text: The JSON part of a request.
    """
    try:
        return "done", codec.read_header(text) if arguments is None else codec.write_header(*arguments)
    except ProtocolError as error:
        return "refused", str(error)
    except MemoryError:
        return "memory", ""
    except Exception:
        return "failed", traceback.format_exc()


def send(stream: io.RawIOBase, message: object, text: memoryview = _NOTHING) -> None:
    """Write a message, and a text that is not copied on its way.

    The text is no `pickle.PickleBuffer`: the garbage collector of Python 3.11 crashes on such a buffer over a memoryview.

    Raises:
        OSError: If the other side is gone.
    """
    pickled = pickle.dumps(message, protocol=5)
    for part in (_SIZES.pack(len(pickled), len(text)), pickled, text):
        _write(stream, memoryview(part))


def receive(stream: io.RawIOBase) -> tuple[Any, memoryview]:
    """Return the next message and its text. They come from the other end of a pipe of our own, so pickle is safe.

    Raises:
        EOFError: If the other side is gone.
    """
    size, length = _SIZES.unpack(_read(stream, _SIZES.size))
    return pickle.loads(_read(stream, size)), _read(stream, length)  # noqa: S301


def _write(stream: io.RawIOBase, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) or 0 :]


def _read(stream: io.RawIOBase, size: int) -> memoryview:
    block = np.empty(size, dtype=np.uint8).data
    position = 0
    while position < size:
        count = stream.readinto(block[position:])
        if not count:
            raise EOFError
        position += count
    return block


if __name__ == "__main__":
    main()
