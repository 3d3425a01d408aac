"""What the HTTP and the gRPC server share: the one model they serve, who may ask, and what each error means."""

from __future__ import annotations

import hmac
import logging
from collections import Counter
from dataclasses import dataclass, replace

from .budget import BudgetExceeded, MemoryBudget, default_limit
from .errors import Closed, ConfigError, DeadlineExceeded, InputError, Overloaded, PipelineError
from .json_process import JsonProcess, JsonTooLarge
from .pipeline import Pipeline
from .protocol import VERSION, Codec, ProtocolError
from .settings import ServerSettings

_LEAST_JSON_MEMORY_BYTES = 256 * 2**20
_log = logging.getLogger(__name__)


class NotFound(Exception):  # noqa: N818 - the status's name
    """There is no such model or version; 404."""


class TooManyRequests(Exception):  # noqa: N818 - the status's name
    """As many inferences are under way as the server takes; 429."""


class Unauthorized(Exception):  # noqa: N818 - the status's name
    """The token is missing or wrong; 401."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How an error is answered: its HTTP status, the name of its gRPC code, and after how long to ask again."""

    http: int
    grpc: str
    retry_after_s: float | None = None


_VERDICTS: tuple[tuple[type[Exception], Verdict], ...] = (
    (ProtocolError, Verdict(http=400, grpc="INVALID_ARGUMENT")),
    (InputError, Verdict(http=400, grpc="INVALID_ARGUMENT")),
    (Unauthorized, Verdict(http=401, grpc="UNAUTHENTICATED")),
    (NotFound, Verdict(http=404, grpc="NOT_FOUND")),
    (TooManyRequests, Verdict(http=429, grpc="RESOURCE_EXHAUSTED", retry_after_s=1.0)),
    (BudgetExceeded, Verdict(http=503, grpc="RESOURCE_EXHAUSTED", retry_after_s=1.0)),
    (JsonTooLarge, Verdict(http=413, grpc="INVALID_ARGUMENT")),
    (MemoryError, Verdict(http=503, grpc="RESOURCE_EXHAUSTED", retry_after_s=1.0)),
    (Overloaded, Verdict(http=503, grpc="RESOURCE_EXHAUSTED", retry_after_s=1.0)),
    (Closed, Verdict(http=503, grpc="UNAVAILABLE", retry_after_s=1.0)),
    (DeadlineExceeded, Verdict(http=504, grpc="DEADLINE_EXCEEDED")),
    (PipelineError, Verdict(http=500, grpc="INTERNAL")),
)


def verdict(error: Exception) -> Verdict | None:
    """Return how an error is answered; None where it is a bug of the server."""
    found = next((entry for kind, entry in _VERDICTS if isinstance(error, kind)), None)
    if found is not None and isinstance(error, Overloaded):
        return replace(found, retry_after_s=error.retry_after_s)
    return found


class Service:
    """The served model.

    Outputs that are no tensors (ONNX sequences and maps) have no form in the protocol: they are left out, and logged.

    Args:
        pipeline: A loaded pipeline.
        settings: What is refused.

    Raises:
        ConfigError: If an input is no tensor, so that no request could be made.
    """

    def __init__(self, pipeline: Pipeline, settings: ServerSettings) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.name = pipeline.plan.name
        self.inputs = pipeline.plan.inputs
        self.outputs = tuple(tensor for tensor in pipeline.plan.outputs if tensor.element)
        _check_servable(pipeline)
        self.codec = Codec(self.name, self.inputs, self.outputs, settings.max_body_bytes, settings.max_json_bytes)
        self.memory = MemoryBudget(settings.max_held_bytes or default_limit(settings.max_body_bytes))
        """What the requests and answers of both protocols hold; each request takes a `lease` of it."""
        self.json = JsonProcess(self.codec, max(self.memory.limit_bytes, _LEAST_JSON_MEMORY_BYTES))
        self.under_way = 0
        self.answers: Counter[tuple[str, str]] = Counter()  # by protocol and status

    def check_model(self, model: str, version: str = "") -> None:
        """Raise `NotFound` unless this is the model that is served."""
        if model != self.name:
            raise NotFound(f"unknown model {model!r}, this server has {self.name!r}")
        if version not in ("", VERSION):
            raise NotFound(f"unknown version {version!r} of {model!r}, this server has {VERSION!r}")

    def check_token(self, authorization: str | None) -> None:
        """Raise `Unauthorized` unless the value of the header carries the token, where there is one."""
        token = self.settings.token
        if token is None:
            return
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise Unauthorized("a bearer token is required")

    def close(self) -> None:
        """End what the service started; the pipeline stays."""
        self.json.close()

    def begin(self) -> None:
        """Count an inference in.

        Raises:
            TooManyRequests: If too many are under way.
        """
        if self.under_way >= self.settings.max_requests:
            raise TooManyRequests(f"{self.under_way} requests are under way, which is the server's limit")
        self.under_way += 1

    def end(self) -> None:
        """Count an inference out."""
        self.under_way -= 1


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
