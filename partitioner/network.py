"""The s-t network whose minimum cut is the cheapest placement at given prices.

The source side of a boundary node means "this op's label is below the boundary". A `Template` is the shape, built once
for a problem; `price` is the only function that sets capacities, and it sets every one. Capacities are integers: float
flows return wrong partitions. An op tied to one device *is* a terminal for the boundaries it cannot cross, so no
capacity stands in for infinity there.

Two templates share the machinery. The free one has one boundary and both copy directions: its cut is the exact optimum.
The chain one has a boundary between every two stages of a pipeline and forbids labels that fall along an edge; a tensor
pays at each boundary it spans, so its cut proposes good pipelines but bounds nothing.

Source:
    Greig, Porteous and Seheult, "Exact maximum a posteriori estimation for binary images", 1989 (two labels);
    Ishikawa, "Exact optimization for Markov random fields with convex priors", PAMI 2003 (ordered labels).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise

import networkx as nx
import numpy as np

from cutset.partitioner.evaluation import demands
from cutset.partitioner.phases import Window, forced_range
from cutset.partitioner.problem import CPU, GPU, FloatArray, IntArray, Placement, Problem

SOURCE, SINK = 0, 1
HARD, H2D, D2H = 0, 2, 3  # 2 and 3 index the price vector

# scipy's flow is 32-bit and truncates silently. The cut is at most CAP_CUT; a residual is at most CAP_INF + CAP_CUT.
CAP_CUT, CAP_INF = 1 << 29, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Template:
    """A network's shape, without capacities.

    Rows are ops, followed in a chain by one stand-in for each use of a pseudo-op: inputs and outputs are free, so each
    of their tensors may sit at the label that suits it.

    Attributes:
        problem: The costs.
        chain: Whether labels are ordered stages; otherwise label 0 is the CPU, 1 the GPU.
        boundary: Network node of each row at each boundary, shape ``(rows, labels - 1)``.
        node_count: Number of network nodes.
        producer: Row of each tensor's producer.
        consumer: Rows of all consumers, laid out as `Topology.consumer`.
        tail: Where each arc begins.
        head: Where each arc ends.
        kind: HARD, H2D or D2H for each arc.
        tensor: Tensor that prices each arc (0 for HARD).
        feasible: A labelling of the rows that respects every constraint.
    """

    problem: Problem
    chain: bool
    boundary: IntArray
    node_count: int
    producer: IntArray
    consumer: IntArray
    tail: IntArray
    head: IntArray
    kind: IntArray
    tensor: IntArray
    feasible: IntArray

    def placement(self, labels: IntArray) -> Placement:
        """Return the device of each op under a labelling of the rows."""
        return (labels[: self.problem.size] & 1).astype(np.int8)

    def demands(self, labels: IntArray, transfer_weight: float = 1.0) -> FloatArray:
        """Return the demands the cut minimises, shape ``(4,)``: the true ones in the free template.

        Args:
            labels: Label of each row.
            transfer_weight: Factor on copies.
        """
        result = demands(self.problem, self.placement(labels))
        if not self.chain:
            return result
        graph = self.problem.topology
        result[H2D] = result[D2H] = 0.0
        if not len(graph.producer):
            return result
        low, high = labels[self.producer], np.maximum.reduceat(labels[self.consumer], graph.first_consumer[:-1])
        for edge in range(1, self.boundary.shape[1] + 1):
            spans = (low < edge) & (high >= edge)
            kind, cost = (H2D, graph.h2d_s) if edge & 1 else (D2H, graph.d2h_s)
            result[kind] += transfer_weight * cost[spans].sum()
        return result


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """An s-t network with integer capacities.

    Attributes:
        node_count: Number of nodes; node 0 is the source, node 1 the sink.
        tail: Where each arc begins.
        head: Where each arc ends.
        capacity: Integer capacity of each arc, at most `CAP_INF`.
        scale: Capacity units a second.
        offset_s: Seconds that every cut costs.
    """

    node_count: int
    tail: IntArray
    head: IntArray
    capacity: IntArray
    scale: float
    offset_s: float


class _Arcs:
    """Collects arcs, leaving out those no cut can contain."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int, int]] = []

    def add(self, tail: int, head: int, kind: int, tensor: int = 0) -> None:
        if tail not in (head, SINK) and head != SOURCE:
            self.rows.append((tail, head, kind, tensor))

    def spread(self, tail: int, heads: list[int], kind: int, tensor: int, fresh: Iterator[int]) -> None:
        """Charge `tensor` once if `tail` is on the source side and any of `heads` is not."""
        if len(heads) == 1:
            self.add(tail, heads[0], kind, tensor)
            return
        hub = next(fresh)
        self.add(tail, hub, kind, tensor)
        for head in heads:
            self.add(hub, head, HARD)

    def gather(self, head: int, tails: list[int], kind: int, tensor: int, fresh: Iterator[int]) -> None:
        """Charge `tensor` once if `head` is on the sink side and any of `tails` is not."""
        if len(tails) == 1:
            self.add(tails[0], head, kind, tensor)
            return
        hub = next(fresh)
        self.add(hub, head, kind, tensor)
        for tail in tails:
            self.add(tail, hub, HARD)


