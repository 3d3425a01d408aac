"""Read one request body: bounded, decompressed, and laid out so that its tensors need no further copy."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from .wire import Buffer

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ALIGNMENT = 64  # the vector kernels' cache line
_FIRST_BYTES = 2**20  # what an announcement alone reserves; a larger body must come before it gets its memory
_GROWTH = 8  # then so many times as much as has come: a seventh of a large body is copied once more
_NOTHING = memoryview(b"")
EXTENSION = "cutset.body"
"""Where in an ASGI scope's extensions a connection puts the request's `AnnouncedBody`."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyError(Exception):
    """The body cannot be taken.

    Args:
        status: The HTTP status to answer with.
        message: What is wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Disconnected(Exception):  # noqa: N818 - the client's choice, not an error
    """The client left before its request was complete."""


def content_encoding(headers: Mapping[bytes, bytes]) -> str | None:
    """Return ``"gzip"``, ``"deflate"`` or None.

    Raises:
        BodyError: 415 for any other.
    """
    name = headers.get(b"content-encoding", b"identity").decode("latin-1").strip().lower()
    if name in _WINDOW_BITS:
        return name
    if name in ("identity", ""):
        return None
    raise BodyError(415, f"content encoding {name!r} is not supported, only gzip and deflate")


def header_length(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the size of the JSON part as the binary extension announces it, or None.

    Raises:
        BodyError: 400 if it is no number.
    """
    text = headers.get(b"inference-header-content-length")
    if text is None:
        return None
    if not (text.isdigit() and len(text) <= 18):
        raise BodyError(400, "Inference-Header-Content-Length must be a number of bytes")
    return int(text)


class AnnouncedBody:
    """A body of known length in the making: the connection receives it where the tensors will be used.

    Args:
        size: Its length in bytes.
        offset: The byte that lies on a 64-byte boundary: where the first raw tensor begins.
    """

    def __init__(self, size: int, offset: int) -> None:
        self._size, self._offset = size, offset
        self._block = _NOTHING
        self._received = 0
        self.late = False
        """Set when its time is over before it is there."""

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return self._size - self._received

    def room(self) -> memoryview:
        """Return memory for the bytes that come next, not always for all of them."""
        if self._received == len(self._block):
            larger = _aligned(min(self._size, max(_FIRST_BYTES, _GROWTH * self._received)), self._offset)
            larger[: self._received] = self._block
            self._block = larger
        return self._block[self._received :]

    def advance(self, count: int) -> None:
        """Note that the next `count` bytes have come: into `room`, or nowhere if nobody wants them."""
        self._received += count

    def discard(self) -> None:
        """Let go of what has come: the request was answered without it."""
        self._block = _NOTHING

    def append(self, chunk: bytes) -> None:
        """Take bytes that came elsewhere."""
        while chunk:
            room = self.room()[: len(chunk)]
            room[:] = chunk[: len(room)]
            self.advance(len(room))
            chunk = chunk[len(room) :]

    def view(self) -> memoryview:
        """Return what has come."""
        return self._block[: self._received].toreadonly()


async def read_body(
    receive: Receive, headers: Mapping[bytes, bytes], limit: int, announced: AnnouncedBody | None = None
) -> list[bytes]:
    """Return the body's chunks as sent.

    Args:
        receive: The ASGI channel.
        headers: The request's headers, names in lower case.
        limit: Most bytes to take.
        announced: Where the connection puts the bytes; the channel then tells of the end only, and nothing is returned.

    Raises:
        BodyError: 413 above the limit, before the body is read where its length is announced.
        Disconnected: If the client left.
        TimeoutError: If the announced body is late.
    """
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length[:19]) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        if announced is not None and announced.late:
            raise TimeoutError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks


def decompress(chunks: Sequence[Buffer], encoding: str, limit: int) -> list[bytes]:
    """Return the decompressed chunks.

    Args:
        chunks: One gzip or zlib stream.
        encoding: ``"gzip"`` or ``"deflate"``.
        limit: Most bytes to make; a small body can unfold to a thousand times its size.

    Raises:
        BodyError: 413 above the limit; 400 if the stream is damaged, cut short or followed by something.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    plain: list[bytes] = []
    left = limit
    try:
        for chunk in chunks:
            plain.append(stream.decompress(chunk, left + 1))
            left -= len(plain[-1])
            if left < 0:
                raise _too_large(limit)
    except zlib.error as error:
        raise BodyError(400, f"the {encoding} body is damaged: {error}") from None
    if not stream.eof:
        raise BodyError(400, f"the {encoding} body ends early")
    if stream.unused_data:
        raise BodyError(400, f"data follows the {encoding} stream")
    return plain


def join_aligned(chunks: Sequence[Buffer], offset: int) -> memoryview:
    """Return the chunks as one buffer whose byte `offset` lies on a 64-byte boundary.

    The first raw tensor starts there, so numpy and the kernels use it in place; it costs what `bytes.join` would.
    """
    joined = _aligned(sum(map(len, chunks)), offset)
    position = 0
    for chunk in chunks:
        joined[position : position + len(chunk)] = chunk
        position += len(chunk)
    return joined.toreadonly()


def _aligned(size: int, offset: int) -> memoryview:
    """Return `size` bytes of new memory whose byte `offset` lies on a 64-byte boundary."""
    block = np.empty(size + 2 * _ALIGNMENT, dtype=np.uint8).data
    start = -(ctypes.addressof(ctypes.c_char.from_buffer(block)) + offset) % _ALIGNMENT
    return block[start : start + size]


def _too_large(limit: int) -> BodyError:
    return BodyError(413, f"the request is larger than {limit} bytes; the server's --max-body-mb raises the limit")
