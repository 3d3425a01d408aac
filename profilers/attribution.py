"""Which kernel of an optimised session does the work of which original node.

onnxruntime fuses, renames, lays out anew and drops nodes, so the time of a kernel belongs to a set of original nodes.
The evidence is, in this order: a kernel writes the value the node wrote; a kernel carries the node's name; the node's
value is gone, so it was absorbed by what reads it. Kernels with no evidence (layout changes, inserted casts) belong to
the kernel they feed. Groups that would form a cycle are one group.

The session must be made from an anonymised copy, in which nodes are called ``n<index>`` and values ``v<index>``; kernels
of the blocked (NCHWc) layout are named after the value they write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import onnx

from cutset.graph.model import ModelGraph

_NODE_TOKEN = re.compile(r"(?<![A-Za-z0-9])n(\d+)(?![0-9])")
_VALUE_TOKEN = re.compile(r"(?<![A-Za-z0-9])(v\d+)_nchwc")
LAYOUT_OPS = frozenset({"ReorderInput", "ReorderOutput"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One node of the optimised graph: its profiled name, operator, and the values it reads and writes."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Original nodes that run as one unit, in graph order, and the indices of the kernels that run them."""

    nodes: tuple[str, ...]
    kernels: tuple[int, ...]


def kernels_of(optimised: onnx.GraphProto) -> list[Kernel]:
    """Return the kernels of a saved optimised graph."""
    return [
        Kernel(
            name=node.name,
            op_type=node.op_type,
            inputs=tuple(i for i in node.input if i),
            outputs=tuple(o for o in node.output if o),
        )
        for node in optimised.node
    ]


def attribute(graph: ModelGraph, kernels: Sequence[Kernel], values: Mapping[str, str]) -> list[Group]:
    """Return groups that cover every node of `graph` exactly once and whose contraction is acyclic.

    Args:
        graph: The original model.
        kernels: Kernels of the optimised session.
        values: Original value name of each anonymous one.
    """
    kernel_of = _claims(graph, kernels, values)
    _absorb(graph, kernel_of)
    members = _members(graph, kernels, kernel_of)
    return _acyclic(graph, members, _kernel_homes(kernels, members))


def named_nodes(graph: ModelGraph, kernel: str) -> list[str]:
    """Return the original nodes whose anonymous names the name of a kernel carries."""
    return [graph.nodes[int(token)].name for token in _NODE_TOKEN.findall(kernel) if int(token) < len(graph.nodes)]


def _claims(graph: ModelGraph, kernels: Sequence[Kernel], values: Mapping[str, str]) -> dict[str, int]:
    """Return the kernel index of the nodes for which there is direct evidence."""
    unplaced = graph.unplaced
    claimed: dict[str, int] = {}
    written = {output: index for index, kernel in enumerate(kernels) for output in kernel.outputs}
    for index, kernel in enumerate(kernels):
        named = named_nodes(graph, kernel.name)
        named += [graph.producer.get(values.get(token, ""), "") for token in _VALUE_TOKEN.findall(kernel.name)]
        for name in named:
            if name and name not in unplaced:
                claimed.setdefault(name, index)
    for index, kernel in enumerate(kernels):
        for output in kernel.outputs:
            owner = graph.producer.get(values.get(output, ""))
            if owner is None or owner in unplaced:
                continue
            source = index
            while kernels[source].op_type in LAYOUT_OPS and kernels[source].inputs[0] in written:
                source = written[kernels[source].inputs[0]]
            claimed[owner] = source
    return claimed


def _absorb(graph: ModelGraph, kernel_of: dict[str, int]) -> None:
    """Give every other placeable node to the kernel of its first reader, else of a producer it reads."""
    for node in reversed(graph.placeable):
        if node.name not in kernel_of:
            readers = (kernel_of.get(reader) for output in node.outputs for reader in graph.consumers.get(output, ()))
            found = next((kernel for kernel in readers if kernel is not None), None)
            if found is not None:
                kernel_of[node.name] = found
    for node in graph.placeable:
        if node.name not in kernel_of:
            writers = (kernel_of.get(graph.producer[value]) for value in node.inputs if value in graph.producer)
            found = next((kernel for kernel in writers if kernel is not None), None)
            if found is not None:
                kernel_of[node.name] = found


