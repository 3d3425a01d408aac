"""Nodes that a GPU does not run: those that onnxruntime leaves on the host, and those that it takes and then cannot run.

onnxruntime's CUDA provider claims nodes by operator and type; what else its kernels need shows in the first run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from cutset.errors import ModelError
from cutset.graph.model import ModelGraph
from cutset.profilers.attribution import Group, Kernel
from cutset.profilers.ort_child import CPU_PROVIDER
from cutset.profilers.segments import Segment
from cutset.profilers.trace import KernelEvent

COPY_OPS = frozenset({"MemcpyFromHost", "MemcpyToHost"})
ON_HOST = "onnxruntime has no CUDA kernel for it: it runs on the CPU inside a CUDA session"

MAX_REFUSED = 16
"""Nodes to leave out of one model, one after the other, before its failure is taken for what it is."""

_FAILED_NODE = re.compile(r"while running (\S+) node\. Name:'(.*?)' Status Message: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedNode:
    """What onnxruntime says when a node of a running model fails.

    Args:
        op_type: Its operator.
        name: Its name in the model that ran, of a fused node one that onnxruntime made up.
        reason: The status message, on one line.
    """

    op_type: str
    name: str
    reason: str


def failed_node(message: str) -> FailedNode | None:
    """Return the node that onnxruntime's error of a run names, the outer one of bodies; None where it names none."""
    found = _FAILED_NODE.search(message)
    if found is None:
        return None
    op_type, name, reason = found.groups()
    return FailedNode(op_type=op_type, name=name, reason=f"onnxruntime cannot run it there: {' '.join(reason.split())}")


def around(graph: ModelGraph, left_out: Collection[str]) -> Segment:
    """Return the model without some of its nodes.

    What they write becomes inputs where others read it; what they alone read becomes outputs, so that what makes it is
    still run. The inputs of the whole model come first, then those that are new.

    Args:
        graph: The model.
        left_out: Names of nodes.

    Raises:
        ModelError: If nothing is left that computes anything.
    """
    kept = [node for node in graph.nodes if node.name not in left_out and node.name not in graph.dead_nodes]
    read = {value for node in kept for value in node.inputs}
    made = {value for node in kept for value in node.outputs}
    holes = [graph.by_name[name] for name in sorted(left_out, key=graph.position.__getitem__)]
    lost = {value for node in holes for value in node.outputs}
    ends = [value for node in holes for value in node.inputs if value in made - read - graph.constant_values]
    outputs = tuple(dict.fromkeys([*(spec.name for spec in graph.outputs if spec.name not in lost), *ends]))
    if left_out and made.isdisjoint(outputs):
        raise ModelError("nothing of the model is left without the nodes that the device refuses", where=str(graph.path))
    return Segment(
        nodes=tuple(node.name for node in kept),
        inputs=(*(spec.name for spec in graph.inputs), *(value for node in holes for value in node.outputs if value in read)),
        outputs=outputs,
    )


def left_on_host(
    graph: ModelGraph, groups: Sequence[Group], kernels: Sequence[Kernel], events: Sequence[KernelEvent]
) -> dict[str, str]:
    """Return the reason for the nodes of every group that the CPU ran inside a session on a GPU.

    Work on shapes alone is not refused: onnxruntime keeps it on the host by choice, where it costs next to nothing and
    waits for no data.

    Args:
        graph: The model.
        groups: From `attribute`.
        kernels: Kernels of the session, copies among them.
        events: What was traced.
    """
    names = {event.name for event in events if event.provider == CPU_PROVIDER}
    host = {index for index, kernel in enumerate(kernels) if kernel.name in names and kernel.op_type not in COPY_OPS}
    found = {}
    for group in groups:
        live = [graph.by_name[name] for name in group.nodes if name not in graph.unplaced]
        if host.isdisjoint(group.kernels) or all(graph.shape_values.issuperset(node.outputs) for node in live):
            continue
        found.update({node.name: ON_HOST for node in live})
    return found