def free_template(problem: Problem) -> Template:
    """Return the network whose cut is the exact cheapest placement, with no limit on stages."""
    fresh = count(2)
    boundary = np.array(
        [
            [next(fresh) if cpu and gpu else (SOURCE if cpu else SINK)]
            for cpu, gpu in zip(problem.on_cpu.tolist(), problem.on_gpu.tolist(), strict=True)
        ],
        dtype=np.int64,
    ).reshape(problem.size, 1)
    arcs = _Arcs()
    for index, tensor in enumerate(problem.tensors):
        producer, consumers = int(boundary[tensor.producer, 0]), boundary[list(tensor.consumers), 0].tolist()
        arcs.spread(producer, consumers, H2D, index, fresh)
        arcs.gather(producer, consumers, D2H, index, fresh)
    graph = problem.topology
    feasible = (~problem.on_cpu).astype(np.int64)
    return _template(problem, False, boundary, (graph.producer, graph.consumer, feasible), (arcs, next(fresh)))


def chain_template(problem: Problem, window: Window) -> Template | None:
    """Return the network that proposes pipelines within a window of stages, or None if no placement fits there."""
    allowed = forced_range(problem, window)
    if allowed is None:
        return None
    labels = window.high + 1 + (window.high & 1)  # the chain ends on the CPU, where outputs are read
    fresh = count(2)
    on = {CPU: problem.on_cpu.tolist(), GPU: problem.on_gpu.tolist()}
    rows = [
        [SOURCE] * (labels - 1)
        if v in problem.pseudo
        else _boundaries([low <= k <= high and on[k & 1][v] for k in range(labels)], fresh)
        for v, (low, high) in enumerate(zip(*allowed, strict=True))
    ]
    producer, consumer = _split_pseudo(problem, rows, labels, fresh)
    arcs = _Arcs()
    for nodes in rows:
        for lower, upper in pairwise(nodes):
            arcs.add(lower, upper, HARD)
    starts = problem.topology.first_consumer.tolist()
    for index, row in enumerate(producer):
        consumers = consumer[starts[index] : starts[index + 1]]
        for k in range(labels - 1):
            heads = [rows[w][k] for w in consumers]
            for head in heads:
                arcs.add(head, rows[row][k], HARD)  # a label never falls along an edge
            arcs.spread(rows[row][k], heads, H2D if k % 2 == 0 else D2H, index, fresh)
    feasible = _row_labels(allowed[0], len(rows), (producer, consumer, starts))
    ends = (np.array(producer, dtype=np.int64), np.array(consumer, dtype=np.int64), feasible)
    boundary = np.array(rows, dtype=np.int64).reshape(len(rows), labels - 1)
    return _template(problem, True, boundary, ends, (arcs, next(fresh)))


def _template(
    problem: Problem,
    chain: bool,
    boundary: IntArray,
    ends: tuple[IntArray, IntArray, IntArray],
    built: tuple[_Arcs, int],
) -> Template:
    arcs, node_count = built
    columns = np.array(arcs.rows, dtype=np.int64).reshape(-1, 4)
    tail, head, kind, tensor = (np.ascontiguousarray(columns[:, i]) for i in range(4))
    return Template(
        problem=problem,
        chain=chain,
        boundary=boundary,
        node_count=node_count,
        producer=ends[0],
        consumer=ends[1],
        tail=tail,
        head=head,
        kind=kind,
        tensor=tensor,
        feasible=ends[2],
    )


def _boundaries(allowed: list[bool], fresh: Iterator[int]) -> list[int]:
    """Return the node of each boundary of one row; boundaries around a label it cannot have are the same node."""
    low = allowed.index(True)
    high = len(allowed) - 1 - allowed[::-1].index(True)
    nodes: list[int] = []
    for k in range(1, len(allowed)):
        if k <= low:
            nodes.append(SINK)
        elif k > high:
            nodes.append(SOURCE)
        else:
            nodes.append(next(fresh) if allowed[k - 1] else nodes[-1])
    return nodes


def _split_pseudo(problem: Problem, rows: list[list[int]], labels: int, fresh: Iterator[int]) -> tuple[list[int], list[int]]:
    """Append a stand-in row for each use of a pseudo-op; return the producer and consumer rows of all tensors."""

    def row_of(v: int) -> int:
        if v not in problem.pseudo:
            return v
        rows.append(_boundaries([k % 2 == 0 for k in range(labels)], fresh))
        return len(rows) - 1

    producer = [row_of(tensor.producer) for tensor in problem.tensors]
    return producer, [row_of(v) for tensor in problem.tensors for v in tensor.consumers]


