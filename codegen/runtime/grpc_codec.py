"""gRPC's form of requests and responses: what differs from HTTP is only where the numbers lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .config import TensorConfig
from .dtypes import ElementType, Tensor, Value
from .grpc_messages import MESSAGES
from .protocol import VERSION, ProtocolError
from .wire import WireError, check_shape, decode_json, decode_raw, encode_raw

_CONTENTS = {
    "BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents", "FP32": "fp32_contents",
    "FP64": "fp64_contents", "BYTES": "bytes_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
}  # fmt: skip
"""Where typed values of each datatype lie; those not listed are raw only."""


class GrpcCodec:
    """Decodes requests for, and encodes responses of, one model.

    Args:
        model: The served model's name.
        inputs: The model's inputs, tensors all.
        outputs: The outputs that are tensors.
    """

    def __init__(self, model: str, inputs: Sequence[TensorConfig], outputs: Sequence[TensorConfig]) -> None:
        self._model = model
        self._inputs = {tensor.name: tensor.element for tensor in inputs if tensor.element}
        self._outputs = {tensor.name: tensor.element for tensor in outputs if tensor.element}

    def decode(self, request: Any) -> dict[str, Value]:
        """Return the inputs of a ModelInferRequest.

        Raises:
            ProtocolError: If it is malformed; the message names the tensor.
        """
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise ProtocolError(f"{len(raw)} raw contents for {len(request.inputs)} inputs")
        tensors: dict[str, Value] = {}
        for index, entry in enumerate(request.inputs):
            element = self._inputs.get(entry.name)
            if element is None:
                raise ProtocolError(f"unknown input {entry.name!r}, the model has {sorted(self._inputs)}")
            if entry.name in tensors:
                raise ProtocolError(f"input {entry.name!r} is given twice")
            try:
                tensors[entry.name] = _decode_tensor(element, entry, raw[index] if raw else None)
            except WireError as error:
                raise ProtocolError(f"input {entry.name!r}: {error}") from None
        return tensors

    def requested(self, request: Any) -> list[str]:
        """Return the outputs asked for, all of them where none is named.

        Raises:
            ProtocolError: If one is unknown or asked for twice.
        """
        names = [entry.name for entry in request.outputs]
        for name in names:
            if name not in self._outputs:
                raise ProtocolError(f"unknown output {name!r}, the model has {sorted(self._outputs)}")
            if names.count(name) > 1:
                raise ProtocolError(f"output {name!r} is asked for twice")
        if any("classification" in entry.parameters for entry in request.outputs):
            raise ProtocolError("classification is not supported")
        return names or list(self._outputs)

    def encode(self, identifier: str, names: Sequence[str], results: Mapping[str, Value]) -> Any:
        """Return a ModelInferResponse with raw contents.

        Args:
            identifier: The client's own mark.
            names: Outputs to return.
            results: The model's outputs.
        """
        response = MESSAGES["ModelInferResponse"](model_name=self._model, model_version=VERSION, id=identifier)
        for name in names:
            element, tensor = self._outputs[name], results[name]
            response.outputs.add(name=name, datatype=element.datatype, shape=tensor.shape)
            response.raw_output_contents.append(bytes(encode_raw(tensor, element)))
        return response


def timeout_s(request: Any) -> float | None:
    """Return the request's own timeout, sent in microseconds, in seconds; None for none."""
    value = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    if value < 0:
        raise ProtocolError("the parameter `timeout` must be a number of microseconds")
    return value / 1e6 if value else None


def _decode_tensor(element: ElementType, entry: Any, raw: bytes | None) -> Tensor:
    if any(key.startswith("shared_memory_") for key in entry.parameters):
        raise WireError("shared memory is not supported")
    if entry.datatype != element.datatype:
        raise WireError(f"datatype {entry.datatype!r}, expected {element.datatype!r}")
    shape = check_shape(list(entry.shape))
    if raw is not None:
        if entry.HasField("contents"):
            raise WireError("raw and typed contents cannot be mixed")
        return decode_raw(memoryview(raw), element, shape)
    place = _CONTENTS.get(element.datatype)
    if place is None:
        raise WireError(f"{element.datatype} travels as raw contents only")
    return decode_json(list(getattr(entry.contents, place)), element, shape)
