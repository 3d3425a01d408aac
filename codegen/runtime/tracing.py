"""A span a request and one a stage in it, under the caller's trace, where OpenTelemetry is installed; nothing elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

_ASK_EACH = 64
_NOTHING = contextlib.nullcontext()


class Tracer:
    """Starts spans through the process's OpenTelemetry provider, which `opentelemetry-instrument` or the host sets up."""

    def __init__(self) -> None:
        self._tracer: Any = None
        with contextlib.suppress(ImportError):
            from opentelemetry import context, propagate, trace  # noqa: PLC0415 - an extra

            self._extract, self._kind = propagate.extract, trace.SpanKind.SERVER
            self._current, self._current_span = context.get_current, trace.get_current_span
            self._provider, self._proxy = trace.get_tracer_provider, trace.ProxyTracerProvider
            self._unset, self._asked = True, 0
            self._tracer = trace.get_tracer("cutset")

    def request(self, headers: Mapping[bytes, bytes], model: str) -> AbstractContextManager[Any]:
        """Return a context in which a request is traced; `headers` may carry W3C trace context.

        Args:
            headers: The request's headers, names in lower case.
            model: The model's name.
        """
        if self._tracer is None or not self._provided():
            return _NOTHING
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        return self._tracer.start_as_current_span(  # type: ignore[no-any-return]
            "infer", context=self._extract(carrier), kind=self._kind, attributes={"model": model}
        )

    def _provided(self) -> bool:
        """Return whether a provider was set up; looked up now and then, for that takes longer than many a stage."""
        if self._unset and self._asked % _ASK_EACH == 0:
            self._unset = isinstance(self._provider(), self._proxy)
        self._asked += 1
        return not self._unset

    def here(self) -> Any:
        """Return the trace that the calling thread is in, None where nothing is recorded."""
        if self._tracer is None or not self._provided():
            return None
        return self._current() if self._current_span().is_recording() else None

    def stage(self, where: Any, begin: float, end: float, attributes: Mapping[str, str | int]) -> None:
        """Record that a stage ran.

        Args:
            where: The request's trace, from `here`.
            begin: When, on the clock of `time.perf_counter`.
            end: Until when.
            attributes: Which, where, and with how many other rows.
        """
        now_ns, now = time.time_ns(), time.perf_counter()
        begin_ns, end_ns = (now_ns - int((now - moment) * 1e9) for moment in (begin, end))
        self._tracer.start_span("stage", context=where, start_time=begin_ns, attributes=attributes).end(end_ns)
