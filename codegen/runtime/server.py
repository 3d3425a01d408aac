"""The HTTP server: Open Inference Protocol v2 in front of a pipeline.

A plain ASGI application: with a framework's routing, request and response objects a 600 KB request costs twice as much
(benchmarks/fronts.py). asyncio lives in the servers only: the pipeline's threads never see the loop.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Future
from typing import Any

from . import metadata
from .body import (
    EXTENSION,
    BodyError,
    Disconnected,
    Exchange,
    Receive,
    check_transfer_encoding,
    content_encoding,
    content_length,
    decompress,
    header_length,
    join_aligned,
    read_body,
    receive_announced,
)
from .budget import Lease
from .dtypes import Value
from .errors import DeadlineExceeded
from .metrics import CONTENT_TYPE, render
from .protocol import VERSION, InferRequest, InferResponse
from .service import NotFound, Service, Verdict, verdict
from .tracing import Tracer

_OFFLOAD_BYTES = 64 * 2**10  # JSON work above this would hold up the other connections; a thread costs 0.1 ms
_HEALTH = ("/v2/health/live", "/v2/health/ready")
_log = logging.getLogger(__name__)
_access = logging.getLogger("cutset.access")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
_JSON = (b"content-type", b"application/json")


class Application:
    """The ASGI application over a service.

    Args:
        service: The model that is served; its pipeline stays the caller's to close.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pipeline = service.pipeline
        self._settings = service.settings
        self._tracer = Tracer()
        model = f"/v2/models/{service.name}"
        self._infer_paths = [f"{model}/infer", *(f"{model}/versions/{version}/infer" for version in ("", VERSION))]
        self._of_server: Mapping[str, tuple[str, Callable[[], object]]] = {
            "/v2": ("GET", metadata.server_metadata),
            "/v2/health/live": ("GET", lambda: b""),
            "/v2/health/ready": ("GET", self._ready),
            "/v2/repository/index": ("POST", self._index),
            "/v2/models/stats": ("GET", self._stats),
        }
        self._of_model: Mapping[str, Callable[[], object]] = {
            "": lambda: metadata.with_bounds(
                metadata.model_metadata(service.name, service.inputs, service.outputs)
                | metadata.model_properties(self._pipeline.plan),
                self._pipeline.plan,
            ),
            "ready": self._ready,
            "config": lambda: metadata.model_config(self._pipeline.plan, service.inputs, service.outputs),
            "stats": self._stats,
        }

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        begin = time.perf_counter()
        headers = dict(scope["headers"])
        exchange = scope.get("extensions", {}).pop(EXTENSION, None)  # an idle connection keeps the scope of its last request
        if exchange is None:
            exchange = Exchange(self._service.memory.lease())
        with exchange.lease:
            try:
                if exchange.left:
                    raise Disconnected
                status = await self._answer(scope, headers, receive, send, exchange)
            except Disconnected:
                status = 499
            except Exception as error:
                status = await _refuse(error, send)
            self._service.answers["http", str(status)] += 1
            if self._settings.access_log:
                self._log(scope, headers, status, time.perf_counter() - begin)
            if exchange.sent is not None:
                await exchange.sent()

    async def _answer(
        self,
        scope: MutableMapping[str, Any],
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        exchange: Exchange,
    ) -> int:
        path, method = scope["path"], scope["method"]
        if path not in _HEALTH:
            self._service.check_token(headers.get(b"authorization", b"").decode("latin-1"))
        content_length(headers)
        if b"transfer-encoding" in headers:
            check_transfer_encoding(scope["headers"])
        if path in self._infer_paths:
            _check_method(method, "POST")
            return await self._infer(headers, receive, send, exchange)
        if path.startswith("/v2/models/") and path != "/v2/models/stats":
            action = self._model_action(path)
            return await _reply(send, method, "GET", self._of_model[action])
        if path == "/metrics":
            _check_method(method, "GET")
            return await _send(send, 200, [(b"content-type", CONTENT_TYPE)], render(self._service))
        if path not in self._of_server:
            raise NotFound(f"there is no {path!r} here")
        return await _reply(send, method, *self._of_server[path])

    def _model_action(self, path: str) -> str:
        """Return what is asked of the served model: the path's last word, or nothing."""
        model, *rest = path.removeprefix("/v2/models/").split("/")
        version = ""
        if rest[:1] == ["versions"] and len(rest) > 1:
            version, rest = rest[1], rest[2:]
        self._service.check_model(model, version)
        action = rest[0] if rest else ""
        if len(rest) > 1 or action not in self._of_model:
            raise NotFound(f"there is no {path!r} here")
        return action

    async def _infer(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send, exchange: Exchange) -> int:
        self._service.begin()
        try:
            with self._tracer.request(headers, self._service.name):
                response = await self._compute(headers, receive, exchange)
        finally:
            self._service.end()
        head = [_JSON]
        if response.header_length is not None:
            head = [(b"content-type", b"application/octet-stream")]
            head.append((b"inference-header-content-length", b"%d" % response.header_length))
        return await _send(send, 200, head, *response.parts)

    async def _compute(self, headers: Mapping[bytes, bytes], receive: Receive, exchange: Exchange) -> InferResponse:
        """Return the response to the request of a connection."""
        codec = self._service.codec
        encoding, split = content_encoding(headers), header_length(headers)
        body = await self._body(headers, receive, exchange)
        size = len(body) if isinstance(body, memoryview) else sum(map(len, body))
        if (size if encoding or split is None else split) < _OFFLOAD_BYTES:
            request = self._decode(body, encoding, split, exchange.lease)
        else:
            request = await asyncio.to_thread(self._decode, body, encoding, split, exchange.lease)
        results = await self._results(request, receive)
        exchange.lease.grow(codec.check_size(request, results))
        if _json_bytes(request, results) < _OFFLOAD_BYTES:
            return codec.encode(request, results)
        return await asyncio.to_thread(codec.encode, request, results)

    async def _body(self, headers: Mapping[bytes, bytes], receive: Receive, exchange: Exchange) -> memoryview | list[bytes]:
        """Return the whole body, or its chunks."""
        limit, timeout_s = self._settings.max_body_bytes, self._settings.body_timeout_s
        try:
            if exchange.body is not None:
                return await receive_announced(receive, exchange.body)
            async with asyncio.timeout(timeout_s):
                return await read_body(receive, headers, limit, exchange.lease)
        except TimeoutError:
            raise BodyError(408, f"the body took more than {timeout_s} s") from None

    def _decode(self, body: memoryview | list[bytes], encoding: str | None, split: int | None, lease: Lease) -> InferRequest:
        """Return the request in a body, or in its chunks."""
        if encoding:
            chunks = [body] if isinstance(body, memoryview) else body
            body = decompress(chunks, encoding, self._settings.max_body_bytes, lease)
        whole = body if isinstance(body, memoryview) else join_aligned(body, split or 0)
        return self._service.codec.decode(whole, split)

    async def _results(self, request: InferRequest, receive: Receive) -> dict[str, Value]:
        """Return the model's outputs.

        Whoever holds a future that failed must not be part of the error's traceback: the two would form a cycle, which keeps
        the request's body until the garbage collector comes.
        """
        deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        results = self._pipeline.answer(request.inputs, deadline)
        try:
            return await _result(results, receive, deadline) if isinstance(results, Future) else results
        finally:
            del results

    def _ready(self) -> object:
        if not self._pipeline.ready:
            raise BodyError(503, "the pipeline is closing, or a stage has no backend that lives")
        return b""

    def _index(self) -> object:
        return metadata.repository_index(self._service.name, ready=self._pipeline.ready)

    def _stats(self) -> object:
        return metadata.model_statistics(self._service.name, self._pipeline.stats())

    def _log(self, scope: MutableMapping[str, Any], headers: Mapping[bytes, bytes], status: int, seconds: float) -> None:
        client = scope.get("client") or ("", 0)
        entry = {"client": client[0], "method": scope["method"], "path": scope["path"], "status": status}
        entry |= {"bytes": headers.get(b"content-length", b"").decode("latin-1"), "seconds": round(seconds, 6)}
        _access.info(json.dumps(entry))


