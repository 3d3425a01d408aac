"""What a group of nodes computes, as a digest that is the same wherever the same work is found.

Names, the order of independent nodes and the values of weights do not count, so a cost recorded on another machine, or
from another export of the model, is found again. Operators, attributes, element types, concrete shapes and the wiring
inside the group do count. Nothing here decides what to do with a match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from cutset.digest import sha256_json
from cutset.errors import UnknownShapeError
from cutset.graph.model import ModelGraph, iter_bodies

DIGEST_CHARS = 32
"""128 bits: two different groups of all models ever profiled do not meet."""

Label = Callable[[ir.Value], Any]
"""Describes a value, or where it leaves to, without naming it, in plain JSON types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """Digest of a group, and its nodes in an order that groups of the same digest share.

    Args:
        digest: Empty when a size that matters is not known: such a group equals no other.
        canonical: Names of the nodes that a placement is about.
    """

    digest: str
    canonical: tuple[str, ...]


def sign(graph: ModelGraph, nodes: Sequence[str]) -> Signature:
    """Return what `nodes` of `graph` compute together.

    Constant nodes count as the weights they make, so it does not matter whether an exporter folded them.

    Args:
        graph: The model, with the shapes of the run that is described.
        nodes: Names of the group's nodes, in graph order.

    Source:
        Weisfeiler and Leman, "The reduction of a graph to canonical form", 1968; on an acyclic graph one pass along the
        edges and one against them see all that the rounds of refinement would.
    """
    live = [name for name in nodes if name not in graph.unplaced]
    members = set(live)
    leaving = {spec.name for spec in graph.outputs}

    def leaves(value: ir.Value) -> bool:
        name = str(value.name)
        return name in leaving or any(reader not in members for reader in graph.consumers.get(name, ()))

    try:
        digest, order = _wiring([graph.ir_nodes[name] for name in live], lambda value: _main_label(graph, value), leaves)
    except UnknownShapeError:
        return Signature(digest="", canonical=tuple(live))
    return Signature(digest=digest, canonical=tuple(live[index] for index in order))


def _short(value: Any) -> str:
    return sha256_json(value)[:DIGEST_CHARS]


def _main_label(graph: ModelGraph, value: ir.Value) -> Any:
    """Return role, element type and concrete shape of a value of the main graph."""
    name = str(value.name)
    spec = graph.values.get(name)
    if spec is None or not spec.is_tensor or spec.dtype == "undefined":
        raise UnknownShapeError(f"tensor `{name}` has no known type")
    return ["weight" if name in graph.constant_values else "value", spec.dtype, list(graph.shape(name))]


def _wiring(nodes: Sequence[ir.Node], label: Label, leaves: Label) -> tuple[str, list[int]]:
    """Return the digest of `nodes` (in topological order) with their wiring, and their canonical order."""
    inside = {id(value) for node in nodes for value in node.outputs}
    down, colours = _colours(nodes, inside, label)
    below = _below(nodes, inside, colours, leaves)
    final = [_short([down[index], *_outputs(node, below)]) for index, node in enumerate(nodes)]
    outside = sorted(_short([colour, below[key]]) for key, colour in colours.items() if key not in inside)
    order = sorted(range(len(nodes)), key=lambda index: (final[index], index))
    return _short([[final[index] for index in order], outside]), order


def _colours(nodes: Sequence[ir.Node], inside: set[int], label: Label) -> tuple[list[str], dict[int, str]]:
    """Return a digest of each node with all it depends on, and of each value by identity."""
    colours: dict[int, str] = {}
    found = []
    for node in nodes:
        reads = []
        for value in [*node.inputs, *_captured(node)]:
            if value is not None and id(value) not in colours:  # made outside: all that is read before it is made
                colours[id(value)] = _short(["outside", label(value)])
            reads.append(None if value is None else colours[id(value)])
        slots, captured = reads[: len(node.inputs)], sorted(map(str, reads[len(node.inputs) :]))
        writes = [label(value) if _is_read(value) else None for value in node.outputs]
        colour = _short([_local(node, label), _trimmed(slots), captured, _trimmed(writes)])
        found.append(colour)
        colours.update({id(value): _short([colour, slot]) for slot, value in enumerate(node.outputs) if id(value) in inside})
    return found, colours