def _row_labels(low: list[int], rows: int, ends: tuple[list[int], list[int], list[int]]) -> IntArray:
    """Return a labelling of all rows: ops at their earliest, stand-ins on the CPU stage beside what they touch."""
    producer, consumer, starts = ends
    labels = [max(label, 0) for label in low] + [0] * (rows - len(low))
    for index, row in enumerate(producer):
        consumers = consumer[starts[index] : starts[index + 1]]
        if row >= len(low):
            labels[row] = min(labels[w] for w in consumers) & ~1
        for w in consumers:
            if w >= len(low):
                labels[w] = labels[row] + (labels[row] & 1)
    return np.array(labels, dtype=np.int64)


def price(
    template: Template, prices: FloatArray, ceiling_s: float, transfer_weight: float = 1.0, byte_price: float = 0.0
) -> Network:
    """Return the network of a template with every capacity set.

    Capacities are floored, so the cut stays a lower bound. The unit is chosen from `ceiling_s`: a cut above it is of no
    interest, so larger capacities are clipped and small costs keep their digits beside huge ones.

    Args:
        template: The shape.
        prices: Price of a second of each of `RESOURCES`, shape ``(4,)``, not negative.
        ceiling_s: ``prices @ demands`` of some labelling of this template, with the price of its bytes.
        transfer_weight: Factor on copies.
        byte_price: Price of a byte on the GPU.
    """
    graph = template.problem.topology
    node, offset_terms = _op_terms(template, prices, byte_price)
    gain, loss = np.flatnonzero(node > 0), np.flatnonzero(node < 0)
    offset_s = math.fsum([*offset_terms, *node[loss].tolist()])
    # The difference of two nearly equal sums is noise below 1e-9 of either; the last term keeps the scale finite.
    room_s = max(ceiling_s - offset_s, 1e-9 * ceiling_s, 1e-290)
    scale = CAP_CUT / room_s
    arc_s = np.zeros(len(template.tail))
    for kind, cost in ((H2D, graph.h2d_s), (D2H, graph.d2h_s)):
        mask = template.kind == kind
        arc_s[mask] = cost[template.tensor[mask]] * (prices[kind] * transfer_weight)
    arc_s[template.kind == HARD] = math.inf
    seconds = np.minimum(np.concatenate([node[gain], -node[loss], arc_s]), 4 * room_s)
    return Network(
        node_count=template.node_count,
        tail=np.concatenate([np.full(len(gain), SOURCE), loss, template.tail]),
        head=np.concatenate([gain, np.full(len(loss), SINK), template.head]),
        capacity=np.minimum(np.floor(seconds * scale), CAP_INF).astype(np.int64),
        scale=scale,
        offset_s=offset_s,
    )


def _op_terms(template: Template, prices: FloatArray, byte_price: float) -> tuple[FloatArray, list[float]]:
    """Return what each node adds to the cost on the sink side, shape ``(nodes,)``, and the terms of the constant.

    An op costs its cheaper side always and the difference ``d`` on the other; every term is plus or minus one of those
    numbers, so that the constant cancels exactly.
    """
    problem = template.problem
    on_cpu, on_gpu = problem.on_cpu, problem.on_gpu
    cpu = np.where(on_cpu, problem.cpu_s, 0.0) * prices[CPU]
    gpu = np.where(on_gpu, problem.gpu_s, 0.0) * prices[GPU] + np.where(on_gpu, problem.gpu_bytes, 0.0) * byte_price
    cpu, gpu = np.where(on_cpu, cpu, gpu), np.where(on_gpu, gpu, cpu)
    extra = gpu - cpu
    node = np.zeros(template.node_count)
    for k in range(template.boundary.shape[1]):
        np.add.at(node, template.boundary[: problem.size, k], extra if k % 2 == 0 else -extra)
    sink = [
        (extra if k % 2 == 0 else -extra)[template.boundary[: problem.size, k] == SINK]
        for k in range(template.boundary.shape[1])
    ]
    node[[SOURCE, SINK]] = 0.0
    terms = [np.minimum(cpu, gpu), np.maximum(-extra, 0.0), *sink]
    return node, np.concatenate(terms).tolist()


def as_digraph(network: Network) -> nx.DiGraph:
    """Return the network as a networkx graph; every edge has an integer `capacity`."""
    graph = nx.DiGraph()
    graph.add_nodes_from(range(network.node_count))
    arcs = zip(network.tail.tolist(), network.head.tolist(), network.capacity.tolist(), strict=True)
    for tail, head, capacity in arcs:
        before = graph[tail][head]["capacity"] if graph.has_edge(tail, head) else 0
        graph.add_edge(tail, head, capacity=min(before + capacity, CAP_INF))
    return graph
