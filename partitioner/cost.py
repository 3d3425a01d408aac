"""From atoms and what crosses between them to the planner's `Problem`: seconds a request on one machine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cutset.errors import UnknownShapeError
from cutset.graph.model import ModelGraph
from cutset.partitioner.atoms import Atom, Evidence, atoms_of
from cutset.partitioner.problem import CPU, GPU, Placement, Problem, Tensor
from cutset.profilers.table import CostTable

INPUT, OUTPUT = "<input>", "<output>"

CPU_STAGE_S = 40e-6
"""Work of the CPU for each hop between stages: queue, thread switch, and a session's entry (measured 20-60 us)."""

GPU_STAGE_S = 30e-6
"""Work of the GPU's feeding thread for each GPU stage: enqueue and synchronise."""


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
    """A planner's problem and what it means.

    Args:
        problem: Seconds a request.
        atoms: What the op indices stand for; those behind are pseudo-ops.
        batch: Requests that share the costs of one run.
        copy_fixed_s: Seconds a request of a copy, whatever its size, by direction.
        rows: Requests that share a run on the GPU, beside those of a batch.
    """

    problem: Problem
    atoms: tuple[Atom, ...]
    batch: int = 1
    copy_fixed_s: Mapping[str, float] = field(default_factory=dict)
    rows: int = 1

    def placement_of(self, devices: Mapping[str, str]) -> Placement | None:
        """Return the placement of the atoms that puts every node on its device, None if that parts the nodes of an atom."""
        placement = np.full(self.problem.size, CPU, dtype=np.int8)
        for index, atom in enumerate(self.atoms):
            found = {devices[name] for name in atom.nodes}
            if len(found) != 1:
                return None
            placement[index] = GPU if found == {"gpu"} else CPU
        return placement


def build_problem(evidence: Evidence, machine: Machine, *, gpu_scale: str = "mid") -> Costed:
    """Return the placement problem of a model.

    Args:
        evidence: The model, its costs, verdicts and pins.
        machine: Workers, cores and batch.
        gpu_scale: ``low``, ``mid`` or ``high`` end of the GPU costs' interval.

    Raises:
        PlanError: If a pin asks for what a device cannot do, or nodes are kept together that cannot be.
    """
    graph, table = evidence.graph, evidence.table
    atoms = atoms_of(evidence, gpu_scale=gpu_scale)
    session = (machine.saturated and table.session("cpu", loaded=True)) or table.session("cpu")
    slowed = contention(table, machine.cpu_workers) if machine.saturated else 1.0
    index = {name: number for number, atom in enumerate(atoms) for name in atom.nodes}
    source, sink = len(atoms), len(atoms) + 1
    scale = 1.0 / machine.batch
    rows = max((atom.rows for atom in atoms), default=1)
    return Costed(
        atoms=tuple(atoms),
        batch=machine.batch,
        rows=rows,
        copy_fixed_s={transfer.direction: transfer.fixed_s * scale for transfer in table.transfers},
        problem=Problem(
            names=(*(atom.name for atom in atoms), INPUT, OUTPUT),
            cpu_s=np.array([atom.cpu_s for atom in atoms] + [0.0, 0.0]) * scale * slowed,
            gpu_s=np.array([atom.gpu_s for atom in atoms] + [math.inf, math.inf]) * scale,
            tensors=tuple(_tensors(graph, table, index, source, sink, scale)),
            pseudo=frozenset({source, sink}),
            cpu_workers=machine.cpu_workers,
            gpu_bytes=np.array([*(float(_weight_bytes(graph, atom)) for atom in atoms), 0.0, 0.0]),
            cpu_stage_s=CPU_STAGE_S * scale,
            gpu_stage_s=GPU_STAGE_S * scale / rows,
            min_gpu_ops=machine.min_gpu_ops,
            whole_cpu_s=session.latency_s.median * scale if session else None,
            whole_cores=machine.cores,
        ),
    )


def _weight_bytes(graph: ModelGraph, atom: Atom) -> int:
    """Return the bytes of the weights that an atom reads; a weight that two atoms read counts with both."""
    read = {value for name in atom.nodes for value in graph.by_name[name].inputs} & graph.initializers
    return sum(graph.nbytes(value) for value in sorted(read) if graph.knows_shape(value))


def contention(table: CostTable, workers: int) -> float:
    """Return how many times slower the CPU runs when `workers` run at once, at least one.

    Measured alone and with every core busy; between the two it is taken to grow evenly with the workers.
    """
    alone, busy = table.session("cpu"), table.session("cpu", loaded=True)
    if alone is None or busy is None or not alone.latency_s.median:
        return 1.0
    ratio = max(1.0, busy.latency_s.median / alone.latency_s.median)
    return 1.0 + (ratio - 1.0) * min(1.0, (workers - 1) / (busy.workers - 1))


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
