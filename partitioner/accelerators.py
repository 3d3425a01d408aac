"""Several accelerators of one kind: divide the ops among them so that the busiest device has least to do.

A device's load is its compute and, on an accelerator, every tensor that comes in and every tensor that leaves, each once;
copies do not run beside compute. The CPU pays no copies. Pieces are contiguous: a device's ops form a range of some order
in which the graph can run, so that requests flow through the devices as a pipeline. Among those divisions the dynamic
program over closed sets of ops (sets that hold all predecessors of their members) finds the best.

Source:
    Tarnawski, Phanishayee, Devanur, Mahajan and Paravecino, "Efficient algorithms for device placement of DNN graph
    operators", NeurIPS 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.goal import Limits
from cutset.partitioner.problem import BoolArray, FloatArray, IntArray, Problem

HOST = 0
MOST_SETS = 6000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Division:
    """The device of each op and what each device has to do.

    Attributes:
        device: 0 for the CPU, 1 and up for the accelerators, shape ``(ops,)``.
        load_s: Seconds a request of each device, shape ``(accelerators + 1,)``.
        optimal: Whether no contiguous division has a smaller largest load.
    """

    device: IntArray
    load_s: FloatArray
    optimal: bool

    @property
    def bottleneck_s(self) -> float:
        """Load of the busiest device."""
        return float(self.load_s.max())


def device_loads(problem: Problem, device: IntArray, accelerators: int) -> FloatArray:
    """Return the seconds a request of each device; infinite where an op cannot run, shape ``(accelerators + 1,)``."""
    load_s = np.zeros(accelerators + 1)
    for v, at in enumerate(device.tolist()):
        load_s[at] += problem.cpu_s[v] / problem.cpu_workers if at == HOST else problem.gpu_s[v]
    for tensor in problem.tensors:
        source = int(device[tensor.producer])
        readers = set(device[list(tensor.consumers)].tolist())
        for at in readers - {source, HOST}:
            load_s[at] += tensor.h2d_s
        if source != HOST and readers - {source}:
            load_s[source] += tensor.d2h_s
    return load_s


def divide(problem: Problem, accelerators: int, limits: Limits | None = None) -> Division:
    """Return the contiguous division with the smallest largest load.

    The optimum where the graph has at most `MOST_SETS` closed sets; beyond, the best of the prefixes of one
    topological order.

    Args:
        problem: The costs; its GPU costs are those of one accelerator.
        accelerators: How many there are.
        limits: Bytes that one accelerator holds; a limit on latency is not looked at.

    Raises:
        PlanError: If no contiguous division keeps the limit.
    """
    limit = (limits or Limits()).gpu_bytes
    closed = _closed_sets(problem)
    optimal = closed is not None
    sets = _Sets(problem, closed if closed is not None else _prefixes(problem))
    device = _Program(sets, accelerators, limit).best()
    if device is None:
        raise PlanError(
            f"no division into contiguous pieces fits {accelerators} accelerators of {limit:.0f} bytes",
            cause=f"all ops hold {problem.gpu_bytes.sum():.0f} bytes",
            hint="allow more memory or more accelerators, or let more ops run on the CPU",
        )
    return Division(device=device, load_s=device_loads(problem, device, accelerators), optimal=optimal)


def _closed_sets(problem: Problem) -> BoolArray | None:
    """Return every closed set by size, shape ``(sets, ops)``, or None if there are more than `MOST_SETS`."""
    before = [sum(1 << u for u in _predecessors(problem, v)) for v in range(problem.size)]
    level, found = [0], [0]
    while level:
        larger = {
            known | 1 << v for known in level for v in range(problem.size) if not known >> v & 1 and before[v] & ~known == 0
        }
        found += sorted(larger)
        if len(found) > MOST_SETS:
            return None
        level = sorted(larger)
    return np.array([[known >> v & 1 for v in range(problem.size)] for known in found], dtype=np.bool_)


def _predecessors(problem: Problem, v: int) -> set[int]:
    return {problem.tensors[e].producer for e in problem.topology.consumed[v]}


def _prefixes(problem: Problem) -> BoolArray:
    """Return the prefixes of one topological order, shape ``(ops + 1, ops)``."""
    result = np.zeros((problem.size + 1, problem.size), dtype=np.bool_)
    for length, v in enumerate(problem.topology.order, start=1):
        result[length] = result[length - 1]
        result[length, v] = True
    return result


class _Sets:
    """Closed sets and the loads of the pieces between them."""

    def __init__(self, problem: Problem, member: BoolArray) -> None:
        self.member = member
        self.packed = np.packbits(member, axis=1)
        graph = problem.topology
        self.h2d_s, d2h_s = graph.h2d_s, graph.d2h_s
        on_cpu, on_gpu = problem.on_cpu, problem.on_gpu
        self.cpu_s = member @ (np.where(on_cpu, problem.cpu_s, 0.0) / problem.cpu_workers)
        self.gpu_s = member @ np.where(on_gpu, problem.gpu_s, 0.0)
        self.bytes = member @ problem.gpu_bytes
        self.not_cpu = member.astype(np.int64) @ (~on_cpu).astype(np.int64)
        self.not_gpu = member.astype(np.int64) @ (~on_gpu).astype(np.int64)
        # Of each tensor: is it made, and how many readers has it got, inside each set.
        self.made = member[:, graph.producer]
        self.read = np.zeros((len(member), len(graph.producer)), dtype=np.int64)
        if len(graph.producer):
            self.read = np.add.reduceat(member[:, graph.consumer].astype(np.int64), graph.first_consumer[:-1], axis=1)
        self.leaves_s = (self.read < np.diff(graph.first_consumer)) * d2h_s

    def inside(self, larger: int) -> IntArray:
        """Return the closed sets that the set `larger` holds, itself left out."""
        held = (self.packed[: larger + 1] & ~self.packed[larger]).any(axis=1)
        chosen = np.flatnonzero(~held)
        smaller: IntArray = chosen[chosen != larger]
        return smaller

    def loads(self, larger: int, smaller: IntArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return what the ops of `larger` outside each of `smaller` cost the CPU and an accelerator, and their bytes."""
        cpu = self.cpu_s[larger] - self.cpu_s[smaller]
        gpu = self.gpu_s[larger] - self.gpu_s[smaller]
        comes = (self.made[smaller] & (self.read[larger] > self.read[smaller])) @ self.h2d_s
        leaves = (~self.made[smaller] & self.made[larger]) @ self.leaves_s[larger]
        gpu = gpu + comes + leaves
        cpu = np.where(self.not_cpu[larger] > self.not_cpu[smaller], np.inf, cpu)
        gpu = np.where(self.not_gpu[larger] > self.not_gpu[smaller], np.inf, gpu)
        return cpu, gpu, self.bytes[larger] - self.bytes[smaller]


