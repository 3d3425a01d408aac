"""Stages of a placement: the fewest alternating CPU/GPU phases that keep every dependency pointing forward.

Labels live on one chain whose even positions are the CPU and whose odd ones are the GPU, so a label's parity is its
device and a label never falls along an edge. A chain that begins with the GPU leaves position 0 empty. Pseudo-ops have
no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.problem import CPU, GPU, IntArray, Placement, Problem

UNLABELLED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The chain positions `low` to `high`, both included, that real ops may use."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stages:
    """The stages of one placement.

    Attributes:
        count: Number of stages.
        first: Device of stage 0.
        labels: Stage of each op, shape ``(ops,)``; -1 for pseudo-ops. Stage ``k`` is on device ``(first + k) % 2``.
    """

    count: int
    first: int
    labels: IntArray

    def on(self, device: int) -> int:
        """Return how many stages run on a device."""
        return (self.count + (1 if self.first == device else 0)) // 2


def windows(max_stages: int) -> tuple[Window, Window]:
    """Return the chains of at most `max_stages` stages that begin with the CPU and with the GPU."""
    return Window(low=CPU, high=CPU + max_stages - 1), Window(low=GPU, high=GPU + max_stages - 1)


def earliest(problem: Problem, placement: Sequence[int], low: int) -> list[int]:
    """Return the smallest chain position of each op, at least `low`; `UNLABELLED` for pseudo-ops."""
    labels = [UNLABELLED] * problem.size
    predecessors = problem.topology.predecessors
    for v in problem.topology.order:
        if v not in problem.pseudo:
            labels[v] = at_least([labels[u] for u in predecessors[v]], low, placement[v])
    return labels


def latest(problem: Problem, placement: Sequence[int], high: int) -> list[int]:
    """Return the largest chain position of each op, at most `high`; `UNLABELLED` for pseudo-ops."""
    labels = [UNLABELLED] * problem.size
    successors = problem.topology.successors
    for v in reversed(problem.topology.order):
        if v not in problem.pseudo:
            labels[v] = at_most([labels[w] for w in successors[v]], high, placement[v])
    return labels


def at_least(before: Sequence[int], low: int, device: int) -> int:
    """Return the smallest position on `device` that is at least `low` and every position in `before`."""
    label = max(before, default=low)
    label = max(label, low)
    return label + ((label & 1) != device)


def at_most(after: Sequence[int], high: int, device: int) -> int:
    """Return the largest position on `device` that is at most `high` and every position in `after`."""
    label = min(after, default=high)
    label = min(label, high)
    return label - ((label & 1) != device)


def stages_of(problem: Problem, placement: Placement) -> Stages:
    """Return the fewest stages of a placement; a chain that begins with the CPU wins a tie.

    Longest-path labelling: an op's stage is the largest number of device changes on any path that reaches it, counted
    from the chain's first device, so no labelling has fewer.
    """
    devices = placement.tolist()
    best: Stages | None = None
    for first in (CPU, GPU):
        chain = earliest(problem, devices, first)
        count = max(chain, default=UNLABELLED) - first + 1
        if max(chain, default=UNLABELLED) == UNLABELLED:
            count = 0
        if best is None or count < best.count:
            labels = np.array([label - first if label >= 0 else UNLABELLED for label in chain], dtype=np.int64)
            best = Stages(count=count, first=first, labels=labels)
    assert best is not None
    return best


def forced_range(problem: Problem, window: Window) -> tuple[list[int], list[int]] | None:
    """Return the earliest and latest position any placement can give each op, or None if the window is too short.

    Only ops tied to one device count; a free op takes whatever position it is reached with.
    """
    devices = _tied_devices(problem)
    low, high = [UNLABELLED] * problem.size, [UNLABELLED] * problem.size
    graph = problem.topology
    for v in graph.order:
        if v not in problem.pseudo:
            label = max([window.low, *(low[u] for u in graph.predecessors[v])])
            low[v] = label + (devices[v] is not None and (label & 1) != devices[v])
    for v in reversed(graph.order):
        if v not in problem.pseudo:
            label = min([window.high, *(high[w] for w in graph.successors[v])])
            high[v] = label - (devices[v] is not None and (label & 1) != devices[v])
    return None if any(a > b for a, b in zip(low, high, strict=True)) else (low, high)


def fewest_stages(problem: Problem) -> tuple[int, list[int]]:
    """Return the fewest stages any placement has, and the tied ops along a path that forces them, in order."""
    devices = _tied_devices(problem)
    results = []
    for first in (CPU, GPU):
        path: dict[int, list[int]] = {}
        label: dict[int, int] = {}
        for v in problem.topology.order:
            if v in problem.pseudo:
                continue
            before = max(problem.topology.predecessors[v], key=lambda u: label[u], default=None)
            reached, trail = (first, []) if before is None else (label[before], path[before])
            bumped = devices[v] is not None and (reached & 1) != devices[v]
            # The first tied op on the way belongs to the story even where it needs no new stage.
            joins = bumped or (devices[v] is not None and not trail)
            label[v], path[v] = reached + bumped, [*trail, v] if joins else trail
        last = max(label, key=lambda v: label[v], default=None)
        results.append((0, []) if last is None else (label[last] - first + 1, path[last]))
    return min(results, key=lambda result: result[0])


def require_stages(problem: Problem, max_stages: int | None) -> None:
    """Check that some placement has at most `max_stages` stages.

    Raises:
        PlanError: If the ops tied to one device force more; the message names them in order.
    """
    if max_stages is None:
        return
    if max_stages < 1:
        raise ValueError(f"max_stages is {max_stages}, must be at least 1")
    needed, path = fewest_stages(problem)
    if needed > max_stages:
        devices = _tied_devices(problem)
        story = " -> ".join(f"`{problem.names[v]}` ({'GPU' if devices[v] == GPU else 'CPU'} only)" for v in path)
        raise PlanError(
            f"no placement fits in {max_stages} stages, this model needs {needed}",
            cause=f"one path passes {story}",
            hint=f"allow `--max-stages {needed}`, or unpin one of these ops",
        )


def _tied_devices(problem: Problem) -> list[int | None]:
    return [
        None if cpu and gpu else (CPU if cpu else GPU)
        for cpu, gpu in zip(problem.on_cpu.tolist(), problem.on_gpu.tolist(), strict=True)
    ]
