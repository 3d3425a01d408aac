"""Tensors on the wire: the raw and the JSON forms of the Open Inference Protocol v2.

Raw data is little-endian and C-ordered; a BYTES element is preceded by its length in four bytes.

Source:
    Open Inference Protocol v2, and Triton's binary tensor data extension.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from .dtypes import ElementType, Tensor, from_python

Buffer = bytes | memoryview
_LENGTH = struct.Struct("<I")
_MAX_RANK = 32  # numpy before 2.0 has no more
LARGEST_BYTES = 256 * 2**20
"""Most bytes of a tensor in a request unless the server's settings say otherwise."""


class WireError(ValueError):
    """The data is not what its header says; the message is a phrase that completes "tensor x: ..."."""


def check_shape(shape: object, element: ElementType, limit_bytes: int) -> tuple[int, ...]:
    """Return the shape of a request's tensor.

    Args:
        shape: The shape as the request has it.
        element: Type of the elements.
        limit_bytes: Most bytes of the tensor. Sizes of zero are left out of the product: [0, N] holds nothing, but a sum over
            its first dimension has N elements.

    Raises:
        WireError: If it is no list of sizes, no array could have it, or no request could fill it.
    """
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise WireError("`shape` must be a list of integers")
    if any(size < 0 for size in shape):
        raise WireError(f"`shape` has a negative size: {shape}")
    if len(shape) > _MAX_RANK:
        raise WireError(f"`shape` has {len(shape)} dimensions, at most {_MAX_RANK} are possible")
    size_bytes = _LENGTH.size if element.is_string else element.storage.itemsize
    if size_bytes * math.prod(size for size in shape if size) > limit_bytes:
        raise WireError(f"`shape` is too large: its sizes, zeros aside, are those of a tensor of more than {limit_bytes} bytes")
    return tuple(shape)


def decode_raw(data: memoryview, element: ElementType, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor over raw data, without a copy where the data lies aligned.

    Raises:
        WireError: If the size of the data is not that of the shape, or an element is malformed.
    """
    count = math.prod(shape)
    if element.is_string:
        return _decode_strings(data, count).reshape(shape)
    expected = count * element.storage.itemsize
    if data.nbytes != expected:
        raise WireError(f"{data.nbytes} bytes of data, expected {expected} for {element.datatype} of shape {list(shape)}")
    tensor = np.frombuffer(data, dtype=element.storage)
    if element.name == "bool" and count and np.frombuffer(data, dtype=np.uint8).max() > 1:
        raise WireError("a BOOL byte that is neither 0 nor 1")
    return (tensor if tensor.flags.aligned else tensor.copy()).reshape(shape)


def decode_json(data: object, element: ElementType, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor from JSON data, flat or nested like the shape.

    Raises:
        WireError: If the number of values, their nesting or a value does not fit.
    """
    if not isinstance(data, list):
        raise WireError("`data` must be a list")
    try:
        tensor = from_python(data, element)
    except ValueError as error:
        raise WireError(f"{error}, expected {element.datatype}") from None
    if tensor.shape == shape or (tensor.ndim == 1 and tensor.size == math.prod(shape)):
        return tensor.reshape(shape)
    if tensor.size == 0 and math.prod(shape) == 0:
        return tensor.reshape(shape)  # a list cannot say [0, 3]
    raise WireError(f"`data` has shape {list(tensor.shape)}, expected {list(shape)} or {math.prod(shape)} values")


def encode_raw(tensor: Tensor, element: ElementType) -> Buffer:
    """Return a tensor's raw data, without a copy where it lies in order."""
    if element.is_string:
        return b"".join(_encode_strings(tensor.ravel().tolist()))
    packed = np.ascontiguousarray(tensor, dtype=element.storage)
    # A zero-sized or 0-d array has no flat byte view of its own.
    return packed.reshape(-1).view(np.uint8).data if packed.size else b""


def encode_json(tensor: Tensor, element: ElementType) -> list[object]:
    """Return a tensor's values as a flat list.

    Raises:
        WireError: For bfloat16, which JSON has no number for.
    """
    if element.name == "bfloat16":
        raise WireError('BF16 has no JSON form; ask for it with "binary_data": true')
    values: list[object] = tensor.ravel().tolist()
    return values


def _encode_strings(values: Sequence[str]) -> list[bytes]:
    parts: list[bytes] = []
    for value in values:
        encoded = value.encode("utf-8")
        parts += [_LENGTH.pack(len(encoded)), encoded]
    return parts


def _decode_strings(data: memoryview, count: int) -> Tensor:
    if count * _LENGTH.size > data.nbytes:
        raise WireError(f"{data.nbytes} bytes of data cannot hold {count} BYTES elements")
    tensor = np.empty(count, dtype=np.object_)
    position = 0
    for index in range(count):
        start = position + _LENGTH.size
        if start > data.nbytes:
            raise WireError(f"the data ends before element {index}")
        (length,) = _LENGTH.unpack_from(data, position)
        position = start + length
        if position > data.nbytes:
            raise WireError(f"element {index} claims {length} bytes, {data.nbytes - start} are left")
        try:
            tensor[index] = str(data[start:position], "utf-8")
        except UnicodeDecodeError:
            raise WireError(f"element {index} is not UTF-8, and the model takes text") from None
    if position != data.nbytes:
        raise WireError(f"{data.nbytes - position} bytes are left over after {count} elements")
    return tensor
