"""From a placement of atoms to what a plan says of nodes: their stage, device and reason, and what crosses."""

from __future__ import annotations

from collections.abc import Sequence

from cutset.graph.model import ModelGraph
from cutset.partitioner.atoms import Atom, least_sure
from cutset.partitioner.cost import Costed
from cutset.partitioner.plan import BoundaryTensor, Part, Stage
from cutset.partitioner.problem import CPU, GPU, IntArray, Placement
from cutset.profilers.table import CostTable

DEVICES = {CPU: "cpu", GPU: "gpu"}

WEIGHED = "with what crosses, the whole is best with it on the"
"""In the reason of every node that had a choice."""


def parts_of(graph: ModelGraph, costed: Costed, placement: Placement, labels: IntArray) -> list[Part]:
    """Return the nodes of each phase; labels that hold no node are left out by `form_stages`."""
    labels = labels[: len(costed.atoms)]
    order = {node.name: index for index, node in enumerate(graph.nodes)}
    parts = []
    for label in sorted({int(label) for label in labels}):
        members = [atom for atom, found in zip(costed.atoms, labels, strict=True) if found == label]
        indices = [index for index, found in enumerate(labels) if found == label]
        device = DEVICES[int(placement[indices[0]])]
        costs = costed.problem.cpu_s if device == "cpu" else costed.problem.gpu_s
        parts.append(
            Part(
                device=device,
                nodes=tuple(sorted((name for atom in members for name in atom.nodes), key=order.__getitem__)),
                service_s=float(sum(costs[index] for index in indices)),
                source="measured" if device == "cpu" else least_sure(atom.gpu_source for atom in members),
            )
        )
    return parts


def node_placement(graph: ModelGraph, atoms: Sequence[Atom], placement: Placement) -> dict[str, str]:
    """Return the device of every node; constant nodes follow their first reader, dead ones stay on the CPU."""
    found = {name: DEVICES[int(placement[index])] for index, atom in enumerate(atoms) for name in atom.nodes}
    for node in reversed(graph.nodes):
        if node.name not in found:
            readers = (found.get(reader) for output in node.outputs for reader in graph.consumers.get(output, ()))
            found[node.name] = next((device for device in readers if device), "cpu")
    return {node.name: found[node.name] for node in graph.nodes}


def reasons_of(graph: ModelGraph, atoms: Sequence[Atom], placement: Placement) -> dict[str, str]:
    """Return one sentence a node: why it is where it is."""
    reasons = {}
    for index, atom in enumerate(atoms):
        text = atom.reason
        if not text:
            text = (
                f"{atom.cpu_s * 1e6:.1f} us measured on the CPU, {atom.gpu_s * 1e6:.1f} us {atom.gpu_source} on the GPU; "
                f"{WEIGHED} {DEVICES[int(placement[index])].upper()}"
            )
        reasons.update(dict.fromkeys(atom.nodes, text))
    for node in graph.nodes:
        if node.name in graph.dead_nodes:
            reasons[node.name] = "no output depends on it: it is not computed"
        elif node.name in graph.constant_nodes:
            reasons[node.name] = "depends on weights alone: copied to where it is read"
    return {node.name: reasons[node.name] for node in graph.nodes}


def boundary_of(graph: ModelGraph, table: CostTable, stages: Sequence[Stage]) -> tuple[BoundaryTensor, ...]:
    """Return the values that stages exchange, with bytes and transfer time where they change device."""
    writer = {value: stage for stage in stages for value in stage.outputs}
    found = []
    for value, stage in writer.items():
        readers = [other for other in stages if value in other.inputs]
        if not readers:
            continue
        size = graph.nbytes(value) if graph.knows_shape(value) and graph.values[value].is_tensor else None
        crossings = {"h2d" if reader.device == "gpu" else "d2h" for reader in readers if reader.device != stage.device}
        transfers = [t for t in table.transfers if t.direction in crossings]
        found.append(
            BoundaryTensor(
                spec=graph.values[value],
                size_bytes=size,
                producer=stage.index,
                consumers=tuple(reader.index for reader in readers),
                transfer_s=sum(transfer.seconds(size or 0) for transfer in transfers),
            )
        )
    return tuple(found)
