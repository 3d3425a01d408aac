"""The planner's input: what every op and tensor costs on each side, as plain numbers.

A `Problem` knows nothing of ONNX, devices or files. It is checked once, when it is made; every other module of the
planner relies on that and checks nothing again.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cutset.errors import PlanError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Placement = npt.NDArray[np.int8]

CPU, GPU = 0, 1
RESOURCES = ("cpu", "gpu", "h2d", "d2h")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """A value that may have to move between host and device.

    The cost belongs to the tensor, not to an edge: it is paid once a direction however many consumers there are.

    Attributes:
        name: Name of the value.
        producer: Index of the op that makes it.
        consumers: Indices of the ops that read it; kept distinct, sorted and without the producer.
        h2d_s: Seconds a request to copy it to the GPU.
        d2h_s: Seconds a request to copy it to the host.

    Source:
        Tarnawski et al., "Efficient algorithms for device placement of DNN graph operators", NeurIPS 2020.
    """

    name: str
    producer: int
    consumers: tuple[int, ...]
    h2d_s: float
    d2h_s: float

    def __post_init__(self) -> None:
        # An op that reads a value twice still receives it once.
        object.__setattr__(self, "consumers", tuple(sorted(set(self.consumers) - {self.producer})))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Topology:
    """The shape of a problem, derived once.

    Attributes:
        order: Op indices in topological order, the smallest ready index first.
        position: Inverse of `order`.
        predecessors: For each real op the real ops it reads from, sorted.
        successors: For each real op the real ops that read from it, sorted.
        produced: For each op the indices of its tensors.
        consumed: For each op the indices of the tensors it reads.
        producer: Producer of each tensor, shape ``(tensors,)``.
        consumer: Consumers of all tensors one after the other.
        first_consumer: Where each tensor's consumers begin in `consumer`, shape ``(tensors + 1,)``.
        h2d_s: Seconds of each tensor to the GPU, shape ``(tensors,)``.
        d2h_s: Seconds of each tensor to the host, shape ``(tensors,)``.
    """

    order: tuple[int, ...]
    position: tuple[int, ...]
    predecessors: tuple[tuple[int, ...], ...]
    successors: tuple[tuple[int, ...], ...]
    produced: tuple[tuple[int, ...], ...]
    consumed: tuple[tuple[int, ...], ...]
    producer: IntArray
    consumer: IntArray
    first_consumer: IntArray
    h2d_s: FloatArray
    d2h_s: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Everything the planner may know about one model on one machine.

    Attributes:
        names: Name of each op.
        cpu_s: Seconds a request on one CPU worker; infinite where the op cannot run or was pinned away.
        gpu_s: Seconds a request on the GPU; infinite likewise.
        tensors: Values that may cross; those without a consumer are dropped.
        pseudo: Indices of the model's inputs and outputs: on the CPU, free, counted in no stage.
        cpu_workers: Workers that serve CPU stages.
        gpu_count: GPUs that serve GPU stages, each request on one. Copies have one engine a direction.
        cpu_stage_s: Seconds a request that each CPU stage adds to the CPU.
        gpu_stage_s: Seconds a request that each GPU stage adds to the GPU.
        min_gpu_ops: GPU stages with fewer real ops than this are not worth building.
        gpu_bytes: Bytes each op keeps on the GPU, its weights; nothing by default.
        unit: What a time is counted in, for messages: seconds, or the unit of a bare cost graph, which has no name.
        copies_overlap: Whether copies run beside the GPU's work; otherwise it waits for them.
        whole_cpu_s: Measured seconds of the unsplit model on one core, if known.
        whole_cores: Cores that can each run a replica of the unsplit model.
        topology: Derived.

    Raises:
        PlanError: If a cost is negative or not a number, an op can run nowhere, or the ops form a cycle.
        ValueError: If lengths or indices do not agree (a mistake of the caller, not of the user).
    """

    names: tuple[str, ...]
    cpu_s: FloatArray
    gpu_s: FloatArray
    tensors: tuple[Tensor, ...]
    pseudo: frozenset[int] = frozenset()
    cpu_workers: int = 1
    gpu_count: int = 1
    cpu_stage_s: float = 0.0
    gpu_stage_s: float = 0.0
    min_gpu_ops: int = 0
    gpu_bytes: FloatArray = field(default_factory=lambda: np.zeros(0))
    copies_overlap: bool = True
    unit: str = "s"
    whole_cpu_s: float | None = None
    whole_cores: int = 1
    topology: Topology = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cpu_s", _frozen_costs(self.cpu_s))
        object.__setattr__(self, "gpu_s", _frozen_costs(self.gpu_s))
        object.__setattr__(self, "gpu_bytes", _frozen_costs(self.gpu_bytes if self.gpu_bytes.size else np.zeros(self.size)))
        object.__setattr__(self, "tensors", tuple(t for t in self.tensors if t.consumers))
        _check_shape(self)
        _check_costs(self)
        object.__setattr__(self, "topology", _topology(self))

    @property
    def size(self) -> int:
        """Number of ops, pseudo-ops included."""
        return len(self.names)

    @property
    def real(self) -> BoolArray:
        """Mask of the ops that are not pseudo-ops, shape ``(ops,)``."""
        mask = np.ones(self.size, dtype=np.bool_)
        mask[sorted(self.pseudo)] = False
        return mask

    @property
    def on_cpu(self) -> BoolArray:
        """Mask of the ops that can run on the CPU, shape ``(ops,)``."""
        return np.isfinite(self.cpu_s)

    @property
    def on_gpu(self) -> BoolArray:
        """Mask of the ops that can run on the GPU, shape ``(ops,)``."""
        return np.isfinite(self.gpu_s)

    @property
    def movable(self) -> BoolArray:
        """Mask of the ops that can run on either side, shape ``(ops,)``."""
        return self.on_cpu & self.on_gpu

    def time(self, value: float) -> str:
        """Return a time as messages show it."""
        return f"{value * 1e3:.6g} ms" if self.unit == "s" else f"{value:.6g}{self.unit}"

    @property
    def total_s(self) -> float:
        """Sum of all finite costs: no possible placement's demands exceed it."""
        costs = np.concatenate([self.cpu_s, self.gpu_s, self.topology.h2d_s, self.topology.d2h_s])
        stages = self.size * (self.cpu_stage_s + self.gpu_stage_s)
        return float(costs[np.isfinite(costs)].sum()) + stages

    @property
    def servers(self) -> FloatArray:
        """Parallel servers of each of `RESOURCES`, shape ``(4,)``."""
        return np.array([self.cpu_workers, self.gpu_count, 1, 1], dtype=np.float64)

    @property
    def shares(self) -> FloatArray:
        """What a second of each of `RESOURCES` adds to the load of each server, shape ``(servers, 4)``.

        The largest load is the time between requests at full load. Server ``i`` is named after ``RESOURCES[i]``.
        """
        if self.copies_overlap:
            return np.diag(1 / self.servers)
        return np.array([[1 / self.cpu_workers, 0, 0, 0], [0, *[1 / self.gpu_count] * 3]])


