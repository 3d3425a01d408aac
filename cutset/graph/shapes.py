"""Infer element types and shapes, symbolic dimensions included. Inference is help, not a gate: nothing here refuses a model.

A measured run fills what stays open, so a failure costs precision and never correctness.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from cutset.graph.bounded_inference import infer_bounded

logger = logging.getLogger(__name__)

_UNKNOWN = frozenset({"", "?", "-1", "None", "unk", "unknown"})
_OPERAND = r"(?:[A-Za-z_]\w*|\d+)"
_EXPRESSION = re.compile(rf"(?=.*[A-Za-z_]){_OPERAND}(?: *[-+*/]+ *{_OPERAND})*", re.ASCII)
"""Symbols that symbolic inference can parse, sums and products such as ``past_length + 1`` included."""


def infer(model: ir.Model, path: Path) -> dict[str, bytes]:
    """Set the type and shape of every value of `model` that can be inferred, in place.

    Returns the serialised TypeProto of the values whose type onnx_ir cannot hold (maps).

    Symbolic inference carries the names of dimensions but stops at the first operator it cannot follow; onnx's own goes
    on, so it fills what the first left without a type.

    Args:
        model: Sorted, without local functions; its input dimensions get a name each.
        path: Named in the log.
    """
    _name_dimensions(model.graph)
    try:
        infer_bounded(model)
    except Exception as error:  # one of many kinds, all of which mean that this operator is beyond it
        logger.info("symbolic shape inference stopped on %s: %s", path, error)
    untyped = [value for value in _outputs(model.graph) if value.type is None]
    if not untyped:
        return {}
    try:
        return _fill(model, untyped)
    except Exception as error:  # over 2 GiB of weights inside the file, or a body that onnx does not follow
        logger.info("shape inference stopped on %s: %s", path, error)
        return {}


def holds_map(kind: onnx.TypeProto) -> bool:
    """Return whether a type is a map, or a sequence or optional of maps."""
    which = kind.WhichOneof("value")
    if which in {"sequence_type", "optional_type"}:
        return holds_map(getattr(kind, which).elem_type)
    return bool(which == "map_type")


def _outputs(graph: ir.Graph) -> Iterator[ir.Value]:
    return (value for node in graph for value in node.outputs if value.name)


def _fill(model: ir.Model, untyped: list[ir.Value]) -> dict[str, bytes]:
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model))
    found = {value.name: value.type for value in [*proto.graph.value_info, *proto.graph.output]}
    maps = {}
    for value in untyped:
        kind = found.get(str(value.name), onnx.TypeProto())
        if holds_map(kind):
            maps[str(value.name)] = kind.SerializeToString()
        elif kind.WhichOneof("value") is not None:
            value.type = ir.serde.deserialize_type_proto_for_type(kind)
            value.shape = value.shape or ir.serde.deserialize_type_proto_for_shape(kind)
    return maps


def _name_dimensions(graph: ir.Graph) -> None:
    """Give every symbolic input size a name that symbolic inference can parse, equal ones the same name.

    Unknown sizes (``-1``, ``?``, unnamed) get one each; a name that is no expression is spelled with letters and digits.
    """
    named: dict[str, str] = {}
    used = {str(dim.value) for value in graph.inputs for dim in value.shape or () if not isinstance(dim, int)}

    def symbol(text: str) -> str:
        if text not in named:
            base = "_" + re.sub(r"\W", "_", text, flags=re.ASCII).lstrip("_")
            base = base if base[1:2].isdigit() else base[1:] or "dim"
            named[text] = next(name for name in _spellings(base) if name not in used)
            used.add(named[text])
        return named[text]

    for value in graph.inputs:
        if value.shape is None:
            continue
        dims: list[int | str] = []
        for index, dim in enumerate(value.shape):
            text = dim if isinstance(dim, int) else dim.value
            if text is None or str(text).strip() in _UNKNOWN or (isinstance(text, int) and text < 0):
                text = symbol(f"{value.name}_dim{index}")
            elif isinstance(text, str) and not _EXPRESSION.fullmatch(text):
                text = symbol(text)
            dims.append(text)
        value.shape = ir.Shape(dims)


def _spellings(base: str) -> Iterator[str]:
    """Yield `base`, ``base_1``, ``base_2``, ..."""
    yield base
    number = 0
    while True:
        number += 1
        yield f"{base}_{number}"
