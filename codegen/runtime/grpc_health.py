"""gRPC's health service: what the pipeline says of itself at the moment of the question.

Source:
    GRPC Health Checking Protocol: Check and Watch; the empty service is the whole server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from .pipeline import Pipeline
from .protocol import ProtocolError
from .service import NotFound

_LOOK_S = 0.5  # between two looks of a watcher
_Response = health_pb2.HealthCheckResponse


class Health:
    """The answers of the health service.

    Args:
        pipeline: Whose health.
        names: The services that may be asked for; each is the whole pipeline.
    """

    def __init__(self, pipeline: Pipeline, names: Collection[str]) -> None:
        self._pipeline = pipeline
        self._names = names
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say from now on that nothing is served, and end the watches."""
        self._stopping.set()

    async def check(self, message: bytes, _context: Any) -> Any:
        """Return the status of a service.

        Raises:
            ProtocolError: If the message is malformed.
            NotFound: If there is no such service.
        """
        name = _read_name(message)
        if name not in self._names:
            raise NotFound(f"unknown service {name!r}")
        return _Response(status=self._status(name))

    async def watch(self, message: bytes, _context: Any) -> AsyncIterator[Any]:
        """Yield the status of a service now, and each time it changes.

        Raises:
            ProtocolError: If the message is malformed.
        """
        name, told = _read_name(message), None
        while True:
            last = self._stopping.is_set()
            status = self._status(name)
            if status != told:
                yield _Response(status=status)
            if last:
                return
            told = status
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _LOOK_S)

    def _status(self, name: str) -> Any:
        if name not in self._names:
            return _Response.SERVICE_UNKNOWN
        return _Response.SERVING if self._pipeline.ready and not self._stopping.is_set() else _Response.NOT_SERVING


def _read_name(message: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except DecodeError:
        raise ProtocolError("the message is no HealthCheckRequest") from None
