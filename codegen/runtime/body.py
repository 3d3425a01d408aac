"""Read one request body: bounded, decompressed, and laid out so that its tensors need no further copy."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from .budget import BudgetExceeded, Lease
from .wire import Buffer

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ALIGNMENT = 64  # the vector kernels' cache line
_FIRST_BYTES = 2**20  # what an announcement alone reserves; a larger body must come before it gets its memory
_GROWTH = 8  # then so many times as much as has come: a seventh of a large body is copied once more
_UNFOLD_BYTES = 2**20  # of one step of decompression, between which memory is asked for
_LENGTH_DIGITS = 19  # the largest length that all parsers read alike: 2**63 has 19
_NOTHING = memoryview(bytearray())
EXTENSION = "cutset.body"
"""Where in an ASGI scope's extensions a connection puts the request's `Exchange`."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class BodyError(Exception):
    """The body cannot be taken.

    Args:
        status: The HTTP status to answer with.
        message: What is wrong.
        closes: Whether the connection must end, for nobody knows where the next request begins.
    """

    def __init__(self, status: int, message: str, *, closes: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.closes = closes or status in (408, 413)


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


def content_length(headers: Mapping[bytes, bytes]) -> int | None:
    """Return the length that a request announces, None where it announces none.

    Raises:
        BodyError: 400 if the length is not a number of at most 19 digits: parsers disagree on longer ones.
    """
    text = headers.get(b"content-length")
    if text is None:
        return None
    if not text.isdigit() or len(text) > _LENGTH_DIGITS:
        raise BodyError(400, f"Content-Length must be a number of at most {_LENGTH_DIGITS} digits", closes=True)
    return int(text)


def check_transfer_encoding(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Check that a body comes plain or in chunks.

    Raises:
        BodyError: 501 for any other transfer coding, which nobody would undo.
    """
    codings = [value.strip().lower() for name, value in headers if name == b"transfer-encoding"]
    if codings not in ([], [b"chunked"]):
        found = b", ".join(codings).decode("latin-1")
        message = f"transfer encoding {found!r} is not supported, only chunked; Content-Encoding may be gzip or deflate"
        raise BodyError(501, message, closes=True)


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
        size: Length of the body in bytes.
        offset: The byte that lies on a 64-byte boundary: where the first raw tensor begins.
        lease: The request's part of the memory budget.
    """

    def __init__(self, size: int, offset: int, lease: Lease) -> None:
        self._size, self._offset, self._lease = size, offset, lease
        self._block = _NOTHING
        self._received = 0
        self._wanted = True
        self.late = False
        """Set when the time of the body is over before the body is there."""
        self.refused = ""
        """Why the server has no memory for the body; empty while there is memory."""

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return self._size - self._received

    def room(self) -> memoryview:
        """Return memory for some of the bytes that come next; none if nobody wants the body."""
        if self._wanted and self._received == len(self._block):
            self._enlarge()
        return self._block[self._received :] if self._wanted else _NOTHING

    def advance(self, count: int) -> None:
        """Note that the next `count` bytes have come: into `room`, or nowhere if nobody wants them."""
        self._received += count

    def discard(self) -> None:
        """Let go of what has come; the rest is received into nothing."""
        self._wanted, self._block = False, _NOTHING
        self._lease.release()

    def append(self, chunk: bytes) -> None:
        """Take bytes that came elsewhere."""
        while chunk:
            room = self.room()[: len(chunk)]
            room[:] = chunk[: len(room)]
            self.advance(len(room) or len(chunk))
            chunk = chunk[len(room) or len(chunk) :]

    def view(self) -> memoryview:
        """Return what has come."""
        return self._block[: self._received].toreadonly()

    def _enlarge(self) -> None:
        size = min(self._size, max(_FIRST_BYTES, _GROWTH * self._received))
        try:
            self._lease.resize(size)
            larger = _aligned(size, self._offset)
        except (BudgetExceeded, MemoryError) as error:
            self.refused = str(error) or "the server is out of memory"
            self.discard()
            return
        larger[: self._received] = self._block
        self._block = larger


class Exchange:
    """The state that a connection keeps of one request beside the ASGI scope.

    Args:
        lease: The memory of the request and of its answer; the application gives it back.
        body: The body, where its length was announced.
        sent: Waits until the client has taken what was sent.
    """

    def __init__(
        self, lease: Lease, body: AnnouncedBody | None = None, sent: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.lease = lease
        self.body = body
        self.sent = sent
        self.left = False
        """Set when the client is gone."""


async def receive_announced(receive: Receive, body: AnnouncedBody) -> memoryview:
    """Return an announced body once all of it has come.

    Args:
        receive: The ASGI channel, which tells of the end only.
        body: Where the connection puts the bytes.

    Raises:
        BudgetExceeded: If there is no memory for it.
        Disconnected: If the client left.
        TimeoutError: If it is late.
    """
    while True:
        if body.refused:
            raise BudgetExceeded(body.refused)
        if not body.missing:
            return body.view()
        if body.late:
            raise TimeoutError
        if (await receive())["type"] == "http.disconnect":
            raise Disconnected


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, lease: Lease) -> list[bytes]:
    """Return the body's chunks as sent.

    Args:
        receive: The ASGI channel.
        headers: The request's headers, names in lower case.
        limit: Most bytes to take.
        lease: The request's part of the memory budget.

    Raises:
        BodyError: 413 above the limit, before the body is read where its length is announced.
        BudgetExceeded: If there is no memory for it.
        Disconnected: If the client left.
    """
    if (content_length(headers) or 0) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        lease.grow(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks


def decompress(chunks: Sequence[Buffer], encoding: str, limit: int, lease: Lease) -> list[bytes]:
    """Return the decompressed chunks.

    Args:
        chunks: One gzip or zlib stream.
        encoding: ``"gzip"`` or ``"deflate"``.
        limit: Most bytes to make; a small body can unfold to a thousand times its size.
        lease: The request's part of the memory budget.

    Raises:
        BudgetExceeded: If there is no memory for the result.
        BodyError: 413 above the limit; 400 if the stream is damaged, cut short or followed by something.
    """
    stream = zlib.decompressobj(_WINDOW_BITS[encoding])
    plain: list[bytes] = []
    left = limit
    try:
        for part in _unfold(stream, chunks):
            left -= len(part)
            if left < 0:
                raise _too_large(limit)
            if stream.unused_data:
                raise BodyError(400, f"data follows the {encoding} stream")
            lease.grow(len(part))
            plain.append(part)
    except zlib.error as error:
        raise BodyError(400, f"the {encoding} body is damaged: {error}") from None
    if not stream.eof:
        raise BodyError(400, f"the {encoding} body ends early")
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


def _unfold(stream: zlib._Decompress, chunks: Sequence[Buffer]) -> Iterator[bytes]:
    """Yield what the chunks unfold to, step by step; a step takes little, for zlib copies the input that it leaves over."""
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _UNFOLD_BYTES):
            rest: Buffer = view[start : start + _UNFOLD_BYTES]
            full = True
            while rest or full:  # a full step may have more to give without any input
                part = stream.decompress(rest, _UNFOLD_BYTES)
                full = len(part) == _UNFOLD_BYTES
                rest = stream.unconsumed_tail
                yield part


def _too_large(limit: int) -> BodyError:
    return BodyError(413, f"the request is larger than {limit} bytes; the server's --max-body-mb raises the limit")
