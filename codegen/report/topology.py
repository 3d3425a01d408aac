"""What the report knows of the model's graph: the operator of every node, and which nodes it reads.

Kept as `graph.json` beside the plan, so that a report can be drawn again without the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from cutset import serde
from cutset.graph.model import ModelGraph

GRAPH_SCHEMA = "cutset.graph/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vertex:
    """One node.

    Args:
        name: Unique in the model.
        op: Operator type, with its domain where that is not the standard one.
        after: Places of the nodes it reads from, ascending.
    """

    name: str
    op: str
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """The nodes of the main graph, in its order."""

    nodes: tuple[Vertex, ...] = ()


def topology_of(graph: ModelGraph) -> Topology:
    """Return the topology of a model."""
    return Topology(
        nodes=tuple(
            Vertex(
                name=node.name,
                op=f"{node.op.domain}::{node.op.op_type}" if node.op.domain else node.op.op_type,
                after=tuple(sorted({graph.position[graph.producer[name]] for name in node.inputs if name in graph.producer})),
            )
            for node in graph.nodes
        )
    )


def dump_topology(topology: Topology) -> str:
    """Return a topology as JSON, a node a line."""
    lines = ",\n".join(json.dumps(serde.to_builtins(node), ensure_ascii=False) for node in topology.nodes)
    return f'{{"schema": "{GRAPH_SCHEMA}", "nodes": [\n{lines}\n]}}\n'


def read_topology(path: Path) -> Topology:
    """Return the topology in a file.

    Raises:
        UsageError: If it is none of this version.
    """
    return serde.convert(serde.read_json(path, schema=GRAPH_SCHEMA), Topology, where=str(path))
