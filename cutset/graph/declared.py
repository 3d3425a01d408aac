"""Types and shapes of the values between nodes as a model's file declares them, nothing inferred.

onnxruntime fuses by shapes: six SkipLayerNormalization kernels of a quantised BERT need the declared ones, because
onnxruntime infers nothing through operators of ``com.microsoft``. A part that keeps them is fused as the whole model is.
Shapes that Cutset infers or measures may be wrong for other input sizes, so no part carries those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """Element type and shape of one value in the file; None stands for an absent entry."""

    type: ir.TypeProtocol | None
    shape: ir.Shape | None


def read_declared(graph: ir.Graph) -> dict[str, DeclaredType]:
    """Return what the file says of each input, and of each value that a node of the main graph writes.

    Args:
        graph: As read from the file, before inference.
    """
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return {
        value.name: DeclaredType(value.type, None if value.shape is None else ir.Shape(list(value.shape)))
        for value in values
        if value.name and (value.type is not None or value.shape is not None)
    }


def follow_inputs(declared: Mapping[str, DeclaredType], inputs: Sequence[ir.Value]) -> dict[str, DeclaredType]:
    """Return `declared` with the dimension names that the inputs have now: inference gives inputs names it can parse.

    Args:
        declared: From `read_declared`.
        inputs: Inputs of the same graph after inference.
    """
    pairs = [pair for value in inputs for pair in _renamed(declared.get(str(value.name)), value)]
    renamed = {old: new for old, new in pairs if old}
    made = {new for _, new in pairs} - renamed.keys()
    return {name: DeclaredType(one.type, _with_names(one.shape, renamed, made)) for name, one in declared.items()}


def _renamed(before: DeclaredType | None, after: ir.Value) -> list[tuple[str, str]]:
    """Return the name of each free dimension of an input in the file, empty where it has none, and its name now."""
    new = list(after.shape or ())
    old = [None] * len(new) if before is None or before.shape is None else list(before.shape)
    return [
        (str(was or ""), str(name)) for was, name in zip(map(_text, old), map(_text, new), strict=True) if isinstance(name, str)
    ]


def _with_names(shape: ir.Shape | None, renamed: Mapping[str, str], made: set[str]) -> ir.Shape | None:
    """Return a shape with renamed dimensions; names in `made` are new names of inputs, so the dimension is left open."""
    if shape is None:
        return None
    dims: list[int | str | None] = []
    for dim in map(_text, shape):
        if isinstance(dim, str):
            dims.append(renamed.get(dim, None if dim in made else dim))
        else:
            dims.append(None if dim is None or dim < 0 else dim)
    return ir.Shape(dims)


def _text(dim: int | ir.SymbolicDim | None) -> int | str | None:
    return dim if dim is None or isinstance(dim, int) else dim.value
