"""Who may call over gRPC, decided before a message is received: the token, and how many calls are under way.

Health checks need no token, as over HTTP, and count by themselves: a crowd of them takes no place of an inference.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health

from .grpc_codec import shorten
from .service import Service, TooManyRequests, verdict

HEALTH = health.SERVICE_NAME
_CHECK, _WATCH = f"/{HEALTH}/Check", f"/{HEALTH}/Watch"
_MOST_CHECKS = 64
_MOST_WATCHES = 64


class Gate(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses calls of a server.

    Args:
        service: The model that is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._limits = {_CHECK: _MOST_CHECKS, _WATCH: _MOST_WATCHES}
        self._under_way: Counter[str] = Counter()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        """Return the method's handler, or a handler that refuses the call."""
        method = handler_call_details.method
        kind = method if method in self._limits else ""
        try:
            if not kind:
                self._check_token(handler_call_details.invocation_metadata)
            self._begin(kind)
        except Exception as error:
            return self._refusal(error)
        return await continuation(handler_call_details)

    def _check_token(self, metadata: Any) -> None:
        if self._service.settings.token is not None:
            self._service.check_token(dict(metadata or ()).get("authorization"))

    def _begin(self, kind: str) -> None:
        """Count a call in, and out when its task ends."""
        limit = self._limits.get(kind, self._service.settings.max_requests)
        if self._under_way[kind] >= limit:
            raise TooManyRequests(f"{self._under_way[kind]} calls are under way, which is the server's limit")
        task = asyncio.current_task()
        assert task is not None  # grpc serves each call in a task of its own
        self._under_way[kind] += 1
        task.add_done_callback(lambda _task: self._under_way.subtract((kind,)))

    def _refusal(self, error: Exception) -> Any:
        """Return a handler that ends any call with the code of an error, without receiving its message."""
        code, text = explain(error)
        self._service.answers["grpc", code] += 1

        async def refuse(_messages: Any, context: Any) -> None:
            end(context, code, text)

        return grpc.stream_stream_rpc_method_handler(refuse)


def explain(error: Exception) -> tuple[str, str]:
    """Return the name of the code that answers an error, and the words."""
    found = verdict(error)
    if found is None:
        return "INTERNAL", "internal error"
    return found.grpc, shorten(str(error))


def end(context: Any, code: str, text: str) -> None:
    """Set how a call ends.

    Not with `context.abort`: the exception that it raises and the call hold each other, and with them the request's message
    until the garbage collector comes.
    """
    context.set_code(grpc.StatusCode[code])
    context.set_details(text)