class _Program:
    """The dynamic program: for each closed set, the least largest load with so many devices used."""

    def __init__(self, sets: _Sets, accelerators: int, limit_bytes: float) -> None:
        self.sets, self.accelerators, self.limit = sets, accelerators, limit_bytes
        count = len(sets.member)
        # value[set, accelerators used, whether the CPU is used]
        self.value = np.full((count, accelerators + 1, 2), np.inf)
        self.value[0] = 0.0
        self.before = np.full((count, accelerators + 1, 2), -1, dtype=np.int64)
        self.by_cpu = np.zeros((count, accelerators + 1, 2), dtype=np.bool_)
        for larger in range(1, count):
            self._fill(larger)

    def _fill(self, larger: int) -> None:
        smaller = self.sets.inside(larger)
        cpu, gpu, size = self.sets.loads(larger, smaller)
        gpu = np.where(size > self.limit, np.inf, gpu)
        for used in range(self.accelerators + 1):
            for host in (0, 1):
                options = []
                if used:
                    options.append((np.maximum(self.value[smaller, used - 1, host], gpu), False))
                if host:
                    options.append((np.maximum(self.value[smaller, used, 0], cpu), True))
                for values, by_cpu in options:
                    best = int(values.argmin())
                    if values[best] < self.value[larger, used, host]:
                        self.value[larger, used, host] = values[best]
                        self.before[larger, used, host] = smaller[best]
                        self.by_cpu[larger, used, host] = by_cpu

    def best(self) -> IntArray | None:
        """Return the device of each op, or None if nothing fits."""
        at, used, host = len(self.sets.member) - 1, self.accelerators, 1
        if not np.isfinite(self.value[at, used, host]):
            return None
        device = np.zeros(self.sets.member.shape[1], dtype=np.int64)
        while at:
            before, by_cpu = int(self.before[at, used, host]), bool(self.by_cpu[at, used, host])
            piece = self.sets.member[at] & ~self.sets.member[before]
            device[piece] = HOST if by_cpu else used
            used, host, at = (used, 0, before) if by_cpu else (used - 1, host, before)
        return _renumbered(device)


def _renumbered(device: IntArray) -> IntArray:
    """Return the devices with the accelerators in use numbered from 1."""
    used = sorted({at for at in device.tolist() if at != HOST})
    names = {HOST: HOST} | {at: number for number, at in enumerate(used, start=1)}
    return np.array([names[at] for at in device.tolist()], dtype=np.int64)


def device_names(device: Sequence[int]) -> list[str]:
    """Return the devices as plans name them: ``cpu``, ``gpu:0``, ``gpu:1``."""
    return ["cpu" if at == HOST else f"gpu:{at - 1}" for at in device]