def _below(nodes: Sequence[ir.Node], inside: set[int], colours: Mapping[int, str], leaves: Label) -> dict[int, str]:
    """Return for each value a digest of all that depends on it inside, and whether it leaves."""
    readers: dict[int, list[str]] = {key: [] for key in colours}
    below: dict[int, str] = {}
    for node in reversed(nodes):
        for value in node.outputs:
            below[id(value)] = _short([sorted(readers[id(value)]), leaves(value)])
        reading = _short([_outputs(node, colours), _outputs(node, below)])
        for slot, operand in enumerate(node.inputs):
            if operand is not None:
                readers[id(operand)].append(f"{reading} {slot}")
        for captured in _captured(node):
            readers[id(captured)].append(reading)
    return below | {key: _short(sorted(found)) for key, found in readers.items() if key not in inside}


def _outputs(node: ir.Node, of_value: Mapping[int, str]) -> list[str | None]:
    """Return what `of_value` says of each output; of one that nobody reads nothing."""
    return _trimmed([of_value[id(value)] if _is_read(value) else None for value in node.outputs])


def _is_read(value: ir.Value) -> bool:
    return bool(value.name) and (bool(value.uses()) or value.is_graph_output())


def _trimmed(slots: list[Any]) -> list[Any]:
    """Return the slots without empty ones at the end: an omitted operand and a missing one are the same."""
    while slots and slots[-1] is None:
        slots = slots[:-1]
    return slots


def _local(node: ir.Node, label: Label) -> Any:
    """Return operator and attributes; tensors count by type and shape, bodies by what they compute."""
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        match attribute.type:
            case ir.AttributeType.GRAPH:
                attributes[name] = _body(attribute.as_graph(), label)
            case ir.AttributeType.GRAPHS:
                attributes[name] = [_body(body, label) for body in attribute.as_graphs()]
            case ir.AttributeType.TENSOR:
                attributes[name] = _tensor(attribute.as_tensor())
            case ir.AttributeType.TENSORS:
                attributes[name] = [_tensor(tensor) for tensor in attribute.as_tensors()]
            case _:
                attributes[name] = [attribute.type.name, str(attribute.value)]
    return [node.domain, node.op_type, node.overload, attributes]


def _tensor(tensor: ir.TensorProtocol) -> Any:
    return [str(tensor.dtype), [str(dim) for dim in tensor.shape]]


def _body(body: ir.Graph, outer: Label) -> Any:
    """Return what a body computes: its nodes, the position of its inputs and outputs, and what it captures.

    The types of the values inside follow from these; what inference happened to find of them does not count.
    """
    inputs = {id(value): index for index, value in enumerate(body.inputs)}
    weights = {id(value) for value in body.initializers.values()}
    own = {id(value) for node in body for value in node.outputs}

    def label(value: ir.Value) -> Any:
        if id(value) in inputs:
            return ["input", inputs[id(value)]]
        if id(value) in own:
            return "inside"
        if id(value) in weights:
            return ["weight", None if value.const_value is None else _tensor(value.const_value)]
        return ["captured", outer(value)]

    leaving: dict[int, list[int]] = {}
    for index, value in enumerate(body.outputs):
        leaving.setdefault(id(value), []).append(index)
    digest, _ = _wiring(list(body), label, lambda value: leaving.get(id(value)))
    return [digest, [label(value) for value in body.outputs]]


def _captured(node: ir.Node) -> Iterable[ir.Value]:
    """Return the values that the bodies of `node` read from around it, at any depth, each once."""
    found: dict[int, ir.Value] = {}

    def visit(body: ir.Graph, known: set[int]) -> None:
        known = known | {id(value) for value in body.inputs} | {id(value) for value in body.initializers.values()}
        known |= {id(value) for inner in body for value in inner.outputs}
        for value in [*body.outputs, *(value for inner in body for value in inner.inputs)]:
            if value is not None and id(value) not in known:
                found[id(value)] = value
        for inner in body:
            for deeper in iter_bodies(inner):
                visit(deeper, known)

    for body in iter_bodies(node):
        visit(body, set())
    return found.values()
