"""A span a request, under the caller's trace, where OpenTelemetry is installed; nothing elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any


class Tracer:
    """Starts spans through the process's OpenTelemetry provider, which `opentelemetry-instrument` or the host sets up."""

    def __init__(self) -> None:
        self._tracer: Any = None
        with contextlib.suppress(ImportError):
            from opentelemetry import propagate, trace  # noqa: PLC0415 - an extra

            self._extract, self._kind = propagate.extract, trace.SpanKind.SERVER
            self._tracer = trace.get_tracer("cutset")

    def request(self, headers: Mapping[bytes, bytes], model: str) -> AbstractContextManager[Any]:
        """Return a context in which a request is traced; `headers` may carry W3C trace context.

        Args:
            headers: The request's headers, names in lower case.
            model: The model's name.
        """
        if self._tracer is None:
            return contextlib.nullcontext()
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        return self._tracer.start_as_current_span(  # type: ignore[no-any-return]
            "infer", context=self._extract(carrier), kind=self._kind, attributes={"model": model}
        )
