"""Protocol buffers' text format: how Triton's configuration is written.

Source:
    Protocol Buffers, Text Format Language Specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class Symbol:
    """A value of an enumeration; it is written without quotes, so it never comes from a model."""

    name: str


Scalar: TypeAlias = str | bool | int | Symbol
Field: TypeAlias = "Scalar | Message | Sequence[Scalar] | Sequence[Message]"
Message: TypeAlias = Mapping[str, Any]
"""Fields by name; each is a `Field`, which a type checker cannot say without losing dictionaries that are still built."""


def to_pbtxt(message: Message) -> str:
    """Return a message as text: a mapping is a message, a list a repeated field."""
    return "".join(f"{line}\n" for line in _lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for name, field in message.items():
        for entry in _messages(field):
            yield f"{indent}{name} {{"
            yield from _lines(entry, indent + "  ")
            yield f"{indent}}}"
        if not _messages(field):
            listed = isinstance(field, list | tuple)
            yield f"{indent}{name}: [{', '.join(map(_scalar, field))}]" if listed else f"{indent}{name}: {_scalar(field)}"


def _messages(field: Field) -> Sequence[Message]:
    if isinstance(field, Mapping):
        return [field]
    return [entry for entry in field if isinstance(entry, Mapping)] if isinstance(field, list | tuple) else []


def _scalar(value: Scalar) -> str:
    if isinstance(value, Symbol):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else f'"{_escaped(value)}"'


def _escaped(text: str) -> str:
    """Return a string's inside; all but plain ASCII in octal, which every version of the format takes."""
    plain = {byte: chr(byte) for byte in range(32, 127)} | {ord('"'): '\\"', ord("\\"): "\\\\"}
    return "".join(plain.get(byte, f"\\{byte:03o}") for byte in text.encode())
