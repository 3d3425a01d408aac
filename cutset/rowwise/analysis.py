"""Follow the rows of a joint run from the inputs of a graph to its outputs: a data-flow analysis in one pass over the nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from cutset.graph.model import is_random, iter_bodies
from cutset.graph.types import Dim
from cutset.rowwise import rules
from cutset.rowwise.flow import Element, Flow, MixingError, RowAxis, Shape, carrying
from cutset.rowwise.operation import RULES, Operation
from cutset.rowwise.places import Places, bounded
from cutset.rowwise.row_numbers import columns_of, combine, keeps_places, marked
from cutset.rowwise.rules.arithmetic import evaluate
from cutset.rowwise.size import ONE_ROW, Size, named, opaque, unnamed

_FEW = 64
_MANY = 1 << 20
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a rule may raise at a node whose attributes or inputs the operator does not have."""

_SAYS_SIZES = frozenset({"Shape", "Size"})
_KEEPS_ELEMENTS = _SAYS_SIZES | {"Concat", "ConstantOfShape", "Gather", "Reshape", "Slice", "Squeeze", "Unsqueeze"}
"""Operators whose rules work out the elements of a small tensor; those of any other rule's result are unknown."""

_KEEPS_TABLES = frozenset({"Reshape", "Slice", "Transpose"})
"""The same for tensors of rank two."""

assert rules.__all__  # importing them fills the table


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFlow:
    """Where the rows of a joint run lie in every value of a graph.

    Args:
        flows: One entry a value.
        reason: Why rows may mix, naming the first node or value at fault; empty where every output keeps rows apart.
    """

    flows: Mapping[str, Flow] = field(repr=False)
    reason: str

    def row_values(self) -> list[str]:
        """Return the values that carry one entry a row on the first dimension, in graph order."""
        plain = RowAxis(axis=0)
        return [name for name, flow in self.flows.items() if flow.rows == plain and not flow.mixed and not flow.numbers_rows]


def follow_rows(model: ir.Model, shapes: Mapping[str, Sequence[Dim] | None], axis: str = "") -> RowFlow:
    """Return where the rows go that all inputs of a graph carry on their first dimension.

    The claim behind an empty reason: for any inputs a and b whose other sizes agree, the outputs on the joined inputs are the
    joined outputs, if each operator computes what ONNX says, for any number of rows and any named sizes but zero.

    Args:
        model: The graph; its inputs and outputs are tensors. Nodes are sorted.
        shapes: Sizes of the values inside as inference knows them; used for other dimensions than the rows'.
        axis: Name of the first dimension of the inputs, if one name is known.
    """
    analysis = _Analysis(shapes, axis)
    graph = model.graph
    if any((domain, name) in RULES for domain, name, _ in model.functions):
        return RowFlow(flows={}, reason="it has functions of its own that are called as known operators")
    for name, value in graph.initializers.items():
        analysis.flows[name] = _of_constant(value.const_value)
    for value in graph.inputs:
        name = str(value.name)
        if name in graph.initializers:
            analysis.flows[name] = Flow(mixed=f"`{name}` is one value for all rows, and a request may give another")
        else:
            analysis.flows[name] = _of_input(name, analysis.known_shape(value))
    versions = {"" if domain == "ai.onnx" else domain: version for domain, version in graph.opset_imports.items()}
    for node in graph:
        analysis.visit(node, versions.get("" if node.domain == "ai.onnx" else node.domain, 1))
    reasons = (_fault(str(value.name), analysis.flows[str(value.name)]) for value in graph.outputs)
    return RowFlow(flows=analysis.flows, reason=next((reason for reason in reasons if reason), ""))


def _fault(name: str, flow: Flow) -> str:
    """Return what is wrong with an output, empty if row r of the output is row r of the run."""
    if flow.mixed:
        return flow.mixed
    if flow.rows is None:
        return f"output `{name}` does not carry the rows"
    if flow.numbers_rows:
        return f"output `{name}` numbers the rows"
    return "" if flow.rows == RowAxis(axis=0) else f"output `{name}` does not have one entry a row on its first dimension"


def _of_input(name: str, shape: Shape | None) -> Flow:
    if not shape:
        return Flow(mixed=f"input `{name}` has no known first dimension")
    return carrying(RowAxis(axis=0), shape)


