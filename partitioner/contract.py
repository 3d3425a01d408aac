"""Ops that must stay together become one op: same demands for every placement that keeps them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import networkx as nx
import numpy as np

from cutset.partitioner.problem import IntArray, Problem


def contract(problem: Problem, groups: Sequence[int]) -> tuple[Problem, IntArray]:
    """Return the problem with one op a group, and the new op of each old one.

    Groups that depend on each other in a cycle are joined, as no pipeline could run them apart. The new ops are in
    topological order; tensors inside one are dropped, all others keep their cost and are still paid once a direction.

    Args:
        problem: The costs.
        groups: Group of each op; pseudo-ops must be alone in theirs.
    """
    member = _members(problem, groups)
    size = int(member.max()) + 1
    cpu_s, gpu_s, gpu_bytes = np.zeros(size), np.zeros(size), np.zeros(size)
    for total, each in ((cpu_s, problem.cpu_s), (gpu_s, problem.gpu_s), (gpu_bytes, problem.gpu_bytes)):
        np.add.at(total, member, each)
    names: list[list[str]] = [[] for _ in range(size)]
    for v, name in enumerate(problem.names):
        names[member[v]].append(name)
    contracted = replace(
        problem,
        names=tuple(held[0] if len(held) == 1 else f"{held[0]} (+{len(held) - 1})" for held in names),
        cpu_s=cpu_s,
        gpu_s=gpu_s,
        gpu_bytes=gpu_bytes,
        tensors=tuple(
            replace(tensor, producer=int(member[tensor.producer]), consumers=tuple(member[list(tensor.consumers)].tolist()))
            for tensor in problem.tensors
        ),
        pseudo=frozenset(int(member[v]) for v in problem.pseudo),
    )
    return contracted, member


def _members(problem: Problem, groups: Sequence[int]) -> IntArray:
    """Return the new op of each op, numbered in topological order."""
    graph = nx.DiGraph()
    graph.add_nodes_from(groups)
    for tensor in problem.tensors:
        graph.add_edges_from((groups[tensor.producer], groups[v]) for v in tensor.consumers)
    graph.remove_edges_from(list(nx.selfloop_edges(graph)))
    joined = nx.condensation(graph)
    position = {node: place for place, node in enumerate(nx.lexicographical_topological_sort(joined))}
    return np.array([position[joined.graph["mapping"][group]] for group in groups], dtype=np.int64)
