"""Names for what a rewrite adds to a model: never a name that the model has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir


class FreshNames:
    """Hand out names that nothing has.

    Args:
        taken: Names that exist.
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    @classmethod
    def beside(cls, graph: onnx.GraphProto) -> FreshNames:
        """Return names that no value, weight or node of a graph and its bodies has."""
        return cls(_names(graph))

    @classmethod
    def beside_ir(cls, graph: ir.Graph, also: Iterable[str] = ()) -> FreshNames:
        """Return names that no value, weight or node of a graph and its bodies has, nor any of `also`."""
        return cls([*_ir_names(graph), *also])

    def make(self, wish: str) -> str:
        """Return `wish`, with a number behind it if something has the name; from now on the name is taken."""
        name, number = wish, 1
        while name in self._taken:
            number += 1
            name = f"{wish}.{number}"
        self._taken.add(name)
        return name


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield value.name
    yield from (weight.values.name for weight in graph.sparse_initializer)
    for node in graph.node:
        yield node.name
        yield from node.input
        yield from node.output
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _names(body)


def _ir_names(graph: ir.Graph) -> Iterator[str]:
    for inner in (graph, *graph.subgraphs()):
        for value in (*inner.inputs, *inner.initializers.values()):
            yield str(value.name)
        for node in inner:
            yield str(node.name)
            yield from (str(value.name) for value in node.outputs)
