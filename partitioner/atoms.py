"""What is placed as a whole: fused groups, taken apart where their nodes cannot stay together, merged where they must.

A group whose nodes may not all run on the same devices is taken apart where that can save the CPU anything; `pieces`
says what the parts cost. What `fusion` or the user holds together is one atom.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from cutset.errors import PlanError
from cutset.graph.model import ModelGraph
from cutset.partitioner.fusion import merge_units
from cutset.partitioner.pieces import Kind, Piece, deciding_pieces, pieces_of, priced
from cutset.partitioner.pins import Kept, Pin
from cutset.partitioner.support import Support
from cutset.profilers.table import CostTable, GroupCost


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """All that is known of one model before it is planned.

    Args:
        graph: The model with measured shapes.
        table: Its costs.
        support: Which nodes the GPU backend takes.
        pins: Pin of each pinned node.
        kept: Nodes that the user keeps together.
    """

    graph: ModelGraph
    table: CostTable
    support: Mapping[str, Support]
    pins: Mapping[str, Pin]
    kept: tuple[Kept, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """What is placed as a whole: the nodes of fused groups, or of a group that was taken apart.

    Args:
        nodes: In graph order; constant nodes are left out.
        cpu_s: Seconds a run on one idle core, or infinite.
        gpu_s: Seconds a run, or infinite.
        reason: Why it has no choice, or empty.
        gpu_source: Where the GPU's number came from, empty where there is none.
        gpu_alone_s: Seconds of a run on the GPU for one request; differs from `gpu_s` where that is a share of a larger run.
        rows: Requests of that larger run.
    """

    nodes: tuple[str, ...]
    cpu_s: float
    gpu_s: float
    reason: str = ""
    gpu_source: str = ""
    gpu_alone_s: float = math.inf
    rows: int = 1

    @property
    def name(self) -> str:
        """Name of the first node, and how many more there are."""
        return self.nodes[0] if len(self.nodes) == 1 else f"{self.nodes[0]} (+{len(self.nodes) - 1})"


def atoms_of(evidence: Evidence, *, gpu_scale: str = "mid") -> list[Atom]:
    """Return what is placed as a whole, in graph order.

    Args:
        evidence: The model, its costs, verdicts and pins.
        gpu_scale: ``low``, ``mid`` or ``high`` end of the GPU costs' interval.

    Raises:
        PlanError: If a pin asks for what a device cannot do, or nodes are kept together that cannot be.
    """
    refusals = gpu_refusals(evidence.graph, evidence.table, evidence.support)
    _check_pins(evidence.pins, refusals)
    return _merged(evidence, _atoms(evidence, refusals, gpu_scale))


def gpu_refusals(graph: ModelGraph, table: CostTable, support: Mapping[str, Support]) -> dict[str, str]:
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


def broken_pieces(evidence: Evidence) -> list[tuple[str, ...]]:
    """Return the parts of groups whose own price on the CPU decides a plan, of the dearest groups first.

    Raises:
        PlanError: If a pin asks for what a device cannot do.
    """
    refusals = gpu_refusals(evidence.graph, evidence.table, evidence.support)
    _check_pins(evidence.pins, refusals)
    found = []
    for group in sorted(evidence.table.groups_on("cpu"), key=lambda group: -(group.latency_s or 0.0)):
        states = _states(evidence, group, refusals)
        kinds = _kinds(states)
        found += deciding_pieces(pieces_of(evidence.graph, tuple(states), kinds), kinds)
    return found


def _atoms(evidence: Evidence, refusals: Mapping[str, str], gpu_scale: str) -> list[Atom]:
    gpu = {group.nodes: group for group in evidence.table.groups_on("gpu")}
    atoms: list[Atom] = []
    for group in evidence.table.groups_on("cpu"):
        states, there = _states(evidence, group, refusals), gpu.get(group.nodes)
        kinds = _kinds(states)
        parts = pieces_of(evidence.graph, tuple(states), kinds) if len(set(kinds.values())) > 1 else []
        pieces = priced(parts, kinds, group, evidence.table) if parts else None
        for piece in pieces or _whole(group, kinds):
            cpu_s = piece.cpu_s if piece.kind[0] and group.latency_s is not None else math.inf
            gpu_s = _seconds(piece.nodes, there, whole=pieces is None) * _end(there, gpu_scale) if piece.kind[1] else math.inf
            reasons = dict.fromkeys(states[name][2] for name in piece.nodes if states[name][2])
            source = "" if there is None else there.source
            alone_s, rows = _alone(there, gpu_s)
            atoms.append(
                Atom(
                    nodes=piece.nodes, cpu_s=cpu_s, gpu_s=gpu_s, reason="; ".join(reasons), gpu_source=source,
                    gpu_alone_s=alone_s, rows=rows,
                )
            )  # fmt: skip
    return atoms


def _whole(group: GroupCost, kinds: Mapping[str, Kind]) -> list[Piece]:
    """Return a group as one piece that may run where all of its nodes may."""
    if not kinds:
        return []
    kind = all(on_cpu for on_cpu, _ in kinds.values()), all(on_gpu for _, on_gpu in kinds.values())
    return [Piece(nodes=tuple(kinds), kind=kind, cpu_s=group.latency_s or 0.0)]


def _states(evidence: Evidence, group: GroupCost, refusals: Mapping[str, str]) -> dict[str, tuple[bool, bool, str]]:
    """Return where each node that a placement is about may run, and why it has no choice."""
    live = (name for name in group.nodes if name not in evidence.graph.unplaced)
    return {name: _state(name, refusals, evidence.pins) for name in live}


def _kinds(states: Mapping[str, tuple[bool, bool, str]]) -> dict[str, Kind]:
    return {name: (on_cpu, on_gpu) for name, (on_cpu, on_gpu, _) in states.items()}


def _merged(evidence: Evidence, atoms: Sequence[Atom]) -> list[Atom]:
    """Return the atoms with those as one that a backend fuses or the user keeps together."""
    kinds = [(math.isfinite(atom.cpu_s), math.isfinite(atom.gpu_s)) for atom in atoms]
    units, kept = [atom.nodes for atom in atoms], [group.nodes for group in evidence.kept]
    merged = []
    for members in merge_units(evidence.graph, units, kinds, kept):
        parts = [atoms[index] for index in members]
        if len(parts) > 1:
            _require_agreement(evidence.graph, parts, evidence.kept)
        merged.append(parts[0] if len(parts) == 1 else _joined(evidence.graph, parts))
    return merged


def _joined(graph: ModelGraph, parts: Sequence[Atom]) -> Atom:
    return Atom(
        nodes=tuple(sorted((name for part in parts for name in part.nodes), key=graph.position.__getitem__)),
        cpu_s=sum(part.cpu_s for part in parts),
        gpu_s=sum(part.gpu_s for part in parts),
        reason="; ".join(dict.fromkeys(part.reason for part in parts if part.reason)),
        gpu_source=least_sure(part.gpu_source for part in parts),
        gpu_alone_s=sum(part.gpu_alone_s for part in parts),
        rows=max(part.rows for part in parts),
    )


def least_sure(sources: Iterable[str]) -> str:
    """Return the source of a sum: modelled if any part of it is, else recorded if any is, else measured; empty for none."""
    found = set(sources)
    return next((source for source in ("modelled", "recorded", "measured") if source in found), "")


def _state(name: str, refusals: Mapping[str, str], pins: Mapping[str, Pin]) -> tuple[bool, bool, str]:
    """Return whether the node may run on the CPU, on the GPU, and the reason if it has no choice."""
    pin = pins.get(name)
    if pin is not None:
        return pin.device == "cpu", pin.device == "gpu", f"pinned by {pin}"
    if name in refusals:
        return True, False, refusals[name]
    return True, True, ""


def _seconds(unit: Sequence[str], group: GroupCost | None, *, whole: bool) -> float:
    """Return the fused cost of a whole group on the GPU, the unfused one of nodes cut out of it."""
    if group is None or group.latency_s is None:
        return math.inf
    return group.latency_s if whole else sum(group.unfused_s.get(name, 0.0) for name in unit)


def _alone(group: GroupCost | None, gpu_s: float) -> tuple[float, int]:
    """Return the seconds of a run for one request, of which `gpu_s` is the share in a larger run, and that run's requests."""
    if group is None or group.alone_s is None or not group.latency_s:
        return gpu_s, 1
    return gpu_s * group.alone_s / group.latency_s, group.rows


