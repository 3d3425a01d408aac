"""The connection in front of the HTTP server: bounds on the head of a request, which uvicorn leaves open, and large bodies.

A body of announced length goes from the socket straight to where its tensors are used. Through the parser and the
channel of ASGI it would be copied six times, which is most of what a large request costs (benchmarks/fronts.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .body import EXTENSION, AnnouncedBody, BodyError, Exchange, content_length
from .budget import Lease, MemoryBudget
from .settings import ServerSettings

MAX_HEAD_BYTES = 64 * 2**10
_TOO_LARGE_BODY = b'{"error": "the head of the request is too long"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LARGE_BODY), _TOO_LARGE_BODY)
)
_BAD_REQUEST = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
)
_HEAD_READ_BYTES = 16 * 2**10
"""Most bytes of one read while a head is expected; what it has of a body is copied, and the rest is not."""


class GuardedProtocol(HttpToolsProtocol):
    """The parser of one connection; it is closed if a request's head is slow or endless.

    Nothing large outlives the connection: its end breaks the references between parser, transport and requests, which form
    cycles, so that no body waits for the garbage collector.
    """

    head_timeout_s = 10.0
    body_timeout_s = 60.0
    max_body_bytes = 0
    memory = MemoryBudget(0)
    _deadline: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _head_open = False
    _head_bytes = 0
    _body: AnnouncedBody | None = None
    _declining = False
    """Whether the head asks for another protocol, so that llhttp stops behind it; the request is answered all the same."""
    _muted = False

    def connection_made(self, transport: Any) -> None:
        """Give the first request's head its time."""
        self._open: dict[RequestResponseCycle, Exchange] = {}  # in the order of their answers
        self._gathering = _Gathering(transport, self)
        super().connection_made(cast("asyncio.Transport", self._gathering))
        self._head_open = True
        self._limit(self.head_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request that the client is gone, and let go of everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._unset_keepalive_if_required()
        for cycle, exchange in self._open.items():
            exchange.left = cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)
        while self.pipeline:  # their answers are counted and logged too
            self._start_asgi_task(*self.pipeline.pop())
        self._open = {}
        self._body = None
        self.cycle = self.scope = None  # type: ignore[assignment]
        self._gathering.abandon()

    def data_received(self, data: bytes) -> None:
        """Parse, and count what a head that is still open has cost.

        The time of an idle connection ends with a request that begins, not with any byte: llhttp skips empty lines.
        """
        if not self._parse(data):
            self.logger.warning("Invalid HTTP request received.")
            self.send_400_response("this is no HTTP request")
            return
        if not self._head_open:
            return
        self._head_bytes += len(data)
        if self._deadline is None:  # most heads come whole, and need none
            self._limit(self.head_timeout_s)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, and close."""
        text = json.dumps({"error": msg}).encode()
        self.transport.write(_BAD_REQUEST % (len(text), text))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin to count, on a connection that is used again."""
        if self._muted:
            return
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._head_open = True
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a piece of the path."""
        if not self._muted:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one field of the head."""
        if not self._muted:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """End the head's time, and make ready for the body."""
        if self._muted:
            return
        self._head_open = False
        self._deadline = None
        self._declining = self.parser.should_upgrade()
        lease = self.memory.lease()
        self._body = self._announced(lease)
        if self._body is not None:
            self._limit(self.body_timeout_s)
        exchange = Exchange(lease, self._body, self._sent)
        self.scope["extensions"] = {EXTENSION: cast("dict[object, object]", exchange)}
        super().on_headers_complete()
        self._open[self.cycle] = exchange

    def on_body(self, body: bytes) -> None:
        """Take what the parser has of a body."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body.append(body)
            self._tell_refusal(self._body)

    def on_message_complete(self) -> None:
        """Tell the application that the body is there."""
        if self._declining or self._muted:
            return
        self._body = self._deadline = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Send the response."""
        self._gathering.flush()
        answered = next(iter(self._open))
        del self._open[answered]
        if self._body is not None and self.cycle is answered:
            self._body.discard()
        super().on_response_complete()
        if self._head_open or self._body is not None:  # the next head, or the rest of this body, has a time of its own
            self._unset_keepalive_if_required()

    def room(self, otherwise: memoryview) -> memoryview | None:
        """Return where the rest of an announced body is to be received; None where the parser must see what comes.

        Args:
            otherwise: Memory for what nobody wants: the request was answered already, or there is no memory for it.
        """
        if self._body is None:
            return None
        room = self._body.room()
        if room:
            return room
        self._tell_refusal(self._body)
        return otherwise[: self._body.missing]

    def advance(self, count: int) -> None:
        """Take note of `count` bytes that were received there."""
        assert self._body is not None
        self._body.advance(count)
        if self._body.missing == 0:
            self.on_message_complete()

    def answers(self) -> bool:
        """Return whether an answer has begun and is not complete."""
        answering = next(iter(self._open), None)
        return answering is not None and answering.response_started and not answering.response_complete

    def _parse(self, data: bytes) -> bool:
        """Return False if the bytes are no HTTP."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = self._decline(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                return False
            else:
                data = b""
            if self._body is not None:  # the parser would wait for the rest of it
                self.parser = _parser(self)
        return True

    def _decline(self, rest: bytes) -> bytes:
        """Go on with a request that asked for another protocol as if it had not (RFC 9110, 7.8); return what is left to parse.

        llhttp takes all behind such a head for the other protocol. A new parser reads the body, told of its framing by a
        head of our own.
        """
        self._declining = False
        self.parser = _parser(self)
        if self._body is not None:
            taken, rest = rest[: self._body.missing], rest[self._body.missing :]
            self._body.append(taken)
            self._tell_refusal(self._body)
            if self._body.missing == 0:
                self.on_message_complete()
            return rest
        framing = [b"%s: %s\r\n" % field for field in self.headers if field[0] in (b"content-length", b"transfer-encoding")]
        if not framing:
            self.on_message_complete()
            return rest
        self._muted = True
        self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *framing, b"\r\n"]))
        self._muted = False
        return rest

    def _announced(self, lease: Lease) -> AnnouncedBody | None:
        """Return the body that the head announces, None where its end must be found by the parser, or it is too large."""
        found = dict(self.headers)
        try:
            length = content_length(found)
        except BodyError:  # the application refuses it
            return None
        if not length or length > self.max_body_bytes or b"transfer-encoding" in found:
            return None
        split = found.get(b"inference-header-content-length", b"")
        return AnnouncedBody(length, int(split[:19]) if split.isdigit() else 0, lease)

    def _tell_refusal(self, body: AnnouncedBody) -> None:
        """Wake the application where it waits for a body that there is no memory for."""
        if body.refused:
            self.cycle.message_event.set()

    async def _sent(self) -> None:
        """Return once the client has taken what was sent; hang up if it takes nothing for as long as a body may last."""
        while self.flow.write_paused:
            left = self.transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self.body_timeout_s):
                    await self.flow.drain()
            except TimeoutError:
                if self.transport.get_write_buffer_size() >= left:
                    self.transport.abort()
                    return

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
        self._parser: GuardedProtocol | None = parser
        self._parts: list[bytes | memoryview] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | memoryview) -> None:
        """Send what is no part of a response at once, and keep the rest until the response is complete."""
        if self._parser is None or self._transport.is_closing():  # the client is gone
            return
        if self._parser.answers():
            self._parts.append(data)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send what was kept."""
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.writelines(parts)

    def close(self) -> None:
        """Send what was kept, and close."""
        self.flush()
        self._transport.close()

    def abandon(self) -> None:
        """Forget the parser and what was kept: the connection is over."""
        self._parser, self._parts = None, []


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


def connections(settings: ServerSettings, memory: MemoryBudget) -> Callable[..., Connection]:
    """Return the maker of connections that uvicorn calls.

    Args:
        settings: The limits.
        memory: What all requests may hold together.
    """
    limits = {name: getattr(settings, name) for name in ("head_timeout_s", "body_timeout_s", "max_body_bytes")}
    limited = type("LimitedProtocol", (GuardedProtocol,), limits | {"memory": memory})
    scratch = memoryview(bytearray(_HEAD_READ_BYTES))
    return lambda **options: Connection(limited(**options), scratch)


def _parser(protocol: GuardedProtocol) -> httptools.HttpRequestParser:
    """Return a parser as uvicorn makes it: a pipelined request behind one that closes the connection is no error."""
    parser = httptools.HttpRequestParser(protocol)
    if hasattr(parser, "set_dangerous_leniencies"):
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser
