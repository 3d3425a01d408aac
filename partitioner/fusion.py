"""What must not be cut apart: nodes that a backend computes as one kernel, beyond what the profiled session fused.

The profilers' groups are what onnxruntime really fused on the CPU. The rules here find what every GPU compiler fuses
too, where the groups leave it apart. Merging never closes a cycle: of the merges that would, the weakest rule's are
dropped. What the user keeps together is merged whatever it takes along.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import networkx as nx

from cutset.graph.model import ModelGraph, OpNode

Unit = tuple[str, ...]
"""Names of nodes that are placed as a whole, in graph order."""

ANCHORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"})
EPILOGUE = frozenset(
    {"BatchNormalization", "Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Clip", "Cast", "Erf", "Exp", "Neg",
     "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Mish",
     "Softplus", "Softsign", "ThresholdedRelu"}
)  # fmt: skip
NORM = frozenset({"ReduceMean", "Sub", "Pow", "Mul", "Add", "Sqrt", "Div", "Reciprocal", "Cast"})
SCORES = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Cast", "Clip"})
WEIGHTS = frozenset({"Cast", "Dropout", "Mul", "Where", "Identity"})

MAX_SHAPE_BYTES = 1024
"""Masks and positions follow from shapes too; what is larger than this is data."""

MAX_REGION = 24
"""Nodes of one pattern; the longest that is common, GELU by tanh after a biased product, has ten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One kind of pattern: its name and what finds its occurrences, each as node names."""

    name: str
    find: Callable[[ModelGraph], Iterable[Sequence[str]]]


def merge_units(
    graph: ModelGraph, units: Sequence[Unit], kinds: Sequence[object], kept: Iterable[Sequence[str]] = ()
) -> tuple[tuple[int, ...], ...]:
    """Return the units as groups of indices that are placed as one, in graph order; the contraction is acyclic.

    Args:
        graph: The model.
        units: Disjoint sets of placeable nodes whose contraction is acyclic.
        kinds: What each unit may run on; a rule merges only units of equal kind.
        kept: Nodes that the user wants together, whatever their kind; what lies on a path between them joins them.
    """
    home = {name: index for index, unit in enumerate(units) for name in unit}
    edges = _edges(graph, home)
    forced = [sorted({home[name] for name in names}) for names in kept]
    merges = _proposals(graph, units, home, kinds)
    while True:
        merged = _contract(len(units), [*forced, *(members for _, members in merges)])
        cyclic = _cyclic(merged, edges)
        at_fault = {cyclic[merged[members[0]]]: rank for rank, members in merges if merged[members[0]] in cyclic}
        if not at_fault:
            break
        # Merges are ordered by rank, so what `at_fault` holds last for a cycle is its weakest rule.
        merges = [m for m in merges if at_fault.get(cyclic.get(merged[m[1][0]], -1)) != m[0]]
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(merged):
        groups.setdefault(cyclic.get(label, label), []).append(index)
    return tuple(tuple(members) for members in sorted(groups.values()))


def _edges(graph: ModelGraph, home: dict[str, int]) -> list[tuple[int, int]]:
    found = {
        (home[graph.producer[value]], home[node.name])
        for node in graph.placeable
        for value in node.inputs
        if graph.producer.get(value) in home
    }
    return sorted((u, v) for u, v in found if u != v)


def _proposals(
    graph: ModelGraph, units: Sequence[Unit], home: dict[str, int], kinds: Sequence[object]
) -> list[tuple[int, list[int]]]:
    """Return rank and units of every merge that joins units of one kind, strongest rule first.

    A unit may hold more than the pattern's nodes, such as the activation before a convolution. No merge may thereby join
    more products than the pattern has, or whole networks would hang together link by link.
    """
    sets: nx.utils.UnionFind = nx.utils.UnionFind(range(len(units)))
    products = dict(enumerate(_products(graph, unit) for unit in units))
    found = []
    for rank, rule in enumerate(RULES):
        for names in rule.find(graph):
            members = sorted({home[name] for name in names})
            roots = {sets[index] for index in members}
            total = sum(products[root] for root in roots)
            most = max(_products(graph, names), *(products[root] for root in roots))
            if len(roots) > 1 and len({kinds[index] for index in members}) == 1 and total <= most:
                sets.union(*members)
                products[sets[members[0]]] = total
                found.append((rank, members))
    return found


def _products(graph: ModelGraph, names: Iterable[str]) -> int:
    return sum(graph.by_name[name].op.known_type in ANCHORS for name in names)


def _contract(size: int, merges: Iterable[Sequence[int]]) -> list[int]:
    """Return the smallest member of each unit's merged set."""
    sets: nx.utils.UnionFind = nx.utils.UnionFind(range(size))
    for members in merges:
        sets.union(*members)
    label = list(range(size))
    for group in sets.to_sets():
        smallest = min(group)
        for index in group:
            label[index] = smallest
    return label


