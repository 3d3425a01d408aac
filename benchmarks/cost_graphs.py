"""Seeded cost graphs for the planner's benchmark: three shapes of graph under three ratios of GPU to CPU speed.

Costs are drawn in nanoseconds and kept in seconds. An op is heavy (a convolution), elementwise, small (shape
arithmetic), or one that only the CPU can run; a tensor has one price a direction, a fixed part and its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import networkx as nx
import numpy as np

from cutset.partitioner.problem import Problem, Tensor

Edges = set[tuple[int, int]]
KINDS = ("heavy", "elementwise", "small", "cpu-only")
SHARES = (0.4, 0.3, 0.2, 0.1)
BLOCK_SHARES = (0.45, 0.3, 0.2, 0.05)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How a machine's two sides compare.

    Attributes:
        speedup: Least and most times that a heavy op is quicker on the GPU.
        copy_s: Fixed seconds of a copy.
        bytes_per_s: Sustained rate of a copy.
        cpu_workers: Workers of the CPU stages.
    """

    speedup: tuple[float, float]
    copy_s: float
    bytes_per_s: float
    cpu_workers: int

    def copies(self, size_bytes: float) -> tuple[float, float]:
        """Return the seconds to the GPU and back; the way back is a tenth slower, as measured on PCIe."""
        seconds = self.copy_s + size_bytes / self.bytes_per_s
        return seconds, 1.1 * seconds


REGIMES = {
    "server": Regime(speedup=(40, 120), copy_s=10e-6, bytes_per_s=20e9, cpu_workers=16),
    "edge": Regime(speedup=(5, 15), copy_s=12e-6, bytes_per_s=8e9, cpu_workers=4),
    "even": Regime(speedup=(1.5, 4), copy_s=8e-6, bytes_per_s=10e9, cpu_workers=2),
}


def layered(rng: np.random.Generator, size: int) -> tuple[Edges, list[str]]:
    """Return a graph of narrow layers with a few edges that skip some."""
    width = int(rng.integers(2, 5))
    layers: list[list[int]] = []
    first = 0
    while first < size:
        count = int(min(size - first, rng.integers(1, width + 1)))
        layers.append(list(range(first, first + count)))
        first += count
    edges: Edges = set()
    for level in range(1, len(layers)):
        before = layers[level - 1]
        for v in layers[level]:
            chosen = rng.choice(before, size=min(len(before), int(rng.integers(1, 3))), replace=False)
            edges.update((int(u), v) for u in chosen)
            if level > 1 and rng.random() < 0.15:
                edges.add((int(rng.choice(layers[int(rng.integers(0, level - 1))])), v))
    return edges, rng.choice(KINDS, size=size, p=SHARES).tolist()


def series_parallel(rng: np.random.Generator, size: int) -> tuple[Edges, list[str]]:
    """Return a series-parallel graph, grown by subdividing edges and adding branches."""
    edges = [(0, 1)]
    for fresh in range(2, size):
        chosen = int(rng.integers(len(edges)))
        u, v = edges[chosen]
        if rng.random() < 0.6:
            edges[chosen] = (u, fresh)
            edges.append((fresh, v))
        else:
            edges += [(u, fresh), (fresh, v)]
    order = nx.lexicographical_topological_sort(nx.DiGraph(edges))
    place = {v: position for position, v in enumerate(order)}
    return {(place[u], place[v]) for u, v in edges}, rng.choice(KINDS, size=size, p=SHARES).tolist()