def _frozen_costs(values: FloatArray) -> FloatArray:
    costs = np.array(values, dtype=np.float64)
    costs.flags.writeable = False
    return costs


def _check_shape(problem: Problem) -> None:
    size = len(problem.names)
    shapes = {problem.cpu_s.shape, problem.gpu_s.shape, problem.gpu_bytes.shape}
    if shapes != {(size,)}:
        raise ValueError(f"{size} names, costs of shape {sorted(shapes)}")
    ends = {v for tensor in problem.tensors for v in (tensor.producer, *tensor.consumers)} | problem.pseudo
    if any(not 0 <= v < size for v in ends):
        raise ValueError(f"an op index is outside 0..{size - 1}")
    if problem.cpu_workers < 1 or problem.gpu_count < 1 or problem.whole_cores < 1 or problem.min_gpu_ops < 0:
        raise ValueError("cpu_workers, gpu_count and whole_cores are at least 1, min_gpu_ops at least 0")
    produces = {tensor.producer for tensor in problem.tensors}
    consumes = {v for tensor in problem.tensors for v in tensor.consumers}
    through = problem.pseudo & produces & consumes
    if through or any(problem.cpu_s[v] != 0 or np.isfinite(problem.gpu_s[v]) for v in problem.pseudo):
        raise ValueError("a pseudo-op is a pure source or sink, free on the CPU and impossible on the GPU")