def _of_constant(tensor: ir.TensorProtocol | None) -> Flow:
    """Return the flow of a weight, with the elements of a small one."""
    if tensor is None:
        return Flow()
    shape = tuple(Size(int(size)) for size in tensor.shape.numpy())
    few = len(shape) < 2 and (not shape or (shape[0].number or 0) <= _FEW)
    number = tensor.dtype in {ir.DataType.INT32, ir.DataType.INT64, ir.DataType.BOOL}
    places = _places_of(tensor) if number else None
    if not few or not (number or tensor.dtype in {ir.DataType.FLOAT, ir.DataType.DOUBLE}):
        return Flow(shape=shape, places=places)
    elements = tensor.numpy().reshape(-1).tolist()
    data: tuple[Element, ...] = tuple(Size(int(element)) if number else float(element) for element in elements)
    return Flow(shape=shape, data=data, places=places)


def _places_of(tensor: ir.TensorProtocol) -> Places | None:
    """Return the bounds of the integers of a weight that may say places; large ones say none."""
    if tensor.dtype not in {ir.DataType.INT32, ir.DataType.INT64} or not 0 < tensor.size <= _MANY:
        return None
    array = tensor.numpy()
    return bounded(int(array.min()), int(array.max()))


def _with_places(operation: Operation, flow: Flow) -> Flow:
    """Return a result with what its integers say as places; a rule that hands its input on knows nothing of them."""
    if operation.node.op_type == "Range":
        return flow
    kept = operation.need(0).places if keeps_places(operation) else combine(operation)
    return replace(flow, places=kept, columns=())


