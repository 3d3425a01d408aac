"""Read one request body: bounded, decompressed, and laid out so that its tensors need no further copy."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import numpy as np

_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_ALIGNMENT = 64  # the vector kernels' cache line

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


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int) -> list[bytes]:
    """Return the body's chunks as sent.

    Args:
        receive: The ASGI channel.
        headers: The request's headers, names in lower case.
        limit: Most bytes to take.

    Raises:
        BodyError: 413 above the limit, before the body is read where its length is announced.
        Disconnected: If the client left.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced[:19]) > limit:
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
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks


def decompress(chunks: list[bytes], encoding: str, limit: int) -> list[bytes]:
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


def join_aligned(chunks: list[bytes], offset: int) -> memoryview:
    """Return the chunks as one buffer whose byte `offset` lies on a 64-byte boundary.

    The first raw tensor starts there, so numpy and the kernels use it in place; it costs what `bytes.join` would.
    """
    size = sum(map(len, chunks))
    block = np.empty(size + 2 * _ALIGNMENT, dtype=np.uint8)
    start = -(block.ctypes.data + offset) % _ALIGNMENT
    joined = block[start : start + size].data
    position = 0
    for chunk in chunks:
        joined[position : position + len(chunk)] = chunk
        position += len(chunk)
    return joined.toreadonly()


def _too_large(limit: int) -> BodyError:
    return BodyError(413, f"the request is larger than {limit} bytes; the server's --max-body-mb raises the limit")
