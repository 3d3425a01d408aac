"""What operators do with integers that say places: which keep the places, and which places a sum, a product or a join says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir

from cutset.rowwise.flow import Flow
from cutset.rowwise.operation import Operation
from cutset.rowwise.places import Places
from cutset.rowwise.size import ONE, Size

_KEEPS_PLACES = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators whose result holds elements of the first input and no others."""

_WIDE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
"""Types to which a cast leaves every place as it is; in a smaller one row 256 may become row 0."""


def keeps_places(operation: Operation) -> bool:
    """Return whether the elements of a result are elements of the first input, unchanged."""
    if operation.node.op_type == "Cast":
        return operation.attribute("to") in _WIDE
    return operation.node.op_type in _KEEPS_PLACES


def combine(operation: Operation) -> Places | None:
    """Return the places that a sum or product with row numbers says, None where nothing is known of them."""
    if len(operation.given) != 2:
        return None
    one, other = operation.given
    if operation.node.op_type == "Add":
        return None if one.places is None or other.places is None else one.places.plus(other.places)
    if operation.node.op_type == "Mul":
        for flow, factor in ((one, other), (other, one)):
            size = _only(factor)
            if flow.places is not None and size is not None:
                return flow.places.times(size)
    return None


def _only(flow: Flow) -> Size | None:
    """Return the single element of a value that is the same for any rows."""
    element = flow.data[0] if flow.constant and flow.data is not None and len(flow.data) == 1 else None
    return element if isinstance(element, Size) else None


def columns_of(operation: Operation, flows: Sequence[Flow]) -> tuple[Places | None, ...]:
    """Return the places in each column of values that are joined along the last dimension; empty where they are not."""
    axis = int(operation.attribute("axis", 0))
    if any(flow.shape is None or not flow.shape or flow.shape[-1] != ONE for flow in flows):
        return ()
    return tuple(flow.places for flow in flows) if axis in {-1, flows[0].rank - 1} else ()


def marked(operation: Operation, flow: Flow, places: Places | None) -> Flow:
    """Return the flow with what its integers say; row numbers about which nothing is known may only say a shape."""
    if places is not None:
        return replace(flow, places=places)
    node = operation.node
    name = node.name or node.outputs[0].name
    return replace(flow, mixed=f"at `{name}` ({node.op_type}): it computes with numbers of rows")