class _Blocks:
    """Grows a chain of blocks; `end` is the op that the next block reads."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.edges: Edges = set()
        self.kinds = ["elementwise"]
        self.end = 0

    def add(self, kind: str, *sources: int) -> int:
        """Add an op that reads `sources` and return it."""
        self.kinds.append(kind)
        v = len(self.kinds) - 1
        self.edges.update((u, v) for u in sources)
        return v

    def any_kind(self) -> str:
        """Return a kind drawn as in real networks."""
        return str(self.rng.choice(KINDS, p=BLOCK_SHARES))

    def residual(self) -> None:
        """Add two heavy ops with a shortcut around them."""
        inner = self.add("heavy", self.add("elementwise", self.add("heavy", self.end)))
        self.end = self.add("elementwise", inner, self.end)

    def branches(self) -> None:
        """Add two or three branches that are joined."""
        count = int(self.rng.integers(2, 4))
        ends = [self.add(self.any_kind(), self.add("heavy", self.end)) for _ in range(count)]
        self.end = self.add("small", *ends)

    def shapes(self) -> None:
        """Add shape arithmetic beside a heavy op."""
        arithmetic = self.add("small", self.add("small", self.end))
        self.end = self.add("small", arithmetic, self.add("heavy", self.end))

    def single(self) -> None:
        """Add one op."""
        self.end = self.add(self.any_kind(), self.end)


def blocks(rng: np.random.Generator, size: int) -> tuple[Edges, list[str]]:
    """Return a chain of residual, branching and shape-arithmetic blocks of at least `size` ops."""
    grown = _Blocks(rng)
    while len(grown.kinds) < size:
        draw = rng.random()
        step = next(
            step
            for limit, step in ((0.35, grown.residual), (0.6, grown.branches), (0.75, grown.shapes), (1.0, grown.single))
            if draw < limit
        )
        step()
    return grown.edges, grown.kinds


SHAPES: dict[str, Callable[[np.random.Generator, int], tuple[Edges, list[str]]]] = {
    "layered": layered,
    "series-parallel": series_parallel,
    "blocks": blocks,
}


def _op_costs(rng: np.random.Generator, kind: str, regime: Regime) -> tuple[float, float]:
    if kind == "heavy":
        cpu = rng.lognormal(np.log(2e-3), 1.0)
        return cpu, max(4e-6, cpu / rng.uniform(*regime.speedup))
    if kind == "elementwise":
        cpu = rng.lognormal(np.log(60e-6), 0.8)
        return cpu, max(2.5e-6, cpu / rng.uniform(2, 12))
    if kind == "small":
        return rng.lognormal(np.log(3e-6), 0.5), rng.uniform(3e-6, 8e-6)
    return rng.lognormal(np.log(30e-6), 1.0), np.inf


def costed(rng: np.random.Generator, edges: Iterable[tuple[int, int]], kinds: list[str], regime: Regime) -> Problem:
    """Return a graph with costs, its inputs and outputs on the host; one tensor an op."""
    count = len(kinds)
    costs = [_op_costs(rng, kind, regime) for kind in kinds] + [(0.0, np.inf)] * 2
    readers: list[list[int]] = [[] for _ in range(count)]
    fed: set[int] = set()
    for u, v in sorted(edges):
        readers[u].append(v)
        fed.add(v)
    ends: list[tuple[int, tuple[int, ...], float]] = [
        (u, tuple(found) or (count + 1,), rng.lognormal(np.log(200e3), 1.6) if found else 4000.0)
        for u, found in enumerate(readers)
    ]
    ends.append((count, tuple(v for v in range(count) if v not in fed), rng.lognormal(np.log(200e3), 1.6)))
    tensors = []
    for producer, consumers, size_bytes in ends:
        h2d_s, d2h_s = regime.copies(size_bytes)
        tensors.append(Tensor(name=f"t{producer}", producer=producer, consumers=consumers, h2d_s=h2d_s, d2h_s=d2h_s))
    return Problem(
        names=(*(f"op{v}" for v in range(count)), "<input>", "<output>"),
        cpu_s=np.array([cpu for cpu, _ in costs]),
        gpu_s=np.array([gpu for _, gpu in costs]),
        tensors=tuple(tensors),
        pseudo=frozenset({count, count + 1}),
        cpu_workers=regime.cpu_workers,
    )


def random_problem(seed: int, size: int, shape: str, regime: str) -> Problem:
    """Return the cost graph of a seed; `blocks` may exceed `size` by one block."""
    rng = np.random.default_rng(seed)
    edges, kinds = SHAPES[shape](rng, size)
    return costed(rng, edges, kinds, REGIMES[regime])