class _Analysis:
    def __init__(self, shapes: Mapping[str, Sequence[Dim] | None], axis: str) -> None:
        self.flows: dict[str, Flow] = {}
        self._shapes = shapes
        self._axis = re.compile(rf"(?<!\w){re.escape(axis)}(?!\w)") if axis else None

    def known_shape(self, value: ir.Value) -> Shape | None:
        """Return the sizes that the file declares or inference found; unknown ones get a name of their own."""
        declared = None if value.shape is None else [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        inferred = self._shapes.get(str(value.name))
        found = declared if declared is not None else None if inferred is None else list(inferred)
        if found is None:
            return None
        if inferred is not None and len(inferred) == len(found):
            found = [b if a is None else a for a, b in zip(found, inferred, strict=True)]
        return tuple(self._size(str(value.name), index, dim) for index, dim in enumerate(found))

    def _size(self, name: str, index: int, dim: Dim) -> Size:
        if isinstance(dim, int) or (dim or "").isdecimal():  # symbolic inference writes what it worked out as text
            return Size(int(dim or 0))
        if dim is None:
            return unnamed(name, index)
        if self._axis is not None and self._axis.search(dim):
            return opaque(dim, [ONE_ROW])
        return named(dim)

    def visit(self, node: ir.Node, version: int) -> None:
        """Work out the flows of a node's outputs."""
        try:
            made = self._outputs(node, version)
        except (MixingError, *_MALFORMED) as error:
            name = f"`{node.name or node.outputs[0].name}` ({node.domain or 'ai.onnx'}::{node.op_type})"
            why = error if isinstance(error, MixingError) else "it is not what ONNX says of its operator"
            made = [Flow(mixed=f"at {name}: {why}")] * len(node.outputs)
        for value, flow in zip(node.outputs, made, strict=False):
            if value.name:
                self.flows[str(value.name)] = self._completed(value, flow)

    def _outputs(self, node: ir.Node, version: int) -> list[Flow]:
        inputs = [None if value is None or not value.name else self.flows[str(value.name)] for value in node.inputs]
        given = [flow for flow in inputs if flow is not None]
        count = len(node.outputs)
        mixed = next((flow for flow in given if flow.mixed), None)
        if mixed is not None and not (node.op_type in _SAYS_SIZES and mixed.rows is not None):
            return [Flow(mixed=mixed.mixed)] * count
        if node.op_type == "Constant" and node.domain in {"", "ai.onnx"}:
            return [_of_attribute(node)]
        operation = Operation(node=node, version=version, flows=tuple(inputs))
        if any(flow.rows is not None for flow in given):
            return self._described(operation, count)
        return self._without_rows(operation, count)

    def _described(self, operation: Operation, count: int) -> list[Flow]:
        """Return what the rule of a node says whose inputs carry rows."""
        node = operation.node
        rule = RULES.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if rule is None or any(True for _ in iter_bodies(node)):
            raise MixingError("nobody described what it does to rows")
        made = rule(operation)
        flows = [made] * count if isinstance(made, Flow) else list(made)[:count]
        if any(flow.numbers_rows for flow in operation.given):
            return self._numbered(operation, flows)
        if node.op_type not in _SAYS_SIZES and any(flow.rows is None and not flow.mixed for flow in flows):
            raise MixingError("its result does not carry the rows of its inputs")
        return [_with_places(operation, flow) for flow in flows]

    def _numbered(self, operation: Operation, flows: list[Flow]) -> list[Flow]:
        """Return the flows of a node that reads row numbers; beyond layouts, sums, products and indices a shape is left."""
        kind, first = operation.node.op_type, operation.need(0)
        if kind in _SAYS_SIZES or (kind in {"Gather", "GatherND"} and not first.numbers_rows):
            return flows
        if keeps_places(operation) and first.places is not None:
            return [marked(operation, flow, first.places) for flow in flows]
        if kind == "Concat":
            columns = columns_of(operation, operation.given)
            flows = [replace(flow, places=None) for flow in flows]
            return [replace(flow, columns=columns) if columns else marked(operation, flow, None) for flow in flows]
        return [marked(operation, flow, combine(operation)) for flow in flows]

    def _without_rows(self, operation: Operation, count: int) -> list[Flow]:
        """Return the flows of a node that no row's content reaches: the elements of small tensors are followed."""
        node, counted = operation.node, any(flow.counted for flow in operation.given)
        if node.domain not in _STANDARD or is_random(node) or any(True for _ in iter_bodies(node)):
            raise MixingError("it may draw at random, or nobody described it")
        found = evaluate(operation)
        if found is not None:
            kept = operation.need(0).places if keeps_places(operation) else None
            return [replace(found, places=kept or combine(operation))] * count
        try:
            flows = self._described_rowless(operation, count)
        except MixingError:
            if counted:
                raise
            return [Flow()] * count
        if node.op_type not in _KEEPS_ELEMENTS:
            flows = [replace(flow, data=None) for flow in flows]
        if node.op_type not in _KEEPS_TABLES:
            flows = [replace(flow, table=()) for flow in flows]
        flows = [_with_places(operation, flow) for flow in flows]
        return [
            replace(flow, counted=True) if counted and flow.rows is None and flow.data is None and not flow.table else flow
            for flow in flows
        ]

    def _described_rowless(self, operation: Operation, count: int) -> list[Flow]:
        rule = RULES.get(("" if operation.node.domain == "ai.onnx" else operation.node.domain, operation.node.op_type))
        if rule is None:
            raise MixingError("nobody described what it does to rows")
        made = rule(operation)
        return [made] * count if isinstance(made, Flow) else list(made)[:count]

    def _completed(self, value: ir.Value, flow: Flow) -> Flow:
        """Return a flow whose unknown sizes are those that inference knows, or names of their own."""
        if flow.mixed:
            return flow
        known = self.known_shape(value)
        if flow.shape is None:
            if flow.rows is None and known is not None:
                return replace(flow, shape=known)
            return flow
        name = str(value.name)
        hints = known if known is not None and len(known) == len(flow.shape) else (None,) * len(flow.shape)
        sizes = [size or hints[axis] or unnamed(name, axis) for axis, size in enumerate(flow.shape)]
        if flow.rows is not None:
            sizes[flow.rows.axis] = flow.rows.size
        return replace(flow, shape=tuple(sizes))


def _of_attribute(node: ir.Node) -> Flow:
    """Return the flow of a Constant, whichever attribute holds its value."""
    for name, attribute in node.attributes.items():
        if name == "value":
            return _of_constant(attribute.as_tensor())
        if name in {"value_int", "value_float"}:
            value = attribute.value
            return Flow(shape=(), data=(Size(value) if isinstance(value, int) else float(value),))
        if name == "value_ints":
            return Flow(shape=(Size(len(attribute.value)),), data=tuple(Size(int(number)) for number in attribute.value))
        if name == "value_floats":
            return Flow(shape=(Size(len(attribute.value)),), data=tuple(float(number) for number in attribute.value))
    return Flow()