def _cyclic(label: Sequence[int], edges: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return for every merged set that lies on a cycle the smallest set of its component."""
    quotient: nx.DiGraph = nx.DiGraph()
    quotient.add_edges_from((label[u], label[v]) for u, v in edges if label[u] != label[v])
    components = (part for part in nx.strongly_connected_components(quotient) if len(part) > 1)
    return {member: min(part) for part in components for member in part}


def _placeable_inputs(graph: ModelGraph, node: OpNode) -> list[str]:
    return [value for value in node.inputs if value not in graph.constant_values]


def _sole_reader(graph: ModelGraph, value: str) -> OpNode | None:
    """Return the only node that reads a value, if nothing else does."""
    readers = [name for name in graph.consumers.get(value, ()) if name not in graph.dead_nodes]
    wanted = any(spec.name == value for spec in graph.outputs)
    return graph.by_name[readers[0]] if len(readers) == 1 and not wanted else None


def _leaving(graph: ModelGraph, members: set[str]) -> int:
    """Return how many values of a set of nodes are read outside it."""
    wanted, inside = {spec.name for spec in graph.outputs}, members | graph.dead_nodes
    values = (value for name in members for value in graph.by_name[name].outputs)
    return sum(value in wanted or not inside.issuperset(graph.consumers.get(value, ())) for value in values)


def _grow(graph: ModelGraph, start: OpNode, ops: frozenset[str], roots: frozenset[str] = frozenset()) -> list[str]:
    """Return the longest run of nodes from `start` on that reads only itself, `roots` and weights, and writes one value.

    Args:
        graph: The model.
        start: First node.
        ops: Operators that may follow.
        roots: Values that the region may read besides.
    """
    position = graph.position
    members, order, best = {start.name}, [start.name], 1
    known = roots | set(start.outputs)
    waiting = [(position[reader], reader) for value in start.outputs for reader in graph.consumers.get(value, ())]
    heapq.heapify(waiting)
    while waiting and len(order) < MAX_REGION:
        _, name = heapq.heappop(waiting)
        node = graph.by_name[name]
        fits = node.op.known_type in ops and all(value in known for value in _placeable_inputs(graph, node))
        if name in members or name in graph.unplaced or not fits:
            continue
        members.add(name)
        order.append(name)
        known |= set(node.outputs)
        if _leaving(graph, members) == 1:
            best = len(order)
        for value in node.outputs:
            for reader in graph.consumers.get(value, ()):
                heapq.heappush(waiting, (position[reader], reader))
    return order[:best]


def _epilogues(graph: ModelGraph) -> Iterator[list[str]]:
    """Convolution or matrix product with the batch normalisation, bias and activation behind it."""
    for node in graph.placeable:
        if node.op.known_type in ANCHORS:
            yield _grow(graph, node, EPILOGUE)


def _norms(graph: ModelGraph) -> Iterator[list[str]]:
    """Layer and root-mean-square normalisation written out: mean, deviation, square, mean, root, quotient."""
    for node in graph.placeable:
        if node.op.known_type in {"ReduceMean", "Pow", "Cast"}:
            region = _grow(graph, node, NORM, frozenset(_placeable_inputs(graph, node)))
            ops = {graph.by_name[name].op.known_type for name in region}
            if {"ReduceMean", "Sqrt"} <= ops and ops & {"Div", "Reciprocal"}:
                yield region


def _attentions(graph: ModelGraph) -> Iterator[list[str]]:
    """Scores, scaling, mask, softmax and the product with the values."""
    for node in graph.placeable:
        if node.op.known_type == "Softmax":
            before, after = _scores(graph, node), _weighted(graph, node)
            if before and after:
                yield [*before, node.name, *after]


def _scores(graph: ModelGraph, softmax: OpNode) -> list[str]:
    """Return the nodes from the product of queries and keys to the softmax, or none."""
    found: list[str] = []
    node = softmax
    while len(found) < MAX_REGION:
        makers = [graph.by_name[graph.producer[v]] for v in _placeable_inputs(graph, node) if v in graph.producer]
        own = [maker for maker in makers if any(_sole_reader(graph, value) is node for value in maker.outputs)]
        product = next((maker for maker in own if maker.op.known_type == "MatMul"), None)
        following = product or next((maker for maker in own if maker.op.known_type in SCORES), None)
        if following is None:
            return []
        found.append(following.name)
        if product is not None:
            return found
        node = following
    return []


def _weighted(graph: ModelGraph, softmax: OpNode) -> list[str]:
    """Return the nodes from the softmax to the product with the values, or none."""
    found: list[str] = []
    node: OpNode | None = softmax
    while node is not None and len(found) < MAX_REGION:
        node = _sole_reader(graph, node.outputs[0])
        if node is None or node.op.known_type not in WEIGHTS | {"MatMul"}:
            return []
        found.append(node.name)
        if node.op.known_type == "MatMul":
            return found
    return []


def _quantised(graph: ModelGraph) -> Iterator[list[str]]:
    """An operator with the DequantizeLinear that only it reads, or with the QuantizeLinear that alone reads it."""
    for node in graph.placeable:
        if node.op.known_type == "DequantizeLinear":
            reader = _sole_reader(graph, node.outputs[0])
            if reader is not None:
                yield [node.name, reader.name]
        elif node.op.known_type == "QuantizeLinear":
            maker = graph.producer.get(node.inputs[0])
            if maker is not None and _sole_reader(graph, node.inputs[0]) is node and maker not in graph.unplaced:
                yield [maker, node.name]


def _shape_chains(graph: ModelGraph) -> Iterator[list[str]]:
    """Nodes that compute with shapes alone and write no more than shapes, as far as they hang together."""
    following = {node.name for node in graph.placeable if all(_is_shape(graph, value) for value in node.outputs)}
    together: nx.Graph = nx.Graph()
    together.add_nodes_from(node.name for node in graph.placeable if node.name in following)
    together.add_edges_from(
        (graph.producer[value], name)
        for name in following
        for value in graph.by_name[name].inputs
        if graph.producer.get(value) in following
    )
    yield from (sorted(part) for part in nx.connected_components(together) if len(part) > 1)


def _is_shape(graph: ModelGraph, value: str) -> bool:
    return value in graph.shape_values and graph.knows_shape(value) and graph.nbytes(value) <= MAX_SHAPE_BYTES


RULES = (
    Rule(name="quantised operator", find=_quantised),
    Rule(name="product with its epilogue", find=_epilogues),
    Rule(name="normalisation", find=_norms),
    Rule(name="attention", find=_attentions),
    Rule(name="shape computation", find=_shape_chains),
)
"""Strongest first: where two merges together would close a cycle, the later one's is dropped."""
