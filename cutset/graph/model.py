"""ModelGraph: an ONNX model as nodes that can be placed, and values that can be cut.

It wraps one `onnx_ir.Model` that `cutset.graph.load` has normalised (sorted, unique node names, no local functions);
nothing here changes the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx_ir as ir

from cutset.errors import UnknownShapeError
from cutset.graph.declared import DeclaredType
from cutset.graph.types import OpId, TensorSpec

RANDOM_OPS = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"})
"""Operators whose result is not a function of their inputs. `is_random` knows the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpNode:
    """One node of the main graph.

    Args:
        name: Unique in the model.
        op: Operator identity.
        inputs: Names of the values it reads, in order, each once; captures of its If/Loop/Scan bodies at the end.
        outputs: Names of the values it writes, missing optional ones left out.
        has_body: Whether it carries a graph attribute.
        random: Whether its result is not a function of its inputs, so that it may never be duplicated.
    """

    name: str
    op: OpId
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    has_body: bool
    random: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelGraph:
    """A loaded model. `nodes` are topologically sorted; `values` holds every named value of the main graph.

    Args:
        source: The normalised model; read it, never change it.
        path: File it came from.
        sha256: Digest of that file.
        digest: Digest of the file and of every external-data file it names.
        files: The file, then the external-data files.
        opaque_types: Serialised TypeProto of the values whose type onnx_ir cannot hold (maps).
        declared: What the file says of each value between nodes, in the dimension names of `inputs`.
        measured: Shape of each value as observed in one real run; wins over inference.
        frozen_inputs: Weights that the file lists as inputs, too, so that a caller of the file could give others.
        metadata: What the file says about itself (class names, strides, licences); any text.
    """

    source: ir.Model = field(repr=False)
    path: Path
    sha256: str
    digest: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: tuple[OpNode, ...] = field(repr=False)
    values: Mapping[str, TensorSpec] = field(repr=False)
    initializers: frozenset[str] = field(repr=False)
    opset_imports: Mapping[str, int]
    opaque_types: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    declared: Mapping[str, DeclaredType] = field(default_factory=dict, repr=False)
    measured: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)
    custom_ops: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    frozen_inputs: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict, repr=False)

    @cached_property
    def by_name(self) -> dict[str, OpNode]:
        """Nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def position(self) -> dict[str, int]:
        """Place of each node in graph order."""
        return {node.name: index for index, node in enumerate(self.nodes)}

    @cached_property
    def producer(self) -> dict[str, str]:
        """Name of the node that writes each value."""
        return {output: node.name for node in self.nodes for output in node.outputs}

    @cached_property
    def consumers(self) -> dict[str, tuple[str, ...]]:
        """Names of the nodes that read each value, in graph order."""
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node.name)
        return {name: tuple(readers) for name, readers in found.items()}

    @cached_property
    def constant_nodes(self) -> frozenset[str]:
        """Nodes whose result depends on weights alone.

        They are copied into every stage that needs them, as initializers are, and never cross a cut.
        """
        constant = set(self.initializers)
        found = set()
        for node in self.nodes:
            if not node.random and not node.has_body and all(name in constant for name in node.inputs):
                found.add(node.name)
                constant.update(node.outputs)
        return frozenset(found)

    @cached_property
    def constant_values(self) -> frozenset[str]:
        """Initializers and the outputs of constant nodes."""
        return self.initializers | {o for node in self.nodes if node.name in self.constant_nodes for o in node.outputs}

    @cached_property
    def shape_values(self) -> frozenset[str]:
        """Values that follow from weights and from shapes of tensors, never from elements of an input."""
        known = set(self.constant_values)
        for node in self.nodes:
            pure = not node.random and not node.has_body
            if node.op.standard_type in {"Shape", "Size"} or (pure and all(name in known for name in node.inputs)):
                known.update(node.outputs)
        return frozenset(known)

    @cached_property
    def dead_nodes(self) -> frozenset[str]:
        """Nodes that no graph output depends on; no stage computes them."""
        needed = {spec.name for spec in self.outputs}
        dead = set()
        for node in reversed(self.nodes):
            if needed.isdisjoint(node.outputs):
                dead.add(node.name)
            else:
                needed.update(node.inputs)
        return frozenset(dead)

    @cached_property
    def unplaced(self) -> frozenset[str]:
        """Nodes that no placement is about: constant ones and dead ones."""
        return self.constant_nodes | self.dead_nodes

    @cached_property
    def placeable(self) -> tuple[OpNode, ...]:
        """The nodes that a placement is about."""
        return tuple(node for node in self.nodes if node.name not in self.unplaced)

    @cached_property
    def keeps_dropout(self) -> bool:
        """Whether a Dropout draws, also one inside a body: onnxruntime would take every Dropout out."""
        return any(_draws(node) for node in self.source.graph.all_nodes())

    @cached_property
    def ir_nodes(self) -> dict[str, ir.Node]:
        """The onnx_ir node of each name."""
        return {str(node.name): node for node in self.source.graph}

    def shape(self, value: str) -> tuple[int, ...]:
        """Return the concrete shape of a value: as measured, else as inferred.

        Raises:
            UnknownShapeError: If neither fixes every dimension.
        """
        return self.measured[value] if value in self.measured else self.values[value].sizes({})

    def nbytes(self, value: str) -> int:
        """Return the size of a value in bytes at the measured shapes.

        Raises:
            UnknownShapeError: If its shape is not known.
        """
        return replace(self.values[value], shape=self.shape(value)).nbytes({})

    def knows_shape(self, value: str) -> bool:
        """Return whether `shape` would succeed."""
        try:
            self.shape(value)
        except UnknownShapeError:
            return False
        return True

    def with_measured(self, shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]) -> ModelGraph:
        """Return the same graph with observed shapes and, where inference found none, observed element types."""
        values = {
            name: replace(spec, dtype=dtypes[name]) if spec.dtype == "undefined" and name in dtypes else spec
            for name, spec in self.values.items()
        }
        return replace(self, values=values, measured={**self.measured, **shapes})


def iter_bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """Yield the graphs that `node` carries as attributes."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def is_random(node: ir.Node) -> bool:
    """Return whether the result of `node` is not a function of its inputs, by itself or by a node of its bodies."""
    if node.domain in {"", "ai.onnx"} and (node.op_type in RANDOM_OPS or _draws(node)):
        return True
    return any(is_random(inner) for body in iter_bodies(node) for inner in body)


