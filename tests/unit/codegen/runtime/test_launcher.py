"""How the server listens."""

from __future__ import annotations

import socket

from cutset.codegen.runtime.launcher import _listen


def test_answers_are_not_held_back():
    """asyncio switches Nagle's algorithm off only for sockets that name their protocol."""
    with _listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP
