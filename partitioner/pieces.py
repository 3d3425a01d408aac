"""What a fused group falls into where its nodes may not all run on the same devices, and what the pieces cost.

As long as all pieces stay on the CPU the group runs fused, so a piece that may leave is worth only what leaving saves:
the fused price less what the rest costs alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from cutset.graph.model import ModelGraph
from cutset.profilers.table import CostTable, GroupCost

Kind = tuple[bool, bool]
"""Whether nodes may run on the CPU, and on the GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Nodes of one group that stay together.

    Args:
        nodes: In graph order.
        kind: What they may run on.
        cpu_s: Seconds that they take from the CPU; meaningless where they cannot run there.
    """

    nodes: tuple[str, ...]
    kind: Kind
    cpu_s: float


def pieces_of(graph: ModelGraph, nodes: Sequence[str], kinds: Mapping[str, Kind]) -> list[tuple[str, ...]]:
    """Return the nodes of a group as connected sets of one kind, in graph order; their contraction is acyclic.

    A node's depth is how often the kind changes on the way to it. No edge leads to a lesser depth, so sets of equal depth
    cannot wait for each other in a circle.

    Args:
        graph: The model.
        nodes: Placeable nodes of the group, in graph order.
        kinds: What each may run on.
    """
    members, depth = set(nodes), dict.fromkeys(nodes, 0)
    together: nx.Graph = nx.Graph()
    together.add_nodes_from(nodes)
    for name in nodes:
        sources = {graph.producer[value] for value in graph.by_name[name].inputs if value in graph.producer} & members
        for source in sources:
            depth[name] = max(depth[name], depth[source] + (kinds[source] != kinds[name]))
        together.add_edges_from(
            (source, name) for source in sources if (kinds[source], depth[source]) == (kinds[name], depth[name])
        )
    found = [tuple(sorted(part, key=graph.position.__getitem__)) for part in nx.connected_components(together)]
    return sorted(found, key=lambda part: graph.position[part[0]])


def deciding_pieces(parts: Sequence[tuple[str, ...]], kinds: Mapping[str, Kind]) -> list[tuple[str, ...]]:
    """Return the pieces whose own price on the CPU matters: all that can run there if the group is cut in any case.

    Else those that cannot leave.
    """
    torn = any(not kinds[part[0]][0] for part in parts)
    return [part for part in parts if kinds[part[0]][0] and (torn or not kinds[part[0]][1])] if len(parts) > 1 else []


def priced(
    parts: Sequence[tuple[str, ...]], kinds: Mapping[str, Kind], group: GroupCost, table: CostTable
) -> list[Piece] | None:
    """Return the pieces of a group with what each takes from the CPU, or None if taking it apart saves the CPU nothing.

    Args:
        parts: From `pieces_of`.
        kinds: What each node may run on.
        group: What the group costs on the CPU, fused.
        table: Holds the measured pieces; one that was not measured costs what its nodes do unfused.
    """
    alone = [_alone(part, group, table) for part in parts]
    if any(not kinds[part[0]][0] for part in parts):
        return [Piece(nodes=p, kind=kinds[p[0]], cpu_s=s) for p, s in zip(parts, alone, strict=True)]
    free = [kinds[part[0]][1] for part in parts]
    bound_s = sum(s for s, may_leave in zip(alone, free, strict=True) if not may_leave)
    free_s = sum(alone) - bound_s
    saved_s = (group.latency_s or 0.0) - bound_s
    if saved_s <= 0:
        return None
    shares = [s / free_s if free_s > 0 else 1 / sum(free) for s in alone]
    return [
        Piece(nodes=p, kind=kinds[p[0]], cpu_s=saved_s * share if may_leave else s)
        for p, s, share, may_leave in zip(parts, alone, shares, free, strict=True)
    ]


def _alone(part: tuple[str, ...], group: GroupCost, table: CostTable) -> float:
    measured = table.piece(part)
    if measured is not None and measured.latency_s is not None:
        return measured.latency_s
    return sum(group.unfused_s.get(name, 0.0) for name in part)