def _end(group: GroupCost | None, gpu_scale: str) -> float:
    """Return the chosen end of a group's interval over its middle."""
    if group is None or not group.latency_s or gpu_scale == "mid":
        return 1.0
    end = group.low_s if gpu_scale == "low" else group.high_s
    return 1.0 if end is None else end / group.latency_s


def _require_agreement(graph: ModelGraph, parts: Sequence[Atom], kept: Sequence[Kept]) -> None:
    """Check that some device can run all of `parts`, which the user keeps together.

    Raises:
        PlanError: If none can; it names a node tied to either device and the path between them.
    """
    on_cpu = next((part for part in parts if math.isinf(part.gpu_s)), None)
    on_gpu = next((part for part in parts if math.isinf(part.cpu_s)), None)
    if on_cpu is None or on_gpu is None:
        return
    first, last = on_cpu.nodes[0], on_gpu.nodes[0]
    joined = {name for part in parts for name in part.nodes}
    origins = [group.origin for group in kept if joined.issuperset(group.nodes)]
    raise PlanError(
        f"`{first}` and `{last}` must stay together and cannot run on one device",
        where="; ".join(origins),
        cause=f"`{first}` runs on the CPU only ({on_cpu.reason}), `{last}` on the GPU only ({on_gpu.reason}); "
        f"between them: {_path(graph, first, last)}",
        hint="take one of the two out of `keep`, or remove its pin",
    )


def _path(graph: ModelGraph, first: str, last: str) -> str:
    """Return a shortest path between two nodes: along the edges if there is one, else by whatever they share."""
    edges: nx.DiGraph = nx.DiGraph()
    edges.add_nodes_from((first, last))
    edges.add_edges_from(
        (graph.producer[value], node.name) for node in graph.placeable for value in node.inputs if value in graph.producer
    )
    for view, a, b, arrow in (
        (edges, first, last, "->"),
        (edges, last, first, "->"),
        (edges.to_undirected(), first, last, "-"),
    ):
        if nx.has_path(view, a, b):
            return f" {arrow} ".join(f"`{name}`" for name in nx.shortest_path(view, a, b))
    return "no path"
