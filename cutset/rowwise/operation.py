"""One node as the rules see it, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import onnx_ir as ir

from cutset.rowwise.flow import Flow, MixingError
from cutset.rowwise.size import Size

Result: TypeAlias = Flow | Sequence[Flow]
"""What a rule returns: one flow an output; a single flow stands for every output."""

Rule: TypeAlias = Callable[["Operation"], Result]

RULES: dict[tuple[str, str], Rule] = {}
"""The operators that are described, by domain and name; any other one is refused."""


def rule(*names: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Register a function as the rule of operators."""

    def register(function: Rule) -> Rule:
        RULES.update({(domain, name): function for name in names})
        return function

    return register


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A node with the flows of its inputs.

    Args:
        node: The node.
        version: Version of its operator set.
        flows: One entry an input; None for an optional one that is left out.
        shapes: Shape of each output as inference knows it; None where the rank is unknown.
    """

    node: ir.Node
    version: int
    flows: tuple[Flow | None, ...]
    shapes: tuple[tuple[Size | None, ...] | None, ...] = field(default=())

    def get(self, index: int) -> Flow | None:
        """Return the flow of an optional input, None where left out."""
        return self.flows[index] if index < len(self.flows) else None

    def need(self, index: int) -> Flow:
        """Return the flow of an input.

        Raises:
            MixingError: If the input is left out.
        """
        flow = self.get(index)
        if flow is None:
            raise MixingError(f"input {index} is left out")
        return flow

    @property
    def given(self) -> list[Flow]:
        """The flows of the inputs that are there."""
        return [flow for flow in self.flows if flow is not None]

    def attribute(self, name: str, default: Any = None) -> Any:
        """Return the value of an attribute, else `default`."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def numbers(self, index: int, name: str = "") -> list[int] | None:
        """Return the integers of a constant input, or of an attribute of this name; None where neither is there.

        Raises:
            MixingError: If the input is not known to the last element.
        """
        if name and name in self.node.attributes:
            value = self.attribute(name)
            return [int(value)] if isinstance(value, int) else [int(number) for number in value]
        flow = self.get(index)
        if flow is None:
            return None
        found = [element.number if isinstance(element, Size) else None for element in flow.data or ()]
        if flow.data is None or None in found:
            raise MixingError(f"input {index} is no known constant")
        return [number for number in found if number is not None]


def require_constant(operation: Operation, *indices: int) -> None:
    """Check that inputs are the same for any rows; those left out are.

    Raises:
        MixingError: If one is not.
    """
    for index in indices:
        flow = operation.get(index)
        if flow is not None and not flow.constant:
            raise MixingError(f"input {index} depends on {'the rows' if flow.rows else 'their number'}")


def require_constant_rest(operation: Operation, first: int) -> None:
    """Check that the inputs from `first` on are the same for any rows."""
    require_constant(operation, *range(first, len(operation.flows)))


def normal(axis: int, rank: int) -> int:
    """Return a dimension counted from zero.

    Raises:
        MixingError: If there is no such dimension.
    """
    if not -rank <= axis < rank:
        raise MixingError(f"there is no dimension {axis} of {rank}")
    return axis % rank
