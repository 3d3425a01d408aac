"""Which nodes could run the rows of several requests as one: those whose values all have one row a request, at every cut.

A request's picture becomes a row of a batch somewhere behind its decoding, and the network behind that is mostly row by row.
What is found here is a proposal by shapes; two judges must prove it (`codegen.batchability`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

import networkx as nx

from cutset.graph.model import ModelGraph
from cutset.partitioner.pins import Kept

_HEAVY_ELEMENTS = 4096
_ORIGIN = "a value between them has not one row a request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Nodes that could share runs.

    Args:
        nodes: In graph order.
        kept: Those that must stay together, for a value between them is no row of a batch.
    """

    nodes: tuple[str, ...]
    kept: tuple[Kept, ...]


def regions(graph: ModelGraph, allowed: Collection[str], seconds: Callable[[str], float]) -> list[Region]:
    """Return proposals, the largest first; none where nothing can share.

    Args:
        graph: The model with the shapes of one request.
        allowed: Nodes that the GPU takes.
        seconds: What a node costs on the CPU: of two ways to leave nodes out, the cheaper is taken.
    """
    finder = _Finder(graph, seconds)
    live = {node.name for node in graph.placeable}
    heavy = [node.name for node in graph.placeable if any(_elements(graph, v) >= _HEAVY_ELEMENTS for v in node.inputs)]
    between = live & set().union(*(nx.descendants(finder.edges, name) | {name} for name in heavy))
    between &= set().union(*(nx.ancestors(finder.edges, name) | {name} for name in heavy))
    found: list[Region] = []
    for start in (live & set(allowed), between & set(allowed)):
        nodes = finder.shrunk(start)
        if nodes and (not found or set(found[-1].nodes) != nodes):
            found.append(Region(nodes=_in_order(graph, nodes), kept=finder.kept(nodes)))
    return found


class _Finder:
    def __init__(self, graph: ModelGraph, seconds: Callable[[str], float]) -> None:
        self.graph = graph
        self._seconds = seconds
        self.edges: nx.DiGraph = nx.DiGraph()
        self.edges.add_nodes_from(node.name for node in graph.placeable)
        for node in graph.placeable:
            for value in node.inputs:
                if graph.producer.get(value) in self.edges:
                    self.edges.add_edge(graph.producer[value], node.name)

    def shrunk(self, nodes: set[str]) -> set[str]:
        """Return the nodes without those that take or give, across the border, a value that is no row."""
        nodes = set(nodes)
        while True:
            culprit = next(self._culprits(nodes), None)
            if culprit is None:
                return nodes
            sides = (nx.ancestors(self.edges, culprit), nx.descendants(self.edges, culprit))
            first, second = ({culprit} | (side & nodes) for side in sides)
            nodes -= first if self._price(first) <= self._price(second) else second

    def _price(self, nodes: set[str]) -> tuple[float, int]:
        return sum(self._seconds(name) for name in nodes), len(nodes)

    def _culprits(self, nodes: set[str]) -> Iterator[str]:
        outputs = {spec.name for spec in self.graph.outputs}
        for node in self.graph.placeable:
            if node.name not in nodes:
                continue
            taken = [value for value in node.inputs if self.graph.producer.get(value) not in nodes]
            given = [
                value for value in node.outputs
                if value in outputs or any(r not in nodes and r in self.edges for r in self.graph.consumers.get(value, ()))
            ]  # fmt: skip
            if not all(self._is_row(value) for value in (*taken, *given)):
                yield node.name

    def _is_row(self, value: str) -> bool:
        graph = self.graph
        if not value or value in graph.constant_values:
            return True
        return graph.values[value].is_tensor and graph.knows_shape(value) and graph.shape(value)[:1] == (1,)

    def kept(self, nodes: set[str]) -> tuple[Kept, ...]:
        """Return the nodes between which no cut may lie."""
        together: nx.Graph = nx.Graph()
        for name in nodes:
            for value in self.graph.by_name[name].outputs:
                readers = [reader for reader in self.graph.consumers.get(value, ()) if reader in nodes]
                if readers and not self._is_row(value):
                    together.add_edges_from((name, reader) for reader in readers)
        groups = (_in_order(self.graph, group) for group in nx.connected_components(together))
        return tuple(Kept(nodes=group, origin=_ORIGIN) for group in sorted(groups))


def _in_order(graph: ModelGraph, nodes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(nodes, key=graph.position.__getitem__))


def _elements(graph: ModelGraph, value: str) -> int:
    if value not in graph.initializers or not graph.knows_shape(value):
        return 0
    return math.prod(graph.shape(value))