def _members(graph: ModelGraph, kernels: Sequence[Kernel], kernel_of: Mapping[str, int]) -> dict[int, list[str]]:
    """Return the nodes of each kernel; a node without one is alone under a negative key."""
    members: dict[int, list[str]] = {}
    alone = 0
    for node in graph.placeable:
        key = kernel_of.get(node.name)
        if key is None:
            alone -= 1
            key = alone
        members.setdefault(key, []).append(node.name)
    return members


def _kernel_homes(kernels: Sequence[Kernel], members: Mapping[int, list[str]]) -> dict[int, int]:
    """Return for each kernel the one that owns its time: itself, else what it feeds, else what feeds it.

    Of several that it feeds, the one whose nodes come first: onnxruntime saves one graph in different orders.
    """
    rank = {key: number for number, key in enumerate(members)}
    writers = {output: index for index, kernel in enumerate(kernels) for output in kernel.outputs}
    readers: dict[str, list[int]] = {}
    for index, kernel in enumerate(kernels):
        for value in kernel.inputs:
            readers.setdefault(value, []).append(index)
    homes = {index: index for index in range(len(kernels)) if index in members}
    for index in reversed(range(len(kernels))):
        if index not in homes:
            fed = {homes[reader] for o in kernels[index].outputs for reader in readers.get(o, ()) if reader in homes}
            feeding = (homes[writers[i]] for i in kernels[index].inputs if writers.get(i) in homes)
            home = min(fed, key=rank.__getitem__) if fed else next(feeding, None)
            if home is not None:
                homes[index] = home
    fallback = next(iter(members), None)
    for index in range(len(kernels)):
        if index not in homes and fallback is not None:
            homes[index] = fallback
    return homes


def _acyclic(graph: ModelGraph, members: Mapping[int, list[str]], homes: Mapping[int, int]) -> list[Group]:
    key_of = {name: key for key, names in members.items() for name in names}
    quotient: nx.DiGraph = nx.DiGraph()
    quotient.add_nodes_from(members)
    for node in graph.placeable:
        for value in node.inputs:
            source = key_of.get(graph.producer.get(value, ""))
            if source is not None and source != key_of[node.name]:
                quotient.add_edge(source, key_of[node.name])
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    kernels_at: dict[int, list[int]] = {}
    for kernel, home in homes.items():
        kernels_at.setdefault(home, []).append(kernel)
    groups = []
    for component in nx.strongly_connected_components(quotient):
        nodes = sorted((name for key in component for name in members[key]), key=position.__getitem__)
        kernels = sorted(kernel for key in component for kernel in kernels_at.get(key, ()))
        groups.append(Group(nodes=tuple(nodes), kernels=tuple(kernels)))
    groups.sort(key=lambda group: position[group.nodes[0]])
    return _with_unplaced(graph, groups)


def _with_unplaced(graph: ModelGraph, groups: list[Group]) -> list[Group]:
    """Add each constant or dead node to the group of its first reader; one that nothing reads joins the first group."""
    home = {name: index for index, group in enumerate(groups) for name in group.nodes}
    extra: dict[int, list[str]] = {}
    for node in reversed(graph.nodes):
        if node.name in graph.unplaced:
            readers = [home[r] for output in node.outputs for r in graph.consumers.get(output, ()) if r in home]
            home[node.name] = min(readers, default=0)
            extra.setdefault(home[node.name], []).append(node.name)
    if not groups and extra:
        return [Group(nodes=tuple(node.name for node in graph.nodes), kernels=())]
    position = {node.name: index for index, node in enumerate(graph.nodes)}
    return [
        Group(nodes=tuple(sorted([*group.nodes, *extra.get(index, ())], key=position.__getitem__)), kernels=group.kernels)
        for index, group in enumerate(groups)
    ]
