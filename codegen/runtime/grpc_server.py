"""The gRPC server: the Open Inference Protocol's service with health and reflection, in the HTTP server's event loop."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from . import metadata
from .errors import DeadlineExceeded
from .grpc_codec import Answer, Call, GrpcCodec, read_call, read_id, write_answer, write_stream_answer
from .grpc_messages import MESSAGES, METHODS, PACKAGE, POOL, SERVICE
from .service import Service, Verdict, verdict

_SERVICE = f"{PACKAGE}.{SERVICE}"
_STREAM_WINDOW = 64  # requests of one stream under way
_HEAD_BYTES = 2**16  # names and shapes beside a request's tensors


class GrpcServer:
    """Serves one service; start and stop it in a running event loop.

    Args:
        service: The model that is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._pipeline = service.pipeline
        self._codec = GrpcCodec(
            service.name, service.inputs, service.outputs, service.check_model, service.settings.max_body_bytes
        )
        self._health = health.aio.HealthServicer()
        self.port = 0

    async def start(self) -> None:
        """Listen and answer.

        Raises:
            OSError: If the address cannot be listened on.
        """
        settings = self._service.settings
        limit = settings.max_body_bytes + _HEAD_BYTES
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
            maximum_concurrent_rpcs=settings.max_requests,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, self._handlers()),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        names = (_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=POOL)
        self.port = self._bind(settings.host, settings.grpc_port or 0)
        await self._server.start()
        for name in ("", _SERVICE, self._service.name):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_s: float) -> None:
        """Take nothing new, and cancel what is under way after `grace_s` seconds."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)

    def _bind(self, host: str, port: int) -> int:
        settings = self._service.settings
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if settings.tls_certificate is None or settings.tls_key is None:
                return int(self._server.add_insecure_port(address))
            pair = (settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())
            return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([pair])))
        except RuntimeError as error:
            raise OSError(0, f"cannot listen on {address} for gRPC") from error

    def _handlers(self) -> dict[str, Any]:
        answers: dict[str, Callable[[Any, Any], Awaitable[Any]]] = {
            "ServerLive": _constant("ServerLiveResponse", lambda: {"live": True}),
            "ServerReady": _constant("ServerReadyResponse", lambda: {"ready": self._pipeline.ready}),
            "ModelReady": self._of_model("ModelReadyResponse", lambda: {"ready": self._pipeline.ready}),
            "ServerMetadata": _constant("ServerMetadataResponse", metadata.server_metadata),
            "ModelMetadata": self._of_model(
                "ModelMetadataResponse",
                lambda: (
                    metadata.model_metadata(self._service.name, self._service.inputs, self._service.outputs)
                    | metadata.model_properties(self._pipeline.plan)
                ),
            ),
            "ModelConfig": self._of_model("ModelConfigResponse", self._config),
            "ModelStatistics": self._of_model("ModelStatisticsResponse", self._statistics),
            "RepositoryIndex": _constant("RepositoryIndexResponse", self._index),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(answer),
                request_deserializer=MESSAGES[METHODS[name][0]].FromString,
                response_serializer=MESSAGES[METHODS[name][1]].SerializeToString,
            )
            for name, answer in answers.items()
        }
        handlers["ModelInfer"] = grpc.unary_unary_rpc_method_handler(
            self._guarded(self._infer), request_deserializer=read_call, response_serializer=write_answer
        )
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=read_call, response_serializer=_as_it_is
        )
        return handlers

    def _guarded(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """Return a method that checks the token, and ends with the right code when it fails."""

        @functools.wraps(answer)
        async def method(request: Any, context: Any) -> Any:
            code = "OK"
            try:
                self._check_token(context)
                return await answer(request, context)
            except Exception as error:
                found = verdict(error) or Verdict(http=500, grpc="INTERNAL")
                code = found.grpc
                await context.abort(grpc.StatusCode[code], str(error))
            finally:
                self._service.answers["grpc", code] += 1

        return method

    def _check_token(self, context: Any) -> None:
        if self._service.settings.token is not None:
            self._service.check_token(dict(context.invocation_metadata() or ()).get("authorization"))

    def _of_model(self, response: str, fields: Callable[[], dict[str, Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def method(request: Any, _context: Any) -> Any:
            if request.name or response != "ModelStatisticsResponse":
                self._service.check_model(request.name, request.version)
            return MESSAGES[response](**fields())

        return method

    async def _infer(self, call: Call, context: Any) -> Answer:
        self._service.begin()
        try:
            head = self._codec.head(call)
            limits = [limit for limit in (head.timeout_s, context.time_remaining()) if limit is not None]
            deadline = time.monotonic() + min(limits) if limits else None
            results = self._pipeline.answer(self._codec.decode(head, call.raw), deadline)
            if isinstance(results, Future):
                try:
                    results = await asyncio.wait_for(asyncio.wrap_future(results), min(limits, default=None))
                except TimeoutError:
                    raise DeadlineExceeded("the request's timeout passed") from None
            return self._codec.encode(head, results)
        finally:
            self._service.end()

    async def _stream(self, requests: AsyncIterator[Call], context: Any) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in order; they are computed side by side."""
        try:
            self._check_token(context)
        except Exception as error:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, str(error))
        under_way: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue(_STREAM_WINDOW)

        async def read() -> None:
            async for request in requests:
                await under_way.put(asyncio.create_task(self._stream_one(request, context)))
            await under_way.put(None)

        reader = asyncio.create_task(read())
        try:
            while (task := await under_way.get()) is not None:
                yield await task
        finally:
            reader.cancel()
            while not under_way.empty():
                left = under_way.get_nowait()
                if left is not None:
                    left.cancel()

    async def _stream_one(self, call: Call, context: Any) -> bytes:
        try:
            return write_stream_answer(await self._infer(call, context))
        except Exception as error:
            return write_stream_answer(str(error) or type(error).__name__, read_id(call))

    def _config(self) -> dict[str, Any]:
        config = metadata.model_config(self._pipeline.plan, self._service.inputs, self._service.outputs)
        return {"config": config}

    def _statistics(self) -> dict[str, Any]:
        (entry,) = metadata.model_statistics(self._service.name, self._pipeline.stats())["model_stats"]
        return {"model_stats": [{key: value for key, value in entry.items() if key != "pipeline"}]}

    def _index(self) -> dict[str, Any]:
        return {"models": metadata.repository_index(self._service.name, ready=self._pipeline.ready)}


def _as_it_is(message: bytes) -> bytes:
    return message


def _constant(response: str, fields: Callable[[], dict[str, Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def method(_request: Any, _context: Any) -> Any:
        return MESSAGES[response](**fields())

    return method