def _draws(node: ir.Node) -> bool:
    """Return whether `node` is a Dropout whose training mode is on, or is known only when the model runs."""
    if node.op_type != "Dropout" or node.domain not in {"", "ai.onnx"} or len(node.inputs) < len(("data", "ratio", "training")):
        return False
    training = node.inputs[2]
    if training is None:
        return False
    known = None if training.is_graph_input() else ir.convenience.get_const_tensor(training)
    return known is None or bool(known.numpy().any())


def captures(node: ir.Node, outer: ir.Graph) -> list[str]:
    """Return the names of values of `outer` that the bodies of `node` read, at any depth, in first-use order."""
    found: dict[str, None] = {}

    def visit(graph: ir.Graph) -> None:
        for value in [*graph.outputs, *(value for inner in graph for value in inner.inputs)]:
            if value is not None and value.graph is outer and value.name:
                found[value.name] = None
        for inner in graph:
            for body in iter_bodies(inner):
                visit(body)

    for body in iter_bodies(node):
        visit(body)
    return list(found)


def op_node(node: ir.Node, outer: ir.Graph) -> OpNode:
    """Return the placeable view of one onnx_ir node of the main graph `outer`."""
    reads = dict.fromkeys(str(value.name) for value in node.inputs if value is not None and value.name)
    reads.update(dict.fromkeys(captures(node, outer)))
    return OpNode(
        name=str(node.name),
        op=OpId(domain=node.domain, op_type=node.op_type, overload=node.overload),
        inputs=tuple(reads),
        outputs=tuple(str(value.name) for value in node.outputs if value.name),
        has_body=any(True for _ in iter_bodies(node)),
        random=is_random(node),
    )
