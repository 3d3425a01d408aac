"""What a probe of a node holds besides its type signature: attributes, constants, and the nodes that make its constants.

Names do not count. The elements of a large tensor are summed up by what a library may refuse them for: their range or
signs, and whether all are finite.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from cutset.digest import sha256_json
from cutset.graph.model import ModelGraph, OpNode

MAX_SHAPE_ELEMENTS = 64
"""Tensors of at most so many elements count by their elements: axes, sizes, zero points, K."""

MAX_SUMMED_ELEMENTS = 1 << 20
"""Scales, zero points and biases have fewer elements; larger weights are numbers that no library refuses."""

_INDICES = frozenset({ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64})


class Probed:
    """Describes the nodes of one model as their probes hold them, in plain JSON; each constant is described once.

    Args:
        graph: The model.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self._known: dict[str, str] = {}

    def node(self, node: OpNode) -> Any:
        """Return operator, attributes and inputs of a node: what a constant input is, nothing of the others."""
        inner = self.graph.ir_nodes[node.name]
        positions = [None if value is None or not value.name else str(value.name) for value in inner.inputs]
        captured = sorted(name for name in node.inputs if name not in positions)
        return [
            str(node.op), node.op.overload, sorted([name, _attribute(a)] for name, a in inner.attributes.items()),
            [None if name is None else self._value(name) for name in positions],
            [[name, self._value(name)] for name in captured],
        ]  # fmt: skip

    def _value(self, name: str) -> str:
        """Return the digest of a constant with all that makes it, empty for a value of the run."""
        if name not in self.graph.constant_values:
            return ""
        if name not in self._known:
            maker = self.graph.producer.get(name)
            if maker is None:
                weight = self.graph.source.graph.initializers[name].const_value
                described: Any = ["weight", None if weight is None else _tensor(weight)]
            else:
                made = self.graph.by_name[maker]
                described = ["made", self.node(made), made.outputs.index(name)]
            self._known[name] = sha256_json(described)
        return self._known[name]


def _attribute(attribute: ir.Attr) -> Any:
    match attribute.type:
        case ir.AttributeType.TENSOR:
            return ["TENSOR", _tensor(attribute.as_tensor())]
        case ir.AttributeType.TENSORS:
            return ["TENSORS", [_tensor(tensor) for tensor in attribute.as_tensors()]]
        case ir.AttributeType.GRAPH:
            return ["GRAPH", _body(attribute.as_graph())]
        case ir.AttributeType.GRAPHS:
            return ["GRAPHS", [_body(body) for body in attribute.as_graphs()]]
        case _:
            return [attribute.type.name, repr(attribute.value)]


def _body(body: ir.Graph) -> Any:
    """Return a body, names included: the names bind the nodes, so the same body under other names counts as another."""
    return [
        [str(value.name) for value in body.inputs],
        [str(value.name) for value in body.outputs],
        sorted([name, _tensor(v.const_value)] for name, v in body.initializers.items() if v.const_value is not None),
        [
            [
                node.domain, node.op_type, [None if value is None else value.name for value in node.inputs],
                [value.name for value in node.outputs], sorted([name, _attribute(a)] for name, a in node.attributes.items()),
            ]
            for node in body
        ],
    ]  # fmt: skip


def _tensor(tensor: ir.TensorProtocol) -> Any:
    """Return type, shape and elements of a tensor, of a large one what is in them."""
    about = [str(tensor.dtype), [str(dim) for dim in tensor.shape]]
    if tensor.dtype == ir.DataType.STRING:
        return [*about, "strings"]
    if tensor.size <= MAX_SHAPE_ELEMENTS:
        return [*about, repr(np.asarray(tensor.numpy()).astype(object).tolist())]
    if tensor.dtype in _INDICES:
        array = np.asarray(tensor.numpy())
        return [*about, int(array.min()), int(array.max())]
    if tensor.size > MAX_SUMMED_ELEMENTS:
        return about
    numbers = np.asarray(tensor.numpy()).astype(np.float32)
    finite = numbers[np.isfinite(numbers)]
    return [*about, bool((finite < 0).any()), bool((finite > 0).any()), finite.size == numbers.size]
