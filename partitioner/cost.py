"""From measured groups, support verdicts and pins to the planner's `Problem`.

A fused group is one op. A group whose nodes may not all run on the same devices is taken apart, and its nodes then cost
what they cost unfused: that is the price of a cut inside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cutset.errors import PlanError, UnknownShapeError
from cutset.graph.model import ModelGraph
from cutset.partitioner.pins import Pin
from cutset.partitioner.problem import Problem, Tensor
from cutset.partitioner.support import Support
from cutset.profilers.table import CostTable, GroupCost

INPUT, OUTPUT = "<input>", "<output>"

CPU_STAGE_S = 40e-6
"""Work of the CPU for each hop between stages: queue, thread switch, and a session's entry (measured 20-60 us)."""

GPU_STAGE_S = 30e-6
"""Work of the GPU's feeding thread for each GPU stage: enqueue and synchronise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """What is placed as a whole: the nodes of a fused group, or one node of a group that was taken apart.

    Args:
        nodes: In graph order; constant nodes are left out.
        cpu_s: Seconds a request, or infinite.
        gpu_s: Seconds a request, or infinite.
        reason: Why it has no choice, or empty.
        gpu_source: Where the GPU's number came from, empty where there is none.
    """

    nodes: tuple[str, ...]
    cpu_s: float
    gpu_s: float
    reason: str = ""
    gpu_source: str = ""

    @property
    def name(self) -> str:
        """Name of the first node, and how many more there are."""
        return self.nodes[0] if len(self.nodes) == 1 else f"{self.nodes[0]} (+{len(self.nodes) - 1})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What serves the plan.

    Args:
        cpu_workers: Threads that serve CPU stages.
        cores: Replicas of the unsplit model that the machine holds.
        batch: Samples in one run.
        min_gpu_ops: Smallest GPU stage worth building, in atoms.
        saturated: Whether all workers are busy, and slow each other down, or one request is alone.
    """

    cpu_workers: int
    cores: int
    batch: int = 1
    min_gpu_ops: int = 0
    saturated: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Costed:
    """A planner's problem and what its op indices mean."""

    problem: Problem
    atoms: tuple[Atom, ...]


def build_problem(
    graph: ModelGraph,
    table: CostTable,
    support: Mapping[str, Support],
    pins: Mapping[str, Pin],
    machine: Machine,
    *,
    gpu_scale: str = "mid",
) -> Costed:
    """Return the placement problem of a model.

    Args:
        graph: The model with measured shapes.
        table: Its costs.
        support: Which nodes the GPU backend takes.
        pins: Pin of each pinned node.
        machine: Workers, cores and batch.
        gpu_scale: ``low``, ``mid`` or ``high`` end of the GPU costs' interval.

    Raises:
        PlanError: If a pin asks for what a device cannot do.
    """
    refusals = _refusals(graph, table, support)
    _check_pins(pins, refusals)
    atoms = _atoms(graph, table, refusals, pins, gpu_scale)
    session = (machine.saturated and table.session("cpu", loaded=True)) or table.session("cpu")
    slowed = contention(table, machine.cpu_workers) if machine.saturated else 1.0
    index = {name: number for number, atom in enumerate(atoms) for name in atom.nodes}
    source, sink = len(atoms), len(atoms) + 1
    scale = 1.0 / machine.batch
    return Costed(
        atoms=tuple(atoms),
        problem=Problem(
            names=(*(atom.name for atom in atoms), INPUT, OUTPUT),
            cpu_s=np.array([atom.cpu_s for atom in atoms] + [0.0, 0.0]) * scale * slowed,
            gpu_s=np.array([atom.gpu_s for atom in atoms] + [math.inf, math.inf]) * scale,
            tensors=tuple(_tensors(graph, table, index, source, sink, scale)),
            pseudo=frozenset({source, sink}),
            cpu_workers=machine.cpu_workers,
            cpu_stage_s=CPU_STAGE_S * scale,
            gpu_stage_s=GPU_STAGE_S * scale,
            min_gpu_ops=machine.min_gpu_ops,
            whole_cpu_s=session.latency_s.median * scale if session else None,
            whole_cores=machine.cores,
        ),
    )


def contention(table: CostTable, workers: int) -> float:
    """Return how many times slower the CPU runs when `workers` run at once, at least one.

    Measured alone and with every core busy; between the two it is taken to grow evenly with the workers.
    """
    alone, busy = table.session("cpu"), table.session("cpu", loaded=True)
    if alone is None or busy is None or not alone.latency_s.median:
        return 1.0
    ratio = max(1.0, busy.latency_s.median / alone.latency_s.median)
    return 1.0 + (ratio - 1.0) * min(1.0, (workers - 1) / (busy.workers - 1))


