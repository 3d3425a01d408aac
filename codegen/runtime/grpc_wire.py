"""The wire format of messages with large tensors, which protobuf would copy twice on the way in and three times on the way out.

Source:
    Protocol Buffers, "Encoding": a message is a row of fields, each a number with a wire type, and its value.
"""

from __future__ import annotations

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_ONE_BYTE = 127  # the largest number that takes one byte; read in place, for a call takes longer
_MOST_FIELDS = 4096  # a message of many small fields is protobuf's to read: this loop is slower than its
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}


def split(message: bytes, number: int) -> tuple[bytes, list[memoryview]]:
    """Return a message without the repeated bytes field `number`, and what that field has, in place.

    Raises:
        ValueError: If the message is malformed, has very many fields, or has groups, which no message of today has.
    """
    view = memoryview(message)
    rest: list[memoryview] = []
    found: list[memoryview] = []
    position = 0
    while position < len(message):
        if len(rest) + len(found) == _MOST_FIELDS:
            raise ValueError(f"more than {_MOST_FIELDS} fields")
        begin = position
        tag, position = message[position], position + 1
        if tag > _ONE_BYTE:  # no field of today has so large a number
            tag, position = _read_varint(message, begin)
        kind = tag & 7
        if kind == _BYTES:
            size = message[position] if position < len(message) else _ONE_BYTE + 1
            position += 1
            if size > _ONE_BYTE:
                size, position = _read_varint(message, position - 1)
            end = position + size
        elif kind == _VARINT:
            _, end = _read_varint(message, position)
        elif kind in _FIXED_SIZES:
            end = position + _FIXED_SIZES[kind]
        else:
            raise ValueError(f"wire type {kind}")
        if end > len(message):
            raise ValueError("the message ends within a field")
        if tag == number << 3 | _BYTES:
            found.append(view[position:end])
        else:
            rest.append(view[begin:end])
        position = end
    return b"".join(rest), found


def prefix(number: int, size: int) -> bytes:
    """Return what stands before the value of a bytes or message field."""
    return _varint(number << 3 | _BYTES) + _varint(size)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
        shift += 7
    raise ValueError("a number without an end")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
