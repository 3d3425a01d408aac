"""What a piece of glue is: a function from the types of what it reads, and its settings, to a model in ONNX text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset.graph.types import TensorSpec

OPSET = 18
"""What parts are written in: the first opset whose Resize has antialias."""

EXTENSIONS = "com.microsoft.extensions"
CONTRIB = "ai.onnx.contrib"


class PartError(ValueError):
    """A part cannot read what it is given, or its settings make no sense; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One use of a part.

    Args:
        name: Name of the stage, a plain word.
        reads: Type of what each input reads, in the order of the file.
        settings: What stands below ``with``, valid by the schema.
        document: The cascade's file; paths in the settings are relative to its folder.
    """

    name: str
    reads: Mapping[str, TensorSpec]
    settings: Mapping[str, Any]
    document: Path

    def type(self, name: str) -> str:
        """Return an input's element type as ONNX text spells it."""
        return text_type(self.reads[name].dtype)

    def rank(self, name: str, *allowed: int) -> int:
        """Return the number of dimensions of an input.

        Raises:
            PartError: If it is not one of `allowed`, or not known.
        """
        shape = self.reads[name].shape
        if shape is None or len(shape) not in allowed:
            wanted = " or ".join(map(str, allowed))
            found = "an unknown number of" if shape is None else str(len(shape))
            raise PartError(f"input `{name}` has {found} dimensions, expected {wanted}")
        return len(shape)

    def expect(self, name: str, *dtypes: str) -> str:
        """Return the element type of an input.

        Raises:
            PartError: If it is not one of `dtypes`.
        """
        dtype = self.reads[name].dtype
        if dtype not in dtypes:
            raise PartError(f"input `{name}` is {dtype}, expected {' or '.join(dtypes)}")
        return dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A piece of glue.

    Args:
        inputs: Its inputs; None takes any names.
        text: Returns the model of one use as ONNX text.
        summary: What it does, one line.
    """

    inputs: tuple[str, ...] | None
    text: Callable[[Use], str]
    summary: str


def text_type(dtype: str) -> str:
    """Return an element type as ONNX text spells it."""
    return {"float32": "float", "float64": "double"}.get(dtype, dtype)


def dims(spec: TensorSpec) -> str:
    """Return a shape as ONNX text, an unknown size as ``?``."""
    return ", ".join("?" if dim is None else str(dim) for dim in spec.shape or ())


def model(use: Use, signature: str, body: str, *, domains: Mapping[str, int] | None = None) -> str:
    """Return ONNX text of a part.

    Args:
        use: Its use.
        signature: Inputs and outputs, then initializers.
        body: Its nodes.
        domains: Operator sets beside the default one.
    """
    sets = ", ".join(f'"{domain}" : {version}' for domain, version in {"": OPSET, **(domains or {})}.items())
    return f"<ir_version: 8, opset_import: [{sets}]>\n{use.name} {signature}\n{{\n{body}\n}}"


def floats(values: list[float]) -> str:
    """Return numbers as ONNX text, each so that reading it gives the same float32."""
    return ", ".join(f"{float(value):.9g}" if float(value) % 1 else f"{float(value):.1f}" for value in values)
