"""A placement that changes one op at a time: demands and pipeline positions kept up to date by difference.

The planner's polish makes tens of thousands of moves; each costs the degree of the op here, not the size of the model.
Sums drift by rounding, so a result is always evaluated afresh before it is believed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from cutset.partitioner.evaluation import demands
from cutset.partitioner.phases import Window, at_least, at_most, earliest, latest
from cutset.partitioner.problem import CPU, GPU, Placement, Problem


class Devices:
    """The device of each op and the demands of the whole.

    Attributes:
        device: 0 or 1 for each op.
        demand_s: Seconds a request from each of `RESOURCES`, without stage overheads.
        gpu_bytes: Bytes on the GPU.
    """

    def __init__(self, problem: Problem, placement: Placement) -> None:
        graph = problem.topology
        self.device: list[int] = placement.tolist()
        self.demand_s: list[float] = demands(problem, placement).tolist()
        self._bytes: list[float] = problem.gpu_bytes.tolist()
        self.gpu_bytes = float(problem.gpu_bytes[placement == GPU].sum())
        self._cost = (problem.cpu_s.tolist(), problem.gpu_s.tolist())
        self._copy: tuple[list[float], list[float]] = (graph.h2d_s.tolist(), graph.d2h_s.tolist())
        self._tensors = [(t.producer, len(t.consumers)) for t in problem.tensors]
        self._produced, self._consumed = graph.produced, graph.consumed
        # Consumers of each tensor by device: a tensor crosses while the other side's count is not zero.
        self._readers = [[0, 0] for _ in problem.tensors]
        for readers, tensor in zip(self._readers, problem.tensors, strict=True):
            for v in tensor.consumers:
                readers[self.device[v]] += 1

    def difference(self, v: int) -> tuple[float, float, float, float]:
        """Return what moving op `v` to its other device adds to each demand."""
        here = self.device[v]
        there = 1 - here
        copy = [0.0, 0.0]  # by destination: to the CPU, to the GPU
        for e in self._produced[v]:
            readers = self._readers[e]
            if readers[there]:
                copy[there] -= self._copy_to(there, e)
            if readers[here]:
                copy[here] += self._copy_to(here, e)
        for e in self._consumed[v]:
            producer, _ = self._tensors[e]
            if self.device[producer] == here:
                if not self._readers[e][there]:
                    copy[there] += self._copy_to(there, e)
            elif self._readers[e][here] == 1:
                copy[here] -= self._copy_to(here, e)
        leave, enter = -self._cost[here][v], self._cost[there][v]
        return (leave, enter, copy[GPU], copy[CPU]) if here == CPU else (enter, leave, copy[GPU], copy[CPU])

    def _copy_to(self, device: int, tensor: int) -> float:
        return self._copy[0 if device == GPU else 1][tensor]

    def flip(self, v: int) -> None:
        """Move op `v` to its other device."""
        for resource, change in enumerate(self.difference(v)):
            self.demand_s[resource] += change
        here = self.device[v]
        self.gpu_bytes += self._bytes[v] if here == CPU else -self._bytes[v]
        for e in self._consumed[v]:
            self._readers[e][here] -= 1
            self._readers[e][1 - here] += 1
        self.device[v] = 1 - here


class Positions:
    """The earliest and latest chain position of each op under a changing placement.

    Attributes:
        early: Smallest position of each op; -1 for pseudo-ops.
        late: Largest position of each op; -1 for pseudo-ops.
    """

    def __init__(self, problem: Problem, device: list[int], window: Window) -> None:
        self._graph = problem.topology
        self._device = device
        self._window = window
        self.early = earliest(problem, device, window.low)
        self.late = latest(problem, device, window.high)

    def allows(self, v: int) -> bool:
        """Return whether the placement stays in the window if op `v` alone changes sides.

        Positions before and after an op do not depend on the op itself, so the two ends of its new range decide.
        """
        other = 1 - self._device[v]
        return self._earliest(v, other) <= self._latest(v, other)

    def flipped(self, v: int) -> None:
        """Bring positions up to date after op `v` changed sides in the shared device list."""
        order = self._graph.position
        self._spread(v, self.early, self._earliest, self._graph.successors, order)
        self._spread(v, self.late, self._latest, self._graph.predecessors, [-place for place in order])

    def _earliest(self, v: int, device: int) -> int:
        return at_least([self.early[u] for u in self._graph.predecessors[v]], self._window.low, device)

    def _latest(self, v: int, device: int) -> int:
        return at_most([self.late[w] for w in self._graph.successors[v]], self._window.high, device)

    def _spread(
        self,
        start: int,
        labels: list[int],
        label_of: Callable[[int, int], int],
        onward: tuple[tuple[int, ...], ...],
        rank: tuple[int, ...] | list[int],
    ) -> None:
        queue, queued = [(rank[start], start)], {start}
        while queue:
            _, v = heapq.heappop(queue)
            label = label_of(v, self._device[v])
            if label == labels[v]:
                continue
            labels[v] = label
            for w in onward[v]:
                if w not in queued:
                    queued.add(w)
                    heapq.heappush(queue, (rank[w], w))
