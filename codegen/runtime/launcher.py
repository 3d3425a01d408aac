"""Run the server until it is told to stop, then let the requests under way finish."""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from urllib.parse import quote

import uvicorn

from .pipeline import Pipeline
from .server import DEFAULT_MAX_BODY_BYTES, app

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server:
    """An HTTP server over a pipeline, which it closes when it stops.

    `run` blocks; `stop` may be called from another thread, and SIGTERM and SIGINT do the same in the main thread.

    Args:
        pipeline: A loaded pipeline.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        grace_s: Seconds the requests under way have to finish after the signal to stop.
        max_body_bytes: Largest request, compressed and decompressed.

    Raises:
        ConfigError: If the model's inputs cannot be served.
        OSError: If the address cannot be listened on.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        grace_s: float = 10.0,
        max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    ) -> None:
        self._pipeline = pipeline
        self._grace_s = grace_s
        config = uvicorn.Config(
            app(pipeline, max_body_bytes=max_body_bytes),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(grace_s),
        )
        self._socket = _listen(host, port)
        self._server = _Uvicorn(config)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/v2/models/{quote(pipeline.plan.name, safe='')}"

    def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Serve until stopped; then close the pipeline.

        Args:
            on_ready: Called once with the model's URL when requests are taken.
        """
        self._server.on_ready = (lambda: on_ready(self.url)) if on_ready else None
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()
            stopped = self._server.stopping_since or time.monotonic()
            self._pipeline.close(timeout=max(0.0, stopped + self._grace_s - time.monotonic()))

    def stop(self) -> None:
        """Ask `run` to finish; a second call does not wait for the connections."""
        self._server.handle_exit(signal.SIGTERM, None)


def serve(
    pipeline: Pipeline,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    grace_s: float = 10.0,
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a pipeline until SIGTERM or SIGINT, and close it; see `Server` for the arguments."""
    Server(pipeline, host=host, port=port, grace_s=grace_s, max_body_bytes=max_body_bytes).run(on_ready)


class _Uvicorn(uvicorn.Server):
    """uvicorn, saying when it is ready, and ending normally on a signal instead of dying of it again."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.on_ready: Callable[[], None] | None = None
        self.stopping_since: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and self.on_ready:
            self.on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit = True
        else:
            self.stopping_since = time.monotonic()
            self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener
