"""The connection in front of the HTTP server: bounds on the head of a request, which uvicorn leaves open, and large bodies.

A body of announced length goes from the socket straight to where its tensors are used. Through the parser and the
channel of ASGI it would be copied six times, which is most of what a large request costs (benchmarks/fronts.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .body import EXTENSION, AnnouncedBody
from .settings import ServerSettings

MAX_HEAD_BYTES = 64 * 2**10
_TOO_LARGE_BODY = b'{"error": "the head of the request is too long"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LARGE_BODY), _TOO_LARGE_BODY)
)


_HEAD_READ_BYTES = 16 * 2**10
"""Most bytes of one read while a head is expected; what it has of a body is copied, and the rest is not."""


class GuardedProtocol(HttpToolsProtocol):
    """The parser of one connection; it is closed if a request's head is slow or endless."""

    head_timeout_s = 10.0
    body_timeout_s = 60.0
    max_body_bytes = 0
    _deadline: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _head_open = False
    _head_bytes = 0
    _body: AnnouncedBody | None = None

    def connection_made(self, transport: Any) -> None:
        """Give the first request's head its time."""
        self._gathering = _Gathering(transport, self)
        super().connection_made(cast("asyncio.Transport", self._gathering))
        self._head_open = True
        self._limit(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what a head that is still open has cost."""
        super().data_received(data)
        if self._body is not None:  # the parser would wait for the rest of it
            self.parser = httptools.HttpRequestParser(self)
        if not self._head_open:
            return
        self._head_bytes += len(data)
        if self._deadline is None:  # most heads come whole, and need none
            self._limit(self.head_timeout_s)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to count, on a connection that is used again."""
        super().on_message_begin()
        self._head_open = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """End the head's time, and make ready for the body."""
        self._head_open = False
        self._deadline = None
        self._body = self._announced()
        if self._body is not None:
            self._limit(self.body_timeout_s)
            self.scope["extensions"] = {EXTENSION: cast("dict[object, object]", self._body)}
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take what the parser has of a body."""
        if self._body is None:
            super().on_body(body)
        elif self.cycle.response_complete:
            self._body.advance(len(body))
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Tell the application that the body is there."""
        self._body = self._deadline = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Send the response."""
        self._gathering.flush()
        if self._body is not None and self.cycle.response_complete:  # and not that of a request before it
            self._body.discard()
        super().on_response_complete()

    def room(self, otherwise: memoryview) -> memoryview | None:
        """Return where the rest of an announced body is to be received; None where the parser must see what comes.

        Args:
            otherwise: Memory for what nobody wants, because the request was answered already.
        """
        if self._body is None:
            return None
        return otherwise[: self._body.missing] if self.cycle.response_complete else self._body.room()

    def advance(self, count: int) -> None:
        """Take note of `count` bytes that were received there."""
        assert self._body is not None
        self._body.advance(count)
        if self._body.missing == 0:
            self.on_message_complete()

    def _announced(self) -> AnnouncedBody | None:
        """Return the body that the head announces, None where its end must be found by the parser, or it is too large."""
        found = dict(self.headers)
        length, split = found.get(b"content-length", b""), found.get(b"inference-header-content-length", b"")
        if not (length.isdigit() and 0 < int(length[:19]) <= self.max_body_bytes) or b"transfer-encoding" in found:
            return None
        offset = int(split[:19]) if split.isdigit() else 0
        return None if self.parser.should_upgrade() else AnnouncedBody(int(length), offset)

    def _limit(self, seconds: float) -> None:
        """Give what comes next its time. A timer that runs is left to run, for setting one costs more than looking again."""
        self._deadline = self.loop.time() + seconds
        if self._timer is None or self._timer.when() > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(self._deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self._deadline is None:
            return
        if self.loop.time() < self._deadline:
            self._timer = self.loop.call_at(self._deadline, self._expire)
        elif self._body is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self._body.late = True
            self.cycle.message_event.set()  # the application answers


class _Gathering:
    """A transport that sends the parts of a response together: a system call, and a client that wakes, less for each."""

    def __init__(self, transport: asyncio.Transport, parser: GuardedProtocol) -> None:
        self._transport = transport
        self._parser = parser
        self._parts: list[bytes | memoryview] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | memoryview) -> None:
        """Send what is no part of a response at once, and keep the rest until the response is complete."""
        cycle = self._parser.cycle
        if cycle is None or not cycle.response_started or cycle.response_complete:
            self._transport.write(data)
        else:
            self._parts.append(data)

    def flush(self) -> None:
        """Send what was kept."""
        if self._parts:
            self._transport.writelines(self._parts)
            self._parts = []

    def close(self) -> None:
        """Send what was kept, and close."""
        self.flush()
        self._transport.close()


class Connection(asyncio.BufferedProtocol):
    """Receives what a client sends: heads for the parser, announced bodies past it.

    Args:
        parser: The parser of this connection.
        scratch: Memory for a read that the parser sees at once; connections of one event loop may share it.
    """

    def __init__(self, parser: GuardedProtocol, scratch: memoryview) -> None:
        self._parser = parser
        self._scratch = scratch
        self._past_parser = False
        self.connection_made = parser.connection_made  # type: ignore[method-assign]
        self.connection_lost = parser.connection_lost  # type: ignore[method-assign]
        self.eof_received = parser.eof_received  # type: ignore[method-assign]
        self.pause_writing = parser.pause_writing  # type: ignore[method-assign]
        self.resume_writing = parser.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Return where the next bytes are to be put."""
        room = self._parser.room(self._scratch)
        self._past_parser = room is not None
        return self._scratch if room is None else room

    def buffer_updated(self, nbytes: int) -> None:
        """Take the bytes that were put there."""
        if self._past_parser:
            self._parser.advance(nbytes)
        else:
            self._parser.data_received(bytes(self._scratch[:nbytes]))


def connections(settings: ServerSettings) -> Callable[..., Connection]:
    """Return the maker of connections that uvicorn calls."""
    limits = {name: getattr(settings, name) for name in ("head_timeout_s", "body_timeout_s", "max_body_bytes")}
    limited = type("LimitedProtocol", (GuardedProtocol,), limits)
    scratch = memoryview(bytearray(_HEAD_READ_BYTES))
    return lambda **options: Connection(limited(**options), scratch)
