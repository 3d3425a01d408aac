"""gRPC's form of requests and responses: what differs from HTTP is only where the numbers lie."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import quote

from google.protobuf.message import DecodeError

from . import grpc_wire
from .config import TensorConfig
from .dtypes import ElementType, Value
from .grpc_messages import MESSAGES
from .protocol import VERSION, ProtocolError, answer_bytes
from .wire import LARGEST_BYTES, Buffer, WireError, check_shape, decode_json, decode_raw, encode_raw

_CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}  # fmt: skip
"""Where typed values of each datatype lie; those not listed are raw only."""
_RAW_INPUTS, _RAW_OUTPUTS, _INFER_RESPONSE = 7, 6, 2  # numbers of fields: see grpc_messages
_REMEMBERED = 64  # heads of requests and of responses
_REMEMBERED_BYTES = 4096  # of one
_LONGEST_TEXT = 4096  # of an error, percent-encoded as it travels; a client takes 8 KiB of metadata
_LONGEST_TIMEOUT = 2**63  # microseconds; as over HTTP


class Call(NamedTuple):
    """A ModelInferRequest as it came: the message but for the raw tensors, and those, in place."""

    head: bytes
    raw: Sequence[Buffer]


class Answer(NamedTuple):
    """The pieces of an encoded ModelInferResponse, in order."""

    pieces: Sequence[Buffer]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Input:
    """One input as the head describes it; `data` is None where it has no typed values."""

    name: str
    element: ElementType
    shape: tuple[int, ...]
    data: list[object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the head of a request says.

    Args:
        id: The client's own mark.
        inputs: The inputs, without their raw data.
        outputs: The outputs to return.
        timeout_s: Seconds the client waits; None for ever.
    """

    id: str
    inputs: tuple[_Input, ...]
    outputs: tuple[str, ...]
    timeout_s: float | None


def read_message(kind: str, message: bytes) -> Any:
    """Return a message of the protocol.

    Raises:
        ProtocolError: If it is malformed.
    """
    try:
        return MESSAGES[kind].FromString(message)
    except DecodeError:
        raise ProtocolError(f"the message is no {kind}") from None


def read_call(message: bytes) -> Call:
    """Return a serialized ModelInferRequest taken apart.

    Raises:
        ProtocolError: If it is malformed.
    """
    try:
        return Call(*grpc_wire.split(message, _RAW_INPUTS))
    except ValueError:  # protobuf has the last word
        request = read_message("ModelInferRequest", message)
        raw = list(request.raw_input_contents)
        request.ClearField("raw_input_contents")
        return Call(request.SerializeToString(), raw)


def read_id(message: bytes) -> str:
    """Return the client's own mark of a request, nothing where it cannot be read."""
    try:
        return str(read_message("ModelInferRequest", read_call(message).head).id)
    except ProtocolError:
        return ""


