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
from .errors import Closed, DeadlineExceeded
from .json_process import JsonTooLarge, check_json_size
from .metrics import CONTENT_TYPE, render
from .protocol import VERSION, InferRequest, InferResponse
from .service import NotFound, Service, Verdict, verdict
from .tracing import Tracer

_OFFLOAD_BYTES = 64 * 2**10  # text above this would hold up the other connections for a millisecond; a thread costs 0.1 ms
_APART_BYTES = 256 * 2**10  # JSON above this would hold up all threads for 5 ms and more, whatever thread it is in
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
        self._takes_strings = any(tensor.element is not None and tensor.element.is_string for tensor in service.inputs)
        self._tracer = Tracer()
        model = f"/v2/models/{service.name}"
        self._infer_paths = [f"{model}/infer", *(f"{model}/versions/{version}/infer" for version in ("", VERSION))]
        self._of_server: Mapping[str, tuple[str, Callable[[], object]]] = {
            "/v2": ("GET", metadata.server_metadata),
            "/v2/health/live": ("GET", self._live),
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
        except asyncio.CancelledError:  # of what the server does, only its end cancels a request
            raise Closed("the server is stopping; the request was not finished") from None
        finally:
            self._service.end()
        head = [_JSON]
        if response.header_length is not None:
            head = [(b"content-type", b"application/octet-stream")]
            head.append((b"inference-header-content-length", b"%d" % response.header_length))
        return await _send(send, 200, head, *response.parts)

    async def _compute(self, headers: Mapping[bytes, bytes], receive: Receive, exchange: Exchange) -> InferResponse:
        """Return the response to the request of a connection."""
        size, request = await self._request(headers, receive, exchange)
        results = await self._results(request, receive, apart=self._takes_strings and size >= _OFFLOAD_BYTES)
        exchange.lease.grow(self._service.codec.check_size(request, results))
        response = await self._response(request, results)
        exchange.lease.grow(len(response.parts[0]))
        return response

    async def _request(self, headers: Mapping[bytes, bytes], receive: Receive, exchange: Exchange) -> tuple[int, InferRequest]:
        """Return the size of the body, and the request in it."""
        codec, most = self._service.codec, self._settings.max_json_bytes
        encoding, split = content_encoding(headers), header_length(headers)
        if encoding is None and split is None:
            check_json_size(content_length(headers) or 0, most)
        body = await self._body(headers, receive, exchange)
        if encoding or (not isinstance(body, memoryview) and sum(map(len, body)) >= _OFFLOAD_BYTES):
            body = await asyncio.to_thread(self._join, body, encoding, split, exchange.lease)
        elif not isinstance(body, memoryview):
            body = join_aligned(body, split or 0)
        text, binary = codec.split(body, split)
        check_json_size(len(text), most)
        if len(text) >= _APART_BYTES:
            header = await self._service.json.read_header(text)
            return len(body), await asyncio.to_thread(codec.assemble, header, binary)
        if len(text) >= _OFFLOAD_BYTES or (self._takes_strings and len(binary) >= _OFFLOAD_BYTES):
            return len(body), await asyncio.to_thread(codec.decode, body, split)
        return len(body), codec.decode(body, split)

    async def _response(self, request: InferRequest, results: Mapping[str, Value]) -> InferResponse:
        """Return the response with the model's outputs."""
        codec = self._service.codec
        size = _text_bytes(request, results)
        if size < _OFFLOAD_BYTES:
            return codec.encode(request, results)
        if size < _APART_BYTES:
            return await asyncio.to_thread(codec.encode, request, results)
        described, parts, tensors = await asyncio.to_thread(codec.lay_out, request, results)
        header = await self._service.json.write_header(request.id, described, tensors)
        return InferResponse(parts=(header, *parts), header_length=len(header) if parts else None)

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

    def _join(self, body: memoryview | list[bytes], encoding: str | None, split: int | None, lease: Lease) -> memoryview:
        """Return a body that came packed or in chunks."""
        chunks = [body] if isinstance(body, memoryview) else body
        if encoding:
            chunks = decompress(chunks, encoding, self._settings.max_body_bytes, lease)
        return join_aligned(chunks, split or 0)

    async def _results(self, request: InferRequest, receive: Receive, *, apart: bool) -> dict[str, Value]:
        """Return the model's outputs; the inputs are checked in another thread where that takes long.

        Whoever holds a future that failed must not be part of the error's traceback: the two would form a cycle, which keeps
        the request's body until the garbage collector comes.
        """
        deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        ask = self._pipeline.submit if apart else self._pipeline.answer
        results = await asyncio.to_thread(ask, request.inputs, deadline) if apart else ask(request.inputs, deadline)
        try:
            return await _result(results, receive, deadline) if isinstance(results, Future) else results
        finally:
            del results

    def _ready(self) -> object:
        if not self._pipeline.ready:
            raise BodyError(503, "the pipeline is closing, or a stage has no backend that lives, or hangs")
        return b""

    def _live(self) -> object:
        if not self._pipeline.live:
            raise BodyError(503, "a stage hangs, or its backend died again and again: only a new process can help")
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
    closes = isinstance(error, JsonTooLarge)
    message = str(error) or type(error).__name__
    if isinstance(error, BodyError):
        found: Verdict | None = Verdict(http=error.status, grpc="")
        closes = error.closes
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
    if closes:
        headers.append((b"connection", b"close"))  # what is left of the body must not be read as a request
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


def _text_bytes(request: InferRequest, results: Mapping[str, Value]) -> int:
    """Return about how long the tensors are that are returned as JSON, or as strings."""
    asked = [(results[output.name], output.binary) for output in request.outputs]
    return sum([16 * int(tensor.size) for tensor, binary in asked if not binary or tensor.dtype.hasobject])


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
