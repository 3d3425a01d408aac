"""Requests and responses of the Open Inference Protocol v2 over HTTP, with the binary tensor data extension.

Source:
    Open Inference Protocol v2 (inference), and Triton's extensions: binary tensor data, parameters, outputs selection.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from .config import TensorConfig
from .dtypes import ElementType, Tensor, Value
from .wire import LARGEST_BYTES, Buffer, WireError, check_shape, decode_json, decode_raw, encode_json, encode_raw

VERSION = "1"
_REMEMBERED = 64  # headers of requests and of responses
_REMEMBERED_BYTES = 4096  # of one


class ProtocolError(Exception):
    """The request is malformed; HTTP status 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """One output the client wants, and whether raw."""

    name: str
    binary: bool


class InferRequest(NamedTuple):
    """A decoded request.

    Args:
        id: The client's own mark, returned with the response; None if it gave none.
        inputs: A tensor a name.
        outputs: What to return, in the client's order.
        timeout_s: Seconds the client waits; None for ever.
    """

    id: str | None
    inputs: dict[str, Value]
    outputs: tuple[RequestedOutput, ...]
    timeout_s: float | None


class InferResponse(NamedTuple):
    """An encoded response.

    Args:
        parts: The JSON header, then the raw tensors.
        header_length: Bytes of the JSON header where raw tensors follow; None where it is everything.
    """

    parts: tuple[Buffer, ...]
    header_length: int | None


Described: TypeAlias = tuple[str, tuple[int, ...], int | None]
"""One output of a response: name, shape, and the bytes of its raw data; None where its values are in the JSON part."""


