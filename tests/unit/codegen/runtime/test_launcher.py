"""How the server listens."""

from __future__ import annotations

import errno
import socket

import pytest

from cutset.codegen.runtime.launcher import _listen


def test_answers_are_not_held_back():
    """asyncio switches Nagle's algorithm off only for sockets that name their protocol."""
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_one_of_two_servers_started_together_is_refused():
    """Both may bind the port while neither listens; the second one must not learn of the first at its first request."""
    with _listen("127.0.0.1", 0) as listener, pytest.raises(OSError, match="in use") as caught:
        _listen("127.0.0.1", listener.getsockname()[1])
    assert caught.value.errno == errno.EADDRINUSE