class _MethodNotAllowed(Exception):  # noqa: N818 - the status's name
    """405; the argument is the method that is."""


def _check_method(method: str, allowed: str) -> None:
    if method != allowed:
        raise _MethodNotAllowed(allowed)


async def _reply(send: Send, method: str, allowed: str, answer: Callable[[], object]) -> int:
    """Send what `answer` returns: bytes as they are, anything else as JSON."""
    _check_method(method, allowed)
    found = answer()
    if isinstance(found, bytes):
        return await _send(send, 200, [], found)
    return await _send(send, 200, [_JSON], json.dumps(found).encode())


async def _refuse(error: Exception, send: Send) -> int:
    """Send the answer to a request that failed."""
    headers: Headers = [_JSON]
    message = str(error) or type(error).__name__
    if isinstance(error, BodyError):
        found: Verdict | None = Verdict(http=error.status, grpc="")
        if error.closes:
            headers.append((b"connection", b"close"))  # what is left of the body must not be read as a request
    elif isinstance(error, _MethodNotAllowed):
        found, message = Verdict(http=405, grpc=""), f"the method here is {error}"
        headers.append((b"allow", str(error).encode()))
    else:
        found = verdict(error)
    if found is None:
        _log.error("a request failed", exc_info=error)
        found, message = Verdict(http=500, grpc=""), "internal error"
    if found.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(found.retry_after_s))))
    if found.http == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    return await _send(send, found.http, headers, json.dumps({"error": message}).encode())


async def _send(send: Send, status: int, headers: Headers, *parts: bytes | memoryview) -> int:
    size = sum(map(len, parts))
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"%d" % size), *headers]})
    last = len(parts) - 1
    for position, part in enumerate(parts):
        await send({"type": "http.response.body", "body": part, "more_body": position != last})
    return status


def _json_bytes(request: InferRequest, results: Mapping[str, Value]) -> int:
    """Return about how long the tensors are that are returned as JSON."""
    return sum([16 * int(results[output.name].size) for output in request.outputs if not output.binary])


async def _disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _result(future: Future[dict[str, Value]], receive: Receive, deadline: float | None) -> dict[str, Value]:
    """Return the future's result, unless the deadline passes or the client leaves first."""
    waiting = asyncio.wrap_future(future)
    leaving = asyncio.ensure_future(_disconnected(receive))
    leaving.add_done_callback(functools.partial(_cancel, waiting))
    try:
        async with asyncio.timeout(None if deadline is None else max(0.0, deadline - time.monotonic())):
            return await waiting
    except TimeoutError:
        raise DeadlineExceeded("the request's timeout passed") from None
    except asyncio.CancelledError:
        if leaving.done() and not leaving.cancelled():
            raise Disconnected from None
        raise
    finally:
        leaving.cancel()
        waiting.cancel()  # takes the request out of the pipeline before its next stage; nothing once it is done
        del future, waiting, leaving  # see `_results`


def _cancel(waiting: asyncio.Future[dict[str, Value]], _leaving: asyncio.Task[None]) -> None:
    waiting.cancel()