def shorten(text: str) -> str:
    """Return an error's text, cut where it is too long for the end of a call."""
    kept = text[:_LONGEST_TEXT].encode("utf-8", "replace").decode()
    while len(quote(kept)) > _LONGEST_TEXT:
        kept = kept[: len(kept) * 3 // 4]
    return kept if len(kept) == len(text) else f"{kept}... ({len(text)} characters)"


def write_answer(answer: Answer) -> bytes:
    """Return a serialized ModelInferResponse."""
    return b"".join(answer.pieces)


def write_stream_answer(answer: Answer | str, identifier: str = "") -> bytes:
    """Return a serialized ModelStreamInferResponse: an answer, or the message of an error and the request's mark."""
    if isinstance(answer, Answer):
        return b"".join([grpc_wire.prefix(_INFER_RESPONSE, sum(map(len, answer.pieces))), *answer.pieces])
    failed = MESSAGES["ModelStreamInferResponse"](error_message=answer)
    failed.infer_response.id = identifier
    return bytes(failed.SerializeToString())


class GrpcCodec:
    """Decodes requests for, and encodes responses of, one model.

    A client's heads are mostly alike: short ones are remembered, which spares reading and writing them again.

    Args:
        model: The served model's name.
        inputs: The model's inputs, tensors all.
        outputs: The outputs that are tensors.
        check_model: Raises unless the model and the version are those that are served.
        limit_bytes: Most bytes of a request's tensor, and of the tensors of an answer.
    """

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorConfig],
        outputs: Sequence[TensorConfig],
        check_model: Callable[[str, str], None],
        limit_bytes: int = LARGEST_BYTES,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._model = model
        self._check_model = check_model
        self._inputs = {tensor.name: tensor.element for tensor in inputs if tensor.element}
        self._outputs = {tensor.name: tensor.element for tensor in outputs if tensor.element}
        self._remembered_head = functools.lru_cache(_REMEMBERED)(self._read_head)
        self._remembered_answer = functools.lru_cache(_REMEMBERED)(self._answer_prefixes)

    def head(self, call: Call) -> Head:
        """Return what the head of a request says.

        Raises:
            ProtocolError: If it is malformed; the message names the tensor.
        """
        return (self._remembered_head if len(call.head) <= _REMEMBERED_BYTES else self._read_head)(call.head)

    def decode(self, head: Head, raw: Sequence[Buffer]) -> dict[str, Value]:
        """Return the inputs of a request.

        Raises:
            ProtocolError: If they are not what its head says; the message names the tensor.
        """
        if raw and len(raw) != len(head.inputs):
            raise ProtocolError(f"{len(raw)} raw contents for {len(head.inputs)} inputs")
        tensors: dict[str, Value] = {}
        for index, one in enumerate(head.inputs):
            try:
                tensors[one.name] = _decode_tensor(one, raw[index] if raw else None)
            except WireError as error:
                raise ProtocolError(f"input {one.name!r}: {error}") from None
        return tensors

    def check_size(self, head: Head, results: Mapping[str, Value]) -> int:
        """Return the bytes of the tensors that the response to a request has.

        Raises:
            ProtocolError: If they are more than a response may have.
        """
        return answer_bytes(head.outputs, results, self._limit_bytes)

    def encode(self, head: Head, results: Mapping[str, Value]) -> Answer:
        """Return the response to a request, its contents raw.

        Args:
            head: What was asked for.
            results: The model's outputs.
        """
        parts = [encode_raw(results[name], self._outputs[name]) for name in head.outputs]
        described = self._remembered_answer if len(head.id) <= _REMEMBERED_BYTES else self._answer_prefixes
        shapes = tuple([results[name].shape for name in head.outputs])
        first, *prefixes = described(head.id, head.outputs, shapes, tuple(map(len, parts)))
        return Answer([first, *chain.from_iterable(zip(prefixes, parts, strict=True))])

    def _read_head(self, text: bytes) -> Head:
        request = read_message("ModelInferRequest", text)
        self._check_model(request.model_name, request.model_version)
        inputs: dict[str, _Input] = {}
        for entry in request.inputs:
            element = self._inputs.get(entry.name)
            if element is None:
                raise ProtocolError(f"unknown input {entry.name!r}, the model has {sorted(self._inputs)}")
            if entry.name in inputs:
                raise ProtocolError(f"input {entry.name!r} is given twice")
            try:
                inputs[entry.name] = _read_input(element, entry, self._limit_bytes)
            except WireError as error:
                raise ProtocolError(f"input {entry.name!r}: {error}") from None
        return Head(
            id=request.id,
            inputs=tuple(inputs.values()),
            outputs=tuple(self._requested(request)),
            timeout_s=_timeout_s(request),
        )

    def _requested(self, request: Any) -> list[str]:
        """Return the outputs asked for, all of them where none is named."""
        names = [entry.name for entry in request.outputs]
        for name in names:
            if name not in self._outputs:
                raise ProtocolError(f"unknown output {name!r}, the model has {sorted(self._outputs)}")
            if names.count(name) > 1:
                raise ProtocolError(f"output {name!r} is asked for twice")
        if any("classification" in entry.parameters for entry in request.outputs):
            raise ProtocolError("classification is not supported")
        return names or list(self._outputs)

    def _answer_prefixes(
        self, identifier: str, names: Sequence[str], shapes: Sequence[tuple[int, ...]], sizes: Sequence[int]
    ) -> list[bytes]:
        """Return the response's head, and what stands before each output's raw data."""
        response = MESSAGES["ModelInferResponse"](model_name=self._model, model_version=VERSION, id=identifier)
        for name, shape in zip(names, shapes, strict=True):
            response.outputs.add(name=name, datatype=self._outputs[name].datatype, shape=shape)
        return [response.SerializeToString(), *(grpc_wire.prefix(_RAW_OUTPUTS, size) for size in sizes)]


def _timeout_s(request: Any) -> float | None:
    """Return the request's own timeout, sent in microseconds, in seconds; None for none."""
    if "timeout" not in request.parameters:
        return None
    parameter = request.parameters["timeout"]
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if not 0 <= value < _LONGEST_TIMEOUT:
        raise ProtocolError("the parameter `timeout` must be a number of microseconds")
    return value / 1e6 if value else None


def _read_input(element: ElementType, entry: Any, limit_bytes: int) -> _Input:
    if any(key.startswith("shared_memory_") for key in entry.parameters):
        raise WireError("shared memory is not supported")
    if entry.datatype != element.datatype:
        raise WireError(f"datatype {entry.datatype!r}, expected {element.datatype!r}")
    shape = check_shape(list(entry.shape), element, limit_bytes)
    place = _CONTENTS.get(element.datatype)
    values = getattr(entry.contents, place) if place else ()
    data = list(values) if entry.HasField("contents") else None
    return _Input(name=entry.name, element=element, shape=shape, data=data)


def _decode_tensor(one: _Input, raw: Buffer | None) -> Value:
    if raw is None:
        if one.element.datatype not in _CONTENTS:
            raise WireError(f"{one.element.datatype} travels as raw contents only")
        return decode_json(one.data or [], one.element, one.shape)
    if one.data is not None:
        raise WireError("raw and typed contents cannot be mixed")
    return decode_raw(memoryview(raw), one.element, one.shape)
