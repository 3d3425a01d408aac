"""The gRPC server: the Open Inference Protocol's service with health and reflection, in the HTTP server's event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection

from . import metadata
from .budget import Lease
from .dtypes import Value
from .errors import Closed, DeadlineExceeded, release_frames
from .grpc_codec import Answer, GrpcCodec, read_call, read_id, read_message, write_answer, write_stream_answer
from .grpc_gate import HEALTH, Gate, end, explain
from .grpc_health import Health
from .grpc_messages import MESSAGES, METHODS, PACKAGE, POOL, SERVICE
from .service import Service, verdict

_SERVICE = f"{PACKAGE}.{SERVICE}"
_STREAM_WINDOW = 64  # requests of one stream under way
_HEAD_BYTES = 2**16  # names and shapes beside a request's tensors
_LAST_WORDS_S = 1.0  # for the answers to calls that the end of the grace cuts off
_log = logging.getLogger(__name__)
_Answers = dict[str, Callable[[Any, Any], Awaitable[Any]]]


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
        self._waiting: set[asyncio.Future[dict[str, Value]]] = set()
        self._ending = False
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
            interceptors=[Gate(self._service)],
        )
        self._health = Health(self._pipeline, ("", _SERVICE, self._service.name))
        handlers = {_SERVICE: self._handlers(), HEALTH: self._health_handlers()}
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(*entry) for entry in handlers.items()])
        POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        names = (_SERVICE, HEALTH, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pool=POOL)
        self.port = self._bind(settings.host, settings.grpc_port or 0)
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take nothing new; what is under way after `grace_s` seconds ends with UNAVAILABLE."""
        self._health.stop()
        stopping = asyncio.create_task(self._server.stop(grace_s + _LAST_WORDS_S))
        await asyncio.wait([stopping], timeout=grace_s)
        self._ending = True
        for waiting in self._waiting:
            waiting.cancel()
        await stopping

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
        answers: _Answers = {
            "ServerLive": _constant("ServerLiveResponse", lambda: {"live": self._pipeline.live}),
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
            name: _unary(self._guarded(self._parsed(METHODS[name][0], answer)), MESSAGES[METHODS[name][1]].SerializeToString)
            for name, answer in answers.items()
        }
        handlers["ModelInfer"] = _unary(self._guarded(self._infer_one), write_answer)
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return handlers

    def _health_handlers(self) -> dict[str, Any]:
        write = health_pb2.HealthCheckResponse.SerializeToString
        return {
            "Check": _unary(self._guarded(self._health.check), write),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, response_serializer=write),
        }

    def _parsed(self, kind: str, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """Return a method that takes the bytes of a message. A parser that grpc calls would log each malformed message."""

        async def method(message: bytes, context: Any) -> Any:
            return await answer(read_message(kind, message), context)

        return method

    def _guarded(self, answer: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        """Return a method that ends with the right code when it fails."""

        @functools.wraps(answer)
        async def method(message: bytes, context: Any) -> Any:
            code = "OK"
            try:
                return await answer(message, context)
            except Exception as error:
                code, text = _explain(error)
                end(context, code, text)
                release_frames(error)
                return None
            finally:
                self._service.answers["grpc", code] += 1

        return method

    def _of_model(self, response: str, fields: Callable[[], dict[str, Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
        async def method(request: Any, _context: Any) -> Any:
            if request.name or response != "ModelStatisticsResponse":
                self._service.check_model(request.name, request.version)
            return MESSAGES[response](**fields())

        return method

    async def _infer_one(self, message: bytes, context: Any) -> Answer:
        lease = self._service.memory.lease()
        task = asyncio.current_task()
        assert task is not None  # grpc serves each call in a task of its own, which ends when the answer is sent
        task.add_done_callback(lambda _task: lease.release())
        return await self._infer(message, context, lease)

    async def _infer(self, message: bytes, context: Any, lease: Lease) -> Answer:
        lease.resize(len(message))
        call = read_call(message)
        self._service.begin()
        try:
            head = self._codec.head(call)
            limits = [limit for limit in (head.timeout_s, context.time_remaining()) if limit is not None]
            deadline = time.monotonic() + min(limits) if limits else None
            results = self._pipeline.answer(self._codec.decode(head, call.raw), deadline)
            if isinstance(results, Future):
                results = await self._result(asyncio.wrap_future(results), min(limits, default=None))
            lease.grow(self._codec.check_size(head, results))
            return self._codec.encode(head, results)
        finally:
            self._service.end()

    async def _result(self, waiting: asyncio.Future[dict[str, Value]], limit_s: float | None) -> dict[str, Value]:
        self._waiting.add(waiting)
        try:
            return await asyncio.wait_for(waiting, limit_s)
        except TimeoutError:
            raise DeadlineExceeded("the request's timeout passed") from None
        except asyncio.CancelledError:
            if self._ending:
                raise Closed("the server is stopping; the request was not finished") from None
            raise
        finally:
            self._waiting.discard(waiting)

    async def _watch(self, message: bytes, context: Any) -> AsyncIterator[Any]:
        try:
            async for status in self._health.watch(message, context):
                yield status
        except Exception as error:
            end(context, *_explain(error))

    async def _stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in order; they are computed side by side."""
        under_way: asyncio.Queue[tuple[asyncio.Task[bytes], Lease] | None] = asyncio.Queue()
        window = asyncio.Semaphore(_STREAM_WINDOW)

        async def read() -> None:
            try:
                async for message in messages:
                    await window.acquire()
                    lease = self._service.memory.lease()
                    under_way.put_nowait((asyncio.create_task(self._stream_one(message, context, lease)), lease))
            finally:  # however the requests end, the answers end behind the last one
                under_way.put_nowait(None)

        reader = asyncio.create_task(read())
        try:
            while (entry := await under_way.get()) is not None:
                try:
                    yield await entry[0]
                finally:
                    _release_after(*entry)
                window.release()
            await reader
        finally:
            reader.cancel()
            while not under_way.empty():
                left = under_way.get_nowait()
                if left is not None:
                    left[0].cancel()
                    _release_after(*left)

    async def _stream_one(self, message: bytes, context: Any, lease: Lease) -> bytes:
        try:
            return write_stream_answer(await self._infer(message, context, lease))
        except Exception as error:
            release_frames(error)
            return write_stream_answer(_explain(error)[1], read_id(message))

    def _config(self) -> dict[str, Any]:
        config = metadata.model_config(self._pipeline.plan, self._service.inputs, self._service.outputs)
        return {"config": config}

    def _statistics(self) -> dict[str, Any]:
        (entry,) = metadata.model_statistics(self._service.name, self._pipeline.stats())["model_stats"]
        return {"model_stats": [{key: value for key, value in entry.items() if key != "pipeline"}]}

    def _index(self) -> dict[str, Any]:
        return {"models": metadata.repository_index(self._service.name, ready=self._pipeline.ready)}


def _release_after(task: asyncio.Task[bytes], lease: Lease) -> None:
    task.add_done_callback(lambda _task: lease.release())


def _unary(method: Callable[[Any, Any], Awaitable[Any]], write: Callable[[Any], bytes]) -> Any:
    return grpc.unary_unary_rpc_method_handler(method, response_serializer=write)


def _explain(error: Exception) -> tuple[str, str]:
    """Return the code and the words for an error; log a bug of the server."""
    if verdict(error) is None:
        _log.error("a call failed", exc_info=error)
    return explain(error)


def _constant(response: str, fields: Callable[[], dict[str, Any]]) -> Callable[[Any, Any], Awaitable[Any]]:
    async def method(_request: Any, _context: Any) -> Any:
        return MESSAGES[response](**fields())

    return method
