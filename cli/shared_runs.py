"""Plan for GPU stages that run several requests as one, where the model itself takes only one: find, prove, measure."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from cutset.advisory import advisory
from cutset.cli.workflow import Measured, Progress
from cutset.codegen.batchability import free
from cutset.codegen.runtime.backends.base import GPU_BATCH
from cutset.graph.extract import write_part
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.rows import Region, regions
from cutset.partitioner.support import DEFAULT_SOURCE, Support
from cutset.profilers.child import Failure
from cutset.profilers.segments import boundary_values, segment_of
from cutset.profilers.session import open_session, release_memory, run
from cutset.profilers.shared_runs import JointRun, with_shared_runs
from cutset.profilers.table import CostTable

APART = Support(
    ok=False, reason="its rows are not those of a request: it would keep requests from sharing a run", source=DEFAULT_SOURCE
)
_MOST_SAMPLES = 2


def sharing(measured: Measured, evidence: Evidence, progress: Progress) -> Evidence | None:
    """Return the evidence for a plan whose GPU stages run several requests as one; None where no part of the model can.

    Nodes whose rows would mix stay on the CPU there; the costs of the others are shares of a run of `GPU_BATCH` requests.

    Args:
        measured: The model, measured on a GPU of this machine for one request.
        evidence: The same as evidence.
        progress: Told what is being done.
    """
    graph = measured.graph
    allowed = [name for name, verdict in evidence.support.items() if verdict.ok]
    costs = {
        name: (group.latency_s or 0.0) / len(group.nodes) for group in measured.table.groups_on("cpu") for name in group.nodes
    }
    for region in regions(graph, allowed, lambda name: costs.get(name, 0.0)):
        table = None
        with advisory("sharing runs between requests", f"node `{region.nodes[0]}` and those after it", ends=()):
            table = _measured(measured, region, progress)
        if table is None:
            continue
        outside = {node.name: APART for node in graph.placeable if node.name not in region.nodes}
        refused = {name: verdict for name, verdict in evidence.support.items() if not verdict.ok}
        support = {**evidence.support, **outside, **refused}
        kept = (*evidence.kept, *region.kept)
        return replace(evidence, table=table, support=support, kept=kept)
    return None


def _measured(measured: Measured, region: Region, progress: Progress) -> CostTable | None:
    """Return the costs with those of a region that was proven to be row by row; None where it is not."""
    graph = measured.graph
    segment = segment_of(graph, region.nodes)
    progress(f"proving that {len(segment.nodes)} nodes may share runs")
    with tempfile.TemporaryDirectory(prefix="cutset-rows-") as folder:
        model = Path(folder) / "part.onnx"
        write_part(graph, segment.inputs, segment.outputs, model)
        values = [boundary_values(graph, sample, [segment]) for sample in measured.samples.samples[:_MOST_SAMPLES]]
        feeds = [{name: found[name] for name in segment.inputs} for found in values]
        session = open_session(model, custom_ops=graph.custom_ops)
        results = [run(session, feed, segment.outputs) for feed in feeds]
        del session
        release_memory()
        finding = free(graph, model, segment.outputs, feeds, results)
        if not finding.proven:
            progress(f"requests cannot share runs: {finding.reason or 'a tensor has another number of rows than one'}")
            return None
        joint = JointRun(model=model, axis=finding.axis, feed=feeds[0], rows=GPU_BATCH)
        table = with_shared_runs(graph, measured.table, joint, measured.options, progress)
    if isinstance(table, Failure):
        progress(f"requests cannot share runs: {table.detail}")
        return None
    return table
