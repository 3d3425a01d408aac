"""The connection in front of the HTTP server: bounds on the head of a request, which uvicorn leaves open."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 2**10
_TOO_LARGE_BODY = b'{"error": "the head of the request is too long"}'
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\nconnection: close\r\n"
    b"content-length: %d\r\n\r\n%s" % (len(_TOO_LARGE_BODY), _TOO_LARGE_BODY)
)


class GuardedProtocol(HttpToolsProtocol):
    """One connection; it is closed if a request's head is slow or endless."""

    head_timeout_s = 10.0
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        """Give the first request's head its time."""
        super().connection_made(transport)
        self._start()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, and count what a head that is still open has cost."""
        super().data_received(data)
        if self._timer is None:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Give the head its time, on a connection that is used again."""
        super().on_message_begin()
        self._start()

    def on_headers_complete(self) -> None:
        """End the head's time."""
        self._stop()
        super().on_headers_complete()

    def _start(self) -> None:
        if self._timer is None:
            self._head_bytes = 0
            self._timer = self.loop.call_later(self.head_timeout_s, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def guarded_protocol(head_timeout_s: float) -> type[GuardedProtocol]:
    """Return the protocol with a time limit.

    Args:
        head_timeout_s: Seconds from the connection, or from a request's first byte, to the end of its head.
    """
    return type("LimitedProtocol", (GuardedProtocol,), {"head_timeout_s": head_timeout_s})
