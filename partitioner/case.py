"""One node as the rules about devices see it: its operands, attributes, types, and what of its inputs is known beforehand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from cutset.graph.model import ModelGraph, OpNode, iter_bodies
from cutset.graph.types import STANDARD_DOMAINS, OpId


class NodeCase:
    """One node with what the rules ask about it."""

    def __init__(self, graph: ModelGraph, node: OpNode, *, insisted: bool = False, custom: str = "") -> None:
        """Take a node of a graph.

        Args:
            graph: The model.
            node: The node.
            insisted: Whether the user pinned the node to the GPU.
            custom: The first operator outside ONNX's own domain that running the node takes, from `custom_operators`.
        """
        self.graph = graph
        self.node = node
        self.insisted = insisted
        self.custom = custom
        self.op_type = node.op.standard_type
        self._inner = graph.ir_nodes[node.name]

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set that the model asks for."""
        return max((self.graph.opset_imports.get(domain, 0) for domain in STANDARD_DOMAINS), default=0) or 1

    @property
    def positions(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of inputs and outputs by position, empty where one is left out."""
        return (
            tuple("" if value is None else str(value.name or "") for value in self._inner.inputs),
            tuple(str(value.name or "") for value in self._inner.outputs),
        )

    def operand(self, index: int) -> ir.Value | None:
        """The input at a position, None when it is left out."""
        value = self._inner.inputs[index] if index < len(self._inner.inputs) else None
        return value if value is not None and value.name else None

    def dtype(self, index: int) -> str:
        """Element type of the input at a position."""
        value = self.operand(index)
        return "" if value is None else self.graph.values[str(value.name)].dtype

    def has(self, name: str) -> bool:
        """Whether the node has an attribute of this name."""
        return name in self._inner.attributes

    def integer(self, name: str, default: int) -> int:
        """Value of an integer attribute."""
        return int(self._inner.attributes.get_int(name, default))

    def integers(self, name: str) -> tuple[int, ...]:
        """Values of an attribute of integers, none where it is left out."""
        return tuple(self._inner.attributes.get_ints(name, ()))

    def text(self, name: str, default: str) -> str:
        """Value of a string attribute."""
        return str(self._inner.attributes.get_string(name, default))

    def texts(self, name: str) -> tuple[str, ...]:
        """Values of an attribute of strings, none where it is left out."""
        return tuple(self._inner.attributes.get_strings(name, ()))

    def constant(self, index: int) -> bool:
        """Whether the input at a position is left out or depends on weights alone."""
        value = self.operand(index)
        return value is None or str(value.name) in self.graph.constant_values

    def follows_shapes(self, index: int) -> bool:
        """Whether the input at a position depends on weights and on shapes of tensors, never on their elements."""
        value = self.operand(index)
        return value is None or str(value.name) in self.graph.shape_values

    def elements(self, index: int) -> np.ndarray | None:
        """Elements of a constant input, None when they are not at hand without running the model."""
        value = self.operand(index)
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()


Rule = Callable[[NodeCase], str | None]
"""Returns why a device does not run the node, None where the rule has nothing against it."""


def custom_operators(graph: ModelGraph) -> dict[str, str]:
    """Return the nodes that take an operator outside ONNX's own domain to run, each with the first such operator.

    That is the node's own operator, one in its bodies, or one in what makes its constant inputs: those nodes are copied
    into every stage that reads what they make.
    """
    found: dict[str, str] = {}
    constants: dict[str, str] = {}
    for node in graph.nodes:
        read = next((constants[value] for value in node.inputs if value in constants), "")
        custom = _custom(graph.ir_nodes[node.name]) or read
        if custom:
            found[node.name] = custom
        if custom and node.name in graph.constant_nodes:
            constants.update(dict.fromkeys(node.outputs, custom))
    return found


def _custom(node: ir.Node) -> str:
    op = OpId(domain=node.domain, op_type=node.op_type)
    inner = (_custom(other) for body in iter_bodies(node) for other in body)
    return next(filter(None, inner), "") if op.standard_type else str(op)
