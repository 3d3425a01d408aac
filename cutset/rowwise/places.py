"""Integers that say places, as exporters index a batch: row r's are ``r * stride + e`` with a bounded ``e``.

Frameworks write ``mask[batch_index, position]`` and ``flat[batch_index * width + channel]``, where ``batch_index`` counts the
rows. Such a value tells rows apart and may feed nothing but an index, where it picks each row's own elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import onnx_ir as ir

from cutset.rowwise.size import ONE, Size

if TYPE_CHECKING:
    from cutset.rowwise.flow import Flow
    from cutset.rowwise.operation import Operation

ZERO = Size(0)
_TOO_FAR = 1 << 31
"""Numbers from here on do not fit in 32 bits."""

_KEEPS_PLACES = frozenset(
    {"Cast", "Expand", "Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)
"""Operators whose result holds elements of the first input and no others."""

_WIDE = frozenset({ir.DataType.INT32, ir.DataType.INT64})
"""Types to which a cast leaves every place as it is; in a smaller one row 256 may become row 0."""


@dataclass(frozen=True, slots=True)
class Places:
    """Integers ``r * stride + e`` with ``0 <= e < below``.

    Args:
        stride: Step from one row to the next; zero where the integers are the same for each row.
        below: Bound of ``e``.
    """

    stride: Size
    below: Size

    @property
    def number_rows(self) -> bool:
        """Whether the integers tell rows apart."""
        return self.stride != ZERO

    def times(self, factor: Size) -> Places | None:
        """Return the places multiplied by a size."""
        if factor.may_be_negative or factor == ZERO:
            return None
        return Places(self.stride.times(factor), self.below if self.below == ONE else self.below.times(factor))

    def plus(self, other: Places) -> Places | None:
        """Return the sum of places, one of which must hold ``e`` = 0 and one of which is the same for each row."""
        if self.number_rows and other.number_rows:
            return None
        first, second = (self, other) if self.number_rows else (other, self)
        if ONE not in (first.below, second.below):
            return None
        return Places(first.stride, second.below if first.below == ONE else first.below)

    def stay_within(self, width: Size) -> bool:
        """Return whether each row's places lie among the row's own `width` elements."""
        small = self.below.number is not None and width.number is not None and self.below.number <= width.number
        return self.stride == width and (small or self.below == width)


def bounded(low: int, high: int) -> Places | None:
    """Return the places of constants between two integers, both included; None where one is negative or huge."""
    return None if low < 0 or high >= _TOO_FAR else Places(ZERO, Size(high + 1))


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
