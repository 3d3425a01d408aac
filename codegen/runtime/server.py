"""The HTTP server: Open Inference Protocol v2 in front of a pipeline.

Starlette routes; inference itself is a plain ASGI endpoint, because at 600 KB a request the framework's request and
response objects cost as much as the network. asyncio lives here only: the pipeline's threads never see the loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from . import metadata
from .body import BodyError, Disconnected, content_encoding, decompress, header_length, join_aligned, read_body
from .dtypes import Value
from .errors import Closed, ConfigError, DeadlineExceeded, InputError, Overloaded, PipelineError
from .pipeline import Pipeline
from .protocol import VERSION, Codec, InferRequest, InferResponse, ProtocolError

DEFAULT_MAX_BODY_BYTES = 256 * 2**20
_OFFLOAD_BYTES = 64 * 2**10  # JSON work above this would hold up the other connections; a thread costs 0.1 ms
_log = logging.getLogger(__name__)
_T = TypeVar("_T")


def app(pipeline: Pipeline, *, max_body_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Starlette:
    """Return the ASGI application that serves a pipeline; the pipeline stays the caller's to close.

    Outputs that are no tensors (ONNX sequences and maps) have no form in the protocol: they are left out, and logged.

    Args:
        pipeline: A loaded pipeline.
        max_body_bytes: Largest request, compressed and decompressed.

    Raises:
        ConfigError: If an input is no tensor, so that no request could be made.
    """
    return _Service(pipeline, max_body_bytes).application()


class _Service:
    """The endpoints of one pipeline."""

    def __init__(self, pipeline: Pipeline, max_body_bytes: int) -> None:
        self._pipeline = pipeline
        self._max_body_bytes = max_body_bytes
        self._name = pipeline.plan.name
        self._inputs = pipeline.plan.inputs
        self._outputs = tuple(tensor for tensor in pipeline.plan.outputs if tensor.element)
        _check_servable(pipeline)
        self._codec = Codec(self._name, self._inputs, self._outputs)

    def application(self) -> Starlette:
        model = "/v2/models/{model}"
        routes = [
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/repository/index", self._index, methods=["POST"]),
            Route("/v2/models/stats", self._stats),
        ]
        for prefix in (model, model + "/versions/{version}"):
            routes += [
                Route(prefix, self._metadata),
                Route(prefix + "/ready", self._ready),
                Route(prefix + "/config", self._config),
                Route(prefix + "/stats", self._stats),
                Route(prefix + "/infer", _Infer(self)),
            ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _internal_error})

    def check_model(self, parameters: dict[str, str]) -> None:
        """Raise 404 unless the path names the model that is served, or none."""
        model, version = parameters.get("model", self._name), parameters.get("version", VERSION)
        if model != self._name:
            raise HTTPException(404, f"unknown model {model!r}, this server has {self._name!r}")
        if version != VERSION:
            raise HTTPException(404, f"unknown version {version!r} of {model!r}, this server has {VERSION!r}")

    async def infer(self, scope: Scope, receive: Receive) -> InferResponse:
        headers = dict(scope["headers"])
        encoding, split = content_encoding(headers), header_length(headers)
        chunks = await read_body(receive, headers, self._max_body_bytes)
        size = sum(map(len, chunks))
        json_bytes = size if encoding or split is None else split
        request = await _run(json_bytes, self._decode, chunks, encoding, split)
        deadline = None if request.timeout_s is None else time.monotonic() + request.timeout_s
        future = self._pipeline.submit(request.inputs, deadline)
        results = await _result(future, receive, deadline)
        json_bytes = sum(_json_bytes(results[output.name]) for output in request.outputs if not output.binary)
        return await _run(json_bytes, self._codec.encode, request, results)

    def _decode(self, chunks: list[bytes], encoding: str | None, split: int | None) -> InferRequest:
        plain = decompress(chunks, encoding, self._max_body_bytes) if encoding else chunks
        return self._codec.decode(join_aligned(plain, split or 0), split)

    async def _server(self, _request: Request) -> Response:
        return JSONResponse(metadata.server_metadata())

    async def _live(self, _request: Request) -> Response:
        return Response()

    async def _ready(self, request: Request) -> Response:
        self.check_model(request.path_params)
        if not self._pipeline.ready:
            raise HTTPException(503, "the pipeline is closing")
        return Response()

    async def _index(self, _request: Request) -> Response:
        return JSONResponse(metadata.repository_index(self._name, ready=self._pipeline.ready))

    async def _metadata(self, request: Request) -> Response:
        self.check_model(request.path_params)
        return JSONResponse(metadata.model_metadata(self._name, self._inputs, self._outputs))

    async def _config(self, request: Request) -> Response:
        self.check_model(request.path_params)
        return JSONResponse(metadata.model_config(self._pipeline.plan, self._inputs, self._outputs))

    async def _stats(self, request: Request) -> Response:
        self.check_model(request.path_params)
        return JSONResponse(metadata.model_statistics(self._name, self._pipeline.stats()))


class _Infer:
    """The inference endpoint, as a plain ASGI application."""

    def __init__(self, service: _Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            raise HTTPException(405, "inference is a POST", headers={"Allow": "POST"})
        self._service.check_model(scope["path_params"])
        try:
            response = await self._service.infer(scope, receive)
        except Disconnected:
            return
        except Exception as error:
            status, headers = _status(error)
            await JSONResponse({"error": str(error)}, status, headers)(scope, receive, send)
            return
        await _send(response, send)


def _check_servable(pipeline: Pipeline) -> None:
    for tensor in pipeline.plan.inputs:
        if tensor.element is None:
            raise ConfigError(
                f"input {tensor.name!r} is a {tensor.dtype}, which the protocol cannot carry",
                hint="use the pipeline from Python",
            )
    for tensor in pipeline.plan.outputs:
        if tensor.element is None:
            _log.warning("output %r is a %s, which the protocol cannot carry: not served", tensor.name, tensor.dtype)


def _status(error: Exception) -> tuple[int, dict[str, str]]:
    """Return the HTTP status and headers an error is answered with; raise it on where it is a bug."""
    if isinstance(error, BodyError):
        # What is left of an oversized body must not be read as the next request.
        return error.status, {"Connection": "close"} if error.status == 413 else {}
    if isinstance(error, ProtocolError | InputError):
        return 400, {}
    if isinstance(error, Overloaded | Closed):
        seconds = error.retry_after_s if isinstance(error, Overloaded) else 1.0
        return 503, {"Retry-After": str(max(1, math.ceil(seconds)))}
    if isinstance(error, DeadlineExceeded):
        return 504, {}
    if isinstance(error, PipelineError):
        return 500, {}
    raise error


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _internal_error(_request: Request, _error: Exception) -> Response:
    # Starlette raises the error on after this, and uvicorn logs it with its traceback.
    return JSONResponse({"error": "internal error"}, 500)


async def _run(json_bytes: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Return the function's result, computed in a thread where it would hold up the event loop."""
    if json_bytes < _OFFLOAD_BYTES:
        return function(*arguments)
    return await asyncio.to_thread(function, *arguments)


def _json_bytes(value: Value) -> int:
    """Return about how long a tensor is as JSON."""
    return 16 * int(value.size)


async def _result(future: Future[dict[str, Value]], receive: Receive, deadline: float | None) -> dict[str, Value]:
    """Return the future's result, unless the deadline passes or the client leaves first."""
    waiting = asyncio.wrap_future(future)
    leaving = asyncio.ensure_future(receive())
    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    try:
        await asyncio.wait((waiting, leaving), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise Disconnected if leaving.done() else DeadlineExceeded("the request's timeout passed")
    finally:
        leaving.cancel()
        waiting.cancel()  # takes the request out of the pipeline if it has not started; nothing once it is done


async def _send(response: InferResponse, send: Send) -> None:
    headers = [(b"content-length", b"%d" % sum(map(len, response.parts)))]
    if response.header_length is None:
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", b"application/octet-stream"))
        headers.append((b"inference-header-content-length", b"%d" % response.header_length))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    last = len(response.parts) - 1
    for position, part in enumerate(response.parts):
        await send({"type": "http.response.body", "body": part, "more_body": position != last})