def _check_costs(problem: Problem) -> None:
    for device, costs in (("CPU", problem.cpu_s), ("GPU", problem.gpu_s)):
        wrong = np.flatnonzero(~(costs >= 0))  # true for NaN too
        if wrong.size:
            v = int(wrong[0])
            raise PlanError(f"op `{problem.names[v]}` has the {device} cost {costs[v]}", hint="profile the model again")
    if not (np.isfinite(problem.gpu_bytes) & (problem.gpu_bytes >= 0)).all():
        raise PlanError("the bytes of an op on the GPU are negative or not a number", hint="profile the model again")
    nowhere = np.flatnonzero(~np.isfinite(problem.cpu_s) & ~np.isfinite(problem.gpu_s))
    if nowhere.size:
        name = problem.names[int(nowhere[0])]
        raise PlanError(f"op `{name}` can run on neither device", hint=f"remove the pin of `{name}`, or add a backend")
    for tensor in problem.tensors:
        if not (0 <= tensor.h2d_s < math.inf and 0 <= tensor.d2h_s < math.inf):
            raise PlanError(f"tensor `{tensor.name}` costs {tensor.h2d_s} s to the GPU and {tensor.d2h_s} s back")
    fixed = {"cpu_stage_s": problem.cpu_stage_s, "gpu_stage_s": problem.gpu_stage_s, "whole_cpu_s": problem.whole_cpu_s}
    for name, value in fixed.items():
        if value is not None and not 0 <= value < math.inf:
            raise PlanError(f"`{name}` is {value}, not a time in seconds")


def _topology(problem: Problem) -> Topology:
    size, tensors = problem.size, problem.tensors
    produced: list[list[int]] = [[] for _ in range(size)]
    consumed: list[list[int]] = [[] for _ in range(size)]
    successors: list[set[int]] = [set() for _ in range(size)]
    for index, tensor in enumerate(tensors):
        produced[tensor.producer].append(index)
        for v in tensor.consumers:
            consumed[v].append(index)
            successors[tensor.producer].add(v)
    order = _topological_order(problem, successors)
    position = [0] * size
    for place, v in enumerate(order):
        position[v] = place
    real_successors = [sorted(s - problem.pseudo) if v not in problem.pseudo else [] for v, s in enumerate(successors)]
    predecessors: list[list[int]] = [[] for _ in range(size)]
    for v, targets in enumerate(real_successors):
        for w in targets:
            predecessors[w].append(v)
    counts = np.array([0, *(len(t.consumers) for t in tensors)], dtype=np.int64)
    return Topology(
        order=tuple(order),
        position=tuple(position),
        predecessors=_nested(predecessors),
        successors=_nested(real_successors),
        produced=_nested(produced),
        consumed=_nested(consumed),
        producer=np.array([t.producer for t in tensors], dtype=np.int64),
        consumer=np.array([v for t in tensors for v in t.consumers], dtype=np.int64),
        first_consumer=np.cumsum(counts),
        h2d_s=np.array([t.h2d_s for t in tensors], dtype=np.float64),
        d2h_s=np.array([t.d2h_s for t in tensors], dtype=np.float64),
    )


def _nested(lists: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(entries) for entries in lists)


def _topological_order(problem: Problem, successors: list[set[int]]) -> list[int]:
    waiting = [0] * problem.size
    for targets in successors:
        for w in targets:
            waiting[w] += 1
    ready = [v for v, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        v = heapq.heappop(ready)
        order.append(v)
        for w in successors[v]:
            waiting[w] -= 1
            if waiting[w] == 0:
                heapq.heappush(ready, w)
    if len(order) < problem.size:
        stuck = [problem.names[v] for v, count in enumerate(waiting) if count]
        raise PlanError(f"the ops around `{stuck[0]}` depend on each other in a cycle", cause=", ".join(stuck[:8]))
    return order