class ResponseLayout(NamedTuple):
    """A response whose JSON part is not written yet.

    Args:
        described: The outputs in their order.
        parts: The raw data.
        tensors: The outputs whose values go into the JSON part.
    """

    described: tuple[Described, ...]
    parts: tuple[Buffer, ...]
    tensors: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputHeader:
    """One input as a header describes it: its tensor, or how many bytes of raw data it has."""

    name: str
    element: ElementType
    shape: tuple[int, ...]
    tensor: Tensor | None
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What the JSON part of a request says."""

    id: str | None
    inputs: tuple[InputHeader, ...]
    outputs: tuple[RequestedOutput, ...]
    timeout_s: float | None


def answer_bytes(names: Sequence[str], results: Mapping[str, Value], limit_bytes: int) -> int:
    """Return the bytes of the tensors that a response has.

    Raises:
        ProtocolError: If they are more than a response may have.
    """
    size = sum([int(results[name].nbytes) for name in names])
    if size > limit_bytes:
        raise ProtocolError(
            f"the answer has {size} bytes, more than {limit_bytes}; ask for fewer outputs, send fewer rows, or raise "
            "the server's --max-body-mb"
        )
    return size


class Codec:
    """Decodes requests for, and encodes responses of, one model.

    A client's headers are mostly alike: short ones are remembered, which spares reading and writing the JSON again.

    Args:
        model: The served model's name.
        inputs: The model's inputs, tensors all.
        outputs: The outputs that are tensors.
        limit_bytes: Most bytes of a request's tensor, and of all tensors of a response.
        json_bytes: Most bytes of the JSON part of a response.
    """

    def __init__(
        self,
        model: str,
        inputs: Sequence[TensorConfig],
        outputs: Sequence[TensorConfig],
        limit_bytes: int = LARGEST_BYTES,
        json_bytes: int = LARGEST_BYTES,
    ) -> None:
        self.words = (model, tuple(inputs), tuple(outputs), limit_bytes, json_bytes)
        """What another process needs to make this codec."""
        self._model = model
        self._json_bytes = json_bytes
        self._limit_bytes = limit_bytes
        self._inputs = {tensor.name: _element(tensor) for tensor in inputs}
        self._outputs = {tensor.name: _element(tensor) for tensor in outputs}
        self._remembered_header = functools.lru_cache(_REMEMBERED)(self.read_header)
        self._remembered_response = functools.lru_cache(_REMEMBERED)(self.write_header)

    def decode(self, body: memoryview, header_length: int | None) -> InferRequest:
        """Return the request in a body.

        Args:
            body: The decompressed body, as bytes.
            header_length: Value of ``Inference-Header-Content-Length``; None where all of it is JSON.

        Raises:
            ProtocolError: If it is malformed; the message names the tensor.
        """
        text, binary = self.split(body, header_length)
        short = len(text) <= _REMEMBERED_BYTES
        return self.assemble(self._remembered_header(bytes(text)) if short else self.read_header(text), binary)

    def split(self, body: memoryview, header_length: int | None) -> tuple[memoryview, memoryview]:
        """Return the JSON part and the raw tensors of a body; see `decode`."""
        if header_length is not None and not 0 < header_length <= body.nbytes:
            raise ProtocolError(f"Inference-Header-Content-Length is {header_length}, the body has {body.nbytes} bytes")
        end = body.nbytes if header_length is None else header_length
        return body[:end], body[end:]

    def assemble(self, header: Header, binary: memoryview) -> InferRequest:
        """Return the request of a header and of the raw tensors that follow it; see `decode`."""
        return InferRequest(
            id=header.id,
            inputs=_decode_inputs(header.inputs, binary),
            outputs=header.outputs,
            timeout_s=header.timeout_s,
        )

    def check_size(self, request: InferRequest, results: Mapping[str, Value]) -> int:
        """Return the bytes of the tensors that a response has.

        Raises:
            ProtocolError: If they are more than a response may have.
        """
        return answer_bytes([output.name for output in request.outputs], results, self._limit_bytes)

    def encode(self, request: InferRequest, results: Mapping[str, Value]) -> InferResponse:
        """Return the response to a request.

        Args:
            request: What was asked for.
            results: The model's outputs.

        Raises:
            ProtocolError: If an output has no JSON form and was asked for as JSON.
        """
        layout = self.lay_out(request, results)
        if layout.tensors or (request.id is not None and len(request.id) > _REMEMBERED_BYTES):
            header = self.write_header(request.id, layout.described, layout.tensors)
        else:
            header = self._remembered_response(request.id, layout.described)
        return InferResponse(parts=(header, *layout.parts), header_length=len(header) if layout.parts else None)

    def lay_out(self, request: InferRequest, results: Mapping[str, Value]) -> ResponseLayout:
        """Return a response but for its JSON part; see `encode`."""
        described: list[Described] = []
        parts: list[Buffer] = []
        tensors: dict[str, Tensor] = {}
        for output in request.outputs:
            tensor = results[output.name]
            if output.binary:
                parts.append(encode_raw(tensor, self._outputs[output.name]))
                described.append((output.name, tensor.shape, len(parts[-1])))
            else:
                tensors[output.name] = tensor
                described.append((output.name, tensor.shape, None))
        return ResponseLayout(tuple(described), tuple(parts), tensors)

    def write_header(
        self, identifier: str | None, described: Sequence[Described], tensors: Mapping[str, Tensor] | None = None
    ) -> bytes:
        """Return the JSON part of a response.

        Args:
            identifier: The client's own mark.
            described: The outputs.
            tensors: Those whose values it has.

        Raises:
            ProtocolError: If an output has no JSON form, or the JSON part is longer than it may be.
        """
        entries: list[dict[str, Any]] = []
        for name, shape, size in described:
            entry: dict[str, Any] = {"name": name, "datatype": self._outputs[name].datatype, "shape": list(shape)}
            if size is not None:
                entries.append(entry | {"parameters": {"binary_data_size": size}})
                continue
            try:
                entries.append(entry | {"data": encode_json((tensors or {})[name], self._outputs[name])})
            except WireError as error:
                raise ProtocolError(f"output {name!r}: {error}") from None
        document = {"model_name": self._model, "model_version": VERSION, "outputs": entries}
        if identifier is not None:
            document["id"] = identifier
        text = json.dumps(document, separators=(",", ":")).encode()
        if len(text) > self._json_bytes:
            raise ProtocolError(
                f"the answer's JSON has {len(text)} bytes, more than {self._json_bytes}; ask for large tensors as binary "
                "tensor data, or raise the server's --max-json-mb"
            )
        return text

    def read_header(self, text: Buffer) -> Header:
        """Return what the JSON part of a request says, its tensors converted.

        Raises:
            ProtocolError: If it is malformed; the message names the tensor.
        """
        document = _object(_parse(text), "the request")
        parameters = _parameters(document, "the request")
        identifier = document.get("id")
        if "id" in document and not isinstance(identifier, str):
            raise ProtocolError("`id` must be a string")
        return Header(
            id=identifier,
            inputs=self._read_inputs(document),
            outputs=self._requested(document, parameters),
            timeout_s=_timeout(parameters),
        )

    def _read_inputs(self, document: Mapping[str, Any]) -> tuple[InputHeader, ...]:
        entries = document.get("inputs", [] if not self._inputs else None)
        if not isinstance(entries, list):
            raise ProtocolError("`inputs` must be a list")
        inputs: dict[str, InputHeader] = {}
        for position, item in enumerate(entries):
            name, entry = _named(item, f"inputs[{position}]")
            if name not in self._inputs:
                raise ProtocolError(f"unknown input {name!r}, the model has {sorted(self._inputs)}")
            if name in inputs:
                raise ProtocolError(f"input {name!r} is given twice")
            try:
                inputs[name] = _read_input(name, self._inputs[name], entry, self._limit_bytes)
            except WireError as error:
                raise ProtocolError(f"input {name!r}: {error}") from None
        return tuple(inputs.values())

    def _requested(self, document: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[RequestedOutput, ...]:
        by_default = _flag(parameters, "binary_data_output", "the request", default=False)
        entries = document.get("outputs", [])
        if entries == []:
            return tuple(RequestedOutput(name=name, binary=by_default) for name in self._outputs)
        if not isinstance(entries, list):
            raise ProtocolError("`outputs` must be a list")
        requested: dict[str, RequestedOutput] = {}
        for position, item in enumerate(entries):
            name, entry = _named(item, f"outputs[{position}]")
            if name not in self._outputs:
                raise ProtocolError(f"unknown output {name!r}, the model has {sorted(self._outputs)}")
            if name in requested:
                raise ProtocolError(f"output {name!r} is asked for twice")
            where = f"output {name!r}"
            own = _parameters(entry, where)
            if "classification" in own:
                raise ProtocolError(f"{where}: classification is not supported")
            requested[name] = RequestedOutput(name=name, binary=_flag(own, "binary_data", where, default=by_default))
        return tuple(requested.values())


def _element(tensor: TensorConfig) -> ElementType:
    if tensor.element is None:
        raise TypeError(f"{tensor.name!r} is no tensor")
    return tensor.element


def _read_input(name: str, element: ElementType, entry: Mapping[str, Any], limit_bytes: int) -> InputHeader:
    size = _binary_size(entry)
    shape = check_shape(entry.get("shape"), element, limit_bytes)
    datatype = entry.get("datatype")
    if datatype != element.datatype:
        raise WireError(f"datatype {datatype!r}, expected {element.datatype!r}")
    if (size is None) == ("data" not in entry):
        raise WireError("exactly one of `data` and the parameter `binary_data_size` must be given")
    tensor = None
    if size is None:
        tensor = decode_json(entry["data"], element, shape)
        tensor.flags.writeable = False  # as over raw data; requests with the same header share it
    return InputHeader(name=name, element=element, shape=shape, tensor=tensor, size=size or 0)


def _decode_inputs(inputs: Sequence[InputHeader], binary: memoryview) -> dict[str, Value]:
    tensors: dict[str, Value] = {}
    used = 0
    for one in inputs:
        if one.tensor is not None:
            tensors[one.name] = one.tensor
            continue
        left = binary.nbytes - used
        try:
            if one.size > left:
                raise WireError(f"`binary_data_size` is {one.size}, only {left} bytes of the body are left")
            tensors[one.name] = decode_raw(binary[used : used + one.size], one.element, one.shape)
        except WireError as error:
            raise ProtocolError(f"input {one.name!r}: {error}") from None
        used += one.size
    if used != binary.nbytes:
        raise ProtocolError(f"{binary.nbytes - used} bytes follow the last tensor")
    return tensors


def _parse(text: Buffer) -> object:
    try:
        return json.loads(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the request is not JSON: {error}") from None


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"{where} must be a JSON object")
    return value


def _named(item: object, where: str) -> tuple[str, dict[str, Any]]:
    entry = _object(item, where)
    if not isinstance(entry.get("name"), str):
        raise ProtocolError(f"{where}: `name` must be a string")
    return entry["name"], entry


def _parameters(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = _object(entry.get("parameters", {}), f"`parameters` of {where}")
    if any(key.startswith("shared_memory_") for key in parameters):
        raise ProtocolError(f"{where}: shared memory is not supported")
    return parameters


def _flag(parameters: Mapping[str, Any], key: str, where: str, *, default: bool) -> bool:
    value = parameters.get(key, default)
    if not isinstance(value, bool):
        raise ProtocolError(f"{where}: `{key}` must be true or false")
    return value


def _binary_size(entry: Mapping[str, Any]) -> int | None:
    parameters = _parameters(entry, "it")
    if "binary_data_size" not in parameters:
        return None
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise WireError("`binary_data_size` must be a size in bytes")
    return size


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Return Triton's request timeout, given in microseconds, in seconds; zero is none."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value < 2**63:
        raise ProtocolError("the parameter `timeout` must be a number of microseconds")
    return value / 1e6 if value else None