def _refusals(graph: ModelGraph, table: CostTable, support: Mapping[str, Support]) -> dict[str, str]:
    """Return why each node cannot run on the GPU, for those that cannot."""
    found = {}
    uncosted = {name: group.reason for group in table.groups_on("gpu") if group.latency_s is None for name in group.nodes}
    priced = {name for group in table.groups_on("gpu") for name in group.nodes}
    for node in graph.placeable:
        verdict = support.get(node.name)
        if verdict is not None and not verdict.ok:
            found[node.name] = verdict.reason
        elif node.name not in priced:
            found[node.name] = "no GPU cost is known for it"
        elif node.name in uncosted:
            found[node.name] = uncosted[node.name]
        else:
            bad = next((value for value in (*node.inputs, *node.outputs) if not _movable(graph, value)), None)
            if bad is not None:
                found[node.name] = f"tensor `{bad}` cannot be moved to a GPU: {_why_stuck(graph, bad)}"
    return found


def _movable(graph: ModelGraph, value: str) -> bool:
    if value in graph.constant_values:
        return True
    spec = graph.values[value]
    return spec.is_tensor and spec.dtype not in {"string", "undefined"} and graph.knows_shape(value)


def _why_stuck(graph: ModelGraph, value: str) -> str:
    spec = graph.values[value]
    if not spec.is_tensor or spec.dtype == "string":
        return f"it is a {spec.dtype}"
    return "its size is not known" if spec.dtype != "undefined" else "its type is not known"


def _check_pins(pins: Mapping[str, Pin], refusals: Mapping[str, str]) -> None:
    for name, pin in pins.items():
        if pin.device == "gpu" and name in refusals:
            raise PlanError(
                f"node `{name}` is pinned to the GPU, which cannot run it", where=str(pin), cause=refusals[name],
                hint="remove the pin, or pin the nodes around it one by one",
            )  # fmt: skip


def _atoms(
    graph: ModelGraph, table: CostTable, refusals: Mapping[str, str], pins: Mapping[str, Pin], gpu_scale: str
) -> list[Atom]:
    gpu = {group.nodes: group for group in table.groups_on("gpu")}
    atoms: list[Atom] = []
    for group in table.groups_on("cpu"):
        live = [name for name in group.nodes if name not in graph.unplaced]
        states = {name: _state(name, refusals, pins) for name in live}
        whole = len({(on_cpu, on_gpu) for on_cpu, on_gpu, _ in states.values()}) <= 1
        for unit in [live] if whole else [[name] for name in live]:
            if unit:
                there = gpu.get(group.nodes)
                cpu_s, gpu_s = _seconds(unit, group, whole), _seconds(unit, there, whole) * _end(there, gpu_scale)
                atoms.append(_atom(cpu_s, gpu_s, {n: states[n] for n in unit}, "" if there is None else there.source))
    return atoms


def _state(name: str, refusals: Mapping[str, str], pins: Mapping[str, Pin]) -> tuple[bool, bool, str]:
    """Return whether the node may run on the CPU, on the GPU, and the reason if it has no choice."""
    pin = pins.get(name)
    if pin is not None:
        return pin.device == "cpu", pin.device == "gpu", f"pinned by {pin}"
    if name in refusals:
        return True, False, refusals[name]
    return True, True, ""


def _seconds(unit: Sequence[str], group: GroupCost | None, whole: bool) -> float:
    """Return the fused cost of a whole group, the unfused one of a node cut out of it."""
    if group is None or group.latency_s is None:
        return math.inf
    return group.latency_s if whole else sum(group.unfused_s.get(name, 0.0) for name in unit)


def _end(group: GroupCost | None, gpu_scale: str) -> float:
    """Return the chosen end of a group's interval over its middle."""
    if group is None or not group.latency_s or gpu_scale == "mid":
        return 1.0
    end = group.low_s if gpu_scale == "low" else group.high_s
    return 1.0 if end is None else end / group.latency_s


def _atom(cpu_s: float, gpu_s: float, states: Mapping[str, tuple[bool, bool, str]], gpu_source: str) -> Atom:
    on_cpu, on_gpu, _ = next(iter(states.values()))
    return Atom(
        nodes=tuple(states),
        cpu_s=cpu_s if on_cpu else math.inf,
        gpu_s=gpu_s if on_gpu else math.inf,
        reason="; ".join(dict.fromkeys(reason for _, _, reason in states.values() if reason)),
        gpu_source=gpu_source,
    )


def _tensors(
    graph: ModelGraph, table: CostTable, index: Mapping[str, int], source: int, sink: int, scale: float
) -> list[Tensor]:
    h2d, d2h = table.transfer("h2d"), table.transfer("d2h")
    outputs = {spec.name for spec in graph.outputs}
    inputs = {spec.name for spec in graph.inputs}
    found = []
    for value in graph.values:
        producer = source if value in inputs else index.get(graph.producer.get(value, ""))
        if producer is None:  # a weight, or made by a node that no placement is about
            continue
        readers = {index[name] for name in graph.consumers.get(value, ()) if name in index}
        consumers = readers | ({sink} if value in outputs else set())
        size = _size(graph, value)
        found.append(
            Tensor(
                name=value,
                producer=producer,
                consumers=tuple(consumers),
                h2d_s=h2d.seconds(size) * scale if h2d else 0.0,
                d2h_s=d2h.seconds(size) * scale if d2h else 0.0,
            )
        )
    return found


def _size(graph: ModelGraph, value: str) -> int:
    """Return bytes of a value; zero for one that cannot be moved, whose ops all stay on the CPU."""
    try:
        return graph.nbytes(value)
    except UnknownShapeError:
        return 0
