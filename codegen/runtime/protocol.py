"""Requests and responses of the Open Inference Protocol v2 over HTTP, with the binary tensor data extension.

Source:
    Open Inference Protocol v2 (inference), and Triton's extensions: binary tensor data, parameters, outputs selection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .config import TensorConfig
from .dtypes import ElementType, Value
from .wire import Buffer, WireError, check_shape, decode_json, decode_raw, encode_json, encode_raw

VERSION = "1"


class ProtocolError(Exception):
    """The request is malformed; HTTP status 400."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestedOutput:
    """One output the client wants, and whether raw."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InferRequest:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class InferResponse:
    """An encoded response.

    Args:
        parts: The JSON header, then the raw tensors.
        header_length: Bytes of the JSON header where raw tensors follow; None where it is everything.
    """

    parts: tuple[Buffer, ...]
    header_length: int | None


class Codec:
    """Decodes requests for, and encodes responses of, one model.

    Args:
        model: The served model's name.
        inputs: The model's inputs, tensors all.
        outputs: The outputs that are tensors.
    """

    def __init__(self, model: str, inputs: Sequence[TensorConfig], outputs: Sequence[TensorConfig]) -> None:
        self._model = model
        self._inputs = {tensor.name: _element(tensor) for tensor in inputs}
        self._outputs = {tensor.name: _element(tensor) for tensor in outputs}

    def decode(self, body: memoryview, header_length: int | None) -> InferRequest:
        """Return the request in a body.

        Args:
            body: The decompressed body, as bytes.
            header_length: Value of ``Inference-Header-Content-Length``; None where all of it is JSON.

        Raises:
            ProtocolError: If it is malformed; the message names the tensor.
        """
        if header_length is not None and not 0 < header_length <= body.nbytes:
            raise ProtocolError(f"Inference-Header-Content-Length is {header_length}, the body has {body.nbytes} bytes")
        split = body.nbytes if header_length is None else header_length
        document = _object(_parse(body[:split]), "the request")
        parameters = _parameters(document, "the request")
        identifier = document.get("id")
        if "id" in document and not isinstance(identifier, str):
            raise ProtocolError("`id` must be a string")
        return InferRequest(
            id=identifier,
            inputs=self._decode_inputs(document, body[split:]),
            outputs=self._requested(document, parameters),
            timeout_s=_timeout(parameters),
        )

    def encode(self, request: InferRequest, results: Mapping[str, Value]) -> InferResponse:
        """Return the response to a request.

        Args:
            request: What was asked for.
            results: The model's outputs.

        Raises:
            ProtocolError: If an output has no JSON form and was asked for as JSON.
        """
        raw: list[Buffer] = []
        entries: list[dict[str, Any]] = []
        for output in request.outputs:
            element, tensor = self._outputs[output.name], results[output.name]
            entry: dict[str, Any] = {"name": output.name, "datatype": element.datatype, "shape": list(tensor.shape)}
            if output.binary:
                raw.append(encode_raw(tensor, element))
                entry["parameters"] = {"binary_data_size": len(raw[-1])}
            else:
                try:
                    entry["data"] = encode_json(tensor, element)
                except WireError as error:
                    raise ProtocolError(f"output {output.name!r}: {error}") from None
            entries.append(entry)
        document = {"model_name": self._model, "model_version": VERSION, "outputs": entries}
        if request.id is not None:
            document["id"] = request.id
        header = json.dumps(document, separators=(",", ":")).encode()
        return InferResponse(parts=(header, *raw), header_length=len(header) if raw else None)

    def _decode_inputs(self, document: Mapping[str, Any], binary: memoryview) -> dict[str, Value]:
        entries = document.get("inputs", [] if not self._inputs else None)
        if not isinstance(entries, list):
            raise ProtocolError("`inputs` must be a list")
        tensors: dict[str, Value] = {}
        used = 0
        for position, item in enumerate(entries):
            name, entry = _named(item, f"inputs[{position}]")
            if name not in self._inputs:
                raise ProtocolError(f"unknown input {name!r}, the model has {sorted(self._inputs)}")
            if name in tensors:
                raise ProtocolError(f"input {name!r} is given twice")
            try:
                size = _binary_size(entry, binary.nbytes - used)
                tensors[name] = self._decode_tensor(
                    self._inputs[name], entry, binary[used : used + size] if size is not None else None
                )
            except WireError as error:
                raise ProtocolError(f"input {name!r}: {error}") from None
            used += size or 0
        if used != binary.nbytes:
            raise ProtocolError(f"{binary.nbytes - used} bytes follow the last tensor")
        return tensors

    @staticmethod
    def _decode_tensor(element: ElementType, entry: Mapping[str, Any], raw: memoryview | None) -> Value:
        shape = check_shape(entry.get("shape"))
        datatype = entry.get("datatype")
        if datatype != element.datatype:
            raise WireError(f"datatype {datatype!r}, expected {element.datatype!r}")
        if (raw is None) == ("data" not in entry):
            raise WireError("exactly one of `data` and the parameter `binary_data_size` must be given")
        return decode_json(entry["data"], element, shape) if raw is None else decode_raw(raw, element, shape)

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


def _parse(text: memoryview) -> object:
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


def _binary_size(entry: Mapping[str, Any], left: int) -> int | None:
    parameters = _parameters(entry, "it")
    if "binary_data_size" not in parameters:
        return None
    size = parameters["binary_data_size"]
    if type(size) is not int or size < 0:
        raise WireError("`binary_data_size` must be a size in bytes")
    if size > left:
        raise WireError(f"`binary_data_size` is {size}, only {left} bytes of the body are left")
    return size


def _timeout(parameters: Mapping[str, Any]) -> float | None:
    """Return Triton's request timeout, given in microseconds, in seconds; zero is none."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value < 2**63:
        raise ProtocolError("the parameter `timeout` must be a number of microseconds")
    return value / 1e6 if value else None
