"""Bare cost graphs: the JSON of the published device-placement workloads, without any model.

Times are in the file's own unit throughout; the planner's "seconds" are that unit. A node's transfer costs the same to and
from an accelerator and is paid once however many readers; copies do not run beside an accelerator's compute. Nodes of one
``colorClass`` stay together.

Source:
    The input format and the load model are those of Tarnawski et al., "Efficient algorithms for device placement of DNN
    graph operators", NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import msgspec
import numpy as np

from cutset import serde
from cutset.errors import PlanError, UsageError
from cutset.partitioner.contract import contract
from cutset.partitioner.pins import DeviceKind, Pin
from cutset.partitioner.problem import IntArray, Problem, Tensor

NodeId = int | str


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One op of the file."""

    id: NodeId
    name: str = ""
    cpu: float = msgspec.field(name="cpuLatency")
    accelerator: float = msgspec.field(name="fpgaLatency")
    supported: bool | int = msgspec.field(name="supportedOnFpga", default=True)
    size: float = 0.0
    color: int | None = msgspec.field(name="colorClass", default=None)


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """One dependency of the file; `cost` is the transfer of the source's output."""

    source: NodeId = msgspec.field(name="sourceId")
    target: NodeId = msgspec.field(name="destId")
    cost: float


class _File(msgspec.Struct, frozen=True, kw_only=True):
    nodes: list[Node]
    edges: list[Edge]
    cpus: int = msgspec.field(name="maxCPUs", default=1)
    accelerators: int = msgspec.field(name="maxFPGAs", default=1)
    memory: float | None = msgspec.field(name="maxSizePerFPGA", default=None)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CostGraph:
    """A cost graph as the planner takes it.

    Attributes:
        ids: Id of each node, in the file's order.
        problem: The costs, one op a colour class.
        member: Op of each node, shape ``(nodes,)``.
        accelerators: How many there are.
        memory: Bytes that one accelerator holds.
    """

    ids: tuple[NodeId, ...]
    problem: Problem
    member: IntArray
    accelerators: int
    memory: float


def parse(data: Mapping[str, Any], *, where: str, pins: tuple[Pin, ...] = ()) -> CostGraph:
    """Return the cost graph in a file's JSON object.

    Args:
        data: The object.
        where: The file, for messages.
        pins: By node name or id; ``op:`` patterns match nothing, as the file has no types.

    Raises:
        UsageError: If a field is missing or wrong, an edge names no node, or a pin matches none.
        PlanError: If pins contradict each other or the costs, or the nodes form a cycle.
    """
    file = serde.convert(data, _File, where=where)
    _check(file, where)
    ids = [node.id for node in file.nodes]
    on_cpu, on_gpu = _allowed(file, pins)
    index = {node: position for position, node in enumerate(ids)}
    apart = _apart(file, index, on_cpu, on_gpu)
    colours = [f"colour {node.color}" if node.color is not None else f"node {v}" for v, node in enumerate(file.nodes)]
    numbers = {colour: number for number, colour in enumerate(dict.fromkeys(colours))}
    problem, member = contract(apart, [numbers[colour] for colour in colours])
    return CostGraph(
        ids=tuple(ids),
        problem=problem,
        member=member,
        accelerators=file.accelerators,
        memory=math.inf if file.memory is None else file.memory,
    )


def _check(file: _File, where: str) -> None:
    ids = {node.id for node in file.nodes}
    if not file.nodes or len(ids) < len(file.nodes):
        raise UsageError(f"{where} has {'no nodes' if not file.nodes else 'two nodes of one id'}", where=where)
    lost = next((end for edge in file.edges for end in (edge.source, edge.target) if end not in ids), None)
    if lost is not None:
        raise UsageError(f"an edge of {where} names the node {lost!r}, which is not there", where=where)
    if file.cpus < 0 or file.accelerators < 0 or file.cpus + file.accelerators == 0:
        raise UsageError(f"{where} has {file.cpus} CPUs and {file.accelerators} accelerators", where=where)
    numbers = [node.size for node in file.nodes] + [edge.cost for edge in file.edges] + [file.memory or 0.0]
    if not all(0 <= number < math.inf for number in numbers):
        raise UsageError(f"a size or cost in {where} is negative or not a number", where=where)


def _allowed(file: _File, pins: tuple[Pin, ...]) -> tuple[list[bool], list[bool]]:
    """Return whether each node may run on the CPU and on an accelerator."""
    pinned = _pinned(file, pins)
    on_cpu = [file.cpus > 0 and pinned.get(v, "cpu") == "cpu" for v in range(len(file.nodes))]
    on_gpu = [
        file.accelerators > 0 and bool(node.supported) and pinned.get(v, "gpu") == "gpu" for v, node in enumerate(file.nodes)
    ]
    return on_cpu, on_gpu


def _pinned(file: _File, pins: tuple[Pin, ...]) -> dict[int, DeviceKind]:
    found: dict[int, Pin] = {}
    for pin in pins:
        matched = [v for v, node in enumerate(file.nodes) if _matches(pin, node)]
        if not matched:
            raise UsageError(f"{pin} matches no node", hint=f"for example --pin {file.nodes[0].id}=cpu")
        for v in matched:
            if v in found and found[v].device != pin.device:
                raise PlanError(f"node `{file.nodes[v].id}` is pinned to both devices", where=f"{found[v]} and {pin}")
            found[v] = pin
    return {v: pin.device for v, pin in found.items()}


def _matches(pin: Pin, node: Node) -> bool:
    return pin.pattern in {str(node.id), node.name} or any(fnmatchcase(t, pin.pattern) for t in (str(node.id), node.name) if t)


def _apart(file: _File, index: Mapping[NodeId, int], on_cpu: list[bool], on_gpu: list[bool]) -> Problem:
    """Return the problem with one op a node."""
    readers: dict[tuple[int, float], list[int]] = {}
    for edge in file.edges:
        readers.setdefault((index[edge.source], edge.cost), []).append(index[edge.target])
    return Problem(
        names=tuple(str(node.id) for node in file.nodes),
        cpu_s=np.array([node.cpu if can else np.inf for node, can in zip(file.nodes, on_cpu, strict=True)]),
        gpu_s=np.array([node.accelerator if can else np.inf for node, can in zip(file.nodes, on_gpu, strict=True)]),
        tensors=tuple(
            Tensor(name=str(file.nodes[u].id), producer=u, consumers=tuple(found), h2d_s=cost, d2h_s=cost)
            for (u, cost), found in readers.items()
        ),
        cpu_workers=max(file.cpus, 1),
        gpu_bytes=np.array([node.size for node in file.nodes]),
        copies_overlap=False,
        unit="",
    )
