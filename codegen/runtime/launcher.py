"""Run the server until it is told to stop, then let the requests under way finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import uvicorn

from .errors import ConfigError
from .guard import connections
from .pipeline import Pipeline
from .server import Application
from .service import Service
from .settings import ServerSettings

if TYPE_CHECKING:
    from .grpc_server import GrpcServer

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANG_UP = (signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()  # the terminal was closed; nohup ignores the signal
_BACKLOG = 2048  # connections that wait to be accepted; the system has a limit of its own
_LAST_WORDS_S = 1.0  # for the answers to requests that the end of the grace cuts off
_LOOK_S = 0.1  # how often a second signal is looked for, as in uvicorn


class Server:
    """An HTTP server, and a gRPC server if asked for, over a pipeline, which it closes when it stops.

    `run` blocks; `stop` may be called from another thread, and SIGTERM and SIGINT do the same in the main thread.

    Args:
        pipeline: A loaded pipeline.
        settings: How to listen and what to refuse.

    Raises:
        ConfigError: If the model's inputs cannot be served, or gRPC is asked for and not installed.
        OSError: If the address cannot be listened on.
    """

    def __init__(self, pipeline: Pipeline, settings: ServerSettings | None = None) -> None:
        self._pipeline = pipeline
        self._settings = settings = settings or ServerSettings()
        self._service = service = Service(pipeline, settings)
        self._grpc = None if settings.grpc_port is None else _grpc_server(service)
        config = uvicorn.Config(
            Application(service),
            http=cast("type[asyncio.Protocol]", connections(settings, service.memory)),
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=cast("int", settings.grace_s),  # only waited for
            ssl_certfile=settings.tls_certificate,
            ssl_keyfile=settings.tls_key,
        )
        self._socket = _listen(settings.host, settings.port)
        self._server = _Uvicorn(config, self._grpc, settings.grace_s)
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        scheme = "https" if settings.tls_certificate else "http"
        self.url = f"{scheme}://{shown}:{self._socket.getsockname()[1]}/v2/models/{quote(pipeline.plan.name, safe='')}"

    @property
    def grpc_port(self) -> int | None:
        """The port that gRPC listens on, once requests are taken; None without gRPC."""
        return None if self._grpc is None else self._grpc.port

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
            self._service.close()
            stopped = self._server.stopping_since or time.monotonic()
            self._pipeline.close(timeout=max(0.0, stopped + self._settings.grace_s - time.monotonic()))

    def stop(self) -> None:
        """Ask `run` to finish; a second call does not wait for the connections."""
        self._server.handle_exit(signal.SIGTERM, None)


class _Uvicorn(uvicorn.Server):
    """uvicorn, saying when it is ready, and ending normally on a signal instead of dying of it again."""

    def __init__(self, config: uvicorn.Config, grpc: GrpcServer | None, grace_s: float) -> None:
        super().__init__(config)
        self._grpc = grpc
        self._grace_s = grace_s
        self.on_ready: Callable[[], None] | None = None
        self.stopping_since: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._grpc is not None:
            await self._grpc.start()
        await super().startup(sockets=sockets)
        if self.started and self.on_ready:
            self.on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stops = [super().shutdown(sockets=sockets)]
        if self._grpc is not None:
            stops.append(self._stop_grpc(self._grpc))
        await asyncio.gather(*stops)
        left = [task for task in self.server_state.tasks if not task.done()]
        for task in left:
            if not task.cancelling():  # uvicorn cancels them at the end of the grace, not at a second signal
                task.cancel()
        if left:  # each sends that the server is stopping
            await asyncio.wait(left, timeout=_LAST_WORDS_S)

    async def _stop_grpc(self, server: GrpcServer) -> None:
        stopping = asyncio.create_task(server.stop(self._grace_s))
        while not stopping.done() and not self.force_exit:
            await asyncio.wait([stopping], timeout=_LOOK_S)
        if not stopping.done():
            await server.stop(0.0)
        await stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [number for number in _HANG_UP if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in (*_SIGNALS, *heard)}
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


def _grpc_server(service: Service) -> GrpcServer:
    try:
        from .grpc_server import GrpcServer  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            f"gRPC cannot be served: {error}", hint="install the package's extra: pip install '.[grpc]'"
        ) from error
    return GrpcServer(service)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio sets TCP_NODELAY only where it is; without, answers in two writes waited 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)  # two servers may bind one port, but only one of them may listen
    except BaseException:
        listener.close()
        raise
    return listener
