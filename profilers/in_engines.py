"""GPU costs of nodes as TensorRT runs them: whole runs of supported nodes as engines, whose layers name their nodes.

An engine fuses across what onnxruntime's CUDA provider runs as separate kernels, so where an engine is what will be
deployed, its times are the ones to plan with. Nodes that no engine here covers keep the cost they had.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cutset import serde
from cutset.errors import ProfileError
from cutset.graph.model import ModelGraph
from cutset.profilers.capability import Backend
from cutset.profilers.child import Failure, Limits
from cutset.profilers.options import ProfileOptions
from cutset.profilers.segments import Segment, SegmentOptions, SegmentTime, boundary_values, segment_of, time_segments
from cutset.profilers.session import Arrays
from cutset.profilers.table import CostTable, GroupCost

MOST_SEGMENTS = 16
"""Engines take seconds to a minute to build; the runs of nodes that are dearest on the CPU are measured."""

LIMITS = Limits(time_s=300.0)


def with_engine_costs(
    graph: ModelGraph,
    table: CostTable,
    inputs: Arrays,
    supported: Collection[str],
    engine: SegmentOptions,
    progress: Callable[[str], None] = lambda _text: None,
) -> CostTable:
    """Return `table` with the measured GPU costs of every group that engines on this machine's GPU cover whole.

    What was built, and why the rest was not, is told in ``target["engines"]``.

    Args:
        graph: The model, with the shapes of the run.
        table: Its costs; those of the GPU are replaced where an engine tells better.
        inputs: The complete inputs that the table was measured on.
        supported: Nodes that the library takes.
        engine: Library, device and time for one segment.
        progress: Told what is being measured.

    Raises:
        ProfileError: If the model does not run on `inputs`.
    """
    segments = supported_runs(graph, table, supported)
    if not segments:
        return table
    progress(f"building and timing {len(segments)} engines")
    times = time_segments(graph, segments, boundary_values(graph, inputs, segments), options=replace(engine, limits=LIMITS))
    measured = [time for time in times if isinstance(time, SegmentTime)]
    cost_of = {group.nodes: cost for group in table.groups_on("cpu") if (cost := _group_cost(graph, group, measured))}
    groups = tuple(cost_of.get(group.nodes, group) if group.device == "gpu" else group for group in table.groups)
    target = {**(table.target or {}), "engines": [_told(s, t) for s, t in zip(segments, times, strict=True)]}
    return replace(table, groups=groups, target=target)


def engine_options(backend: Backend, device: int, options: ProfileOptions) -> SegmentOptions:
    """Return how to time segments as engines of `backend`: all of them take about half of the time to repeat runs."""
    return SegmentOptions(
        backend=backend, device=device, threads=options.threads, budget_s=options.budget_s / (2 * MOST_SEGMENTS)
    )


def supported_runs(graph: ModelGraph, table: CostTable, supported: Collection[str]) -> list[Segment]:
    """Return runs of supported nodes that follow each other in graph order, the dearest on the CPU first.

    No path leaves such a run and comes back, because the order is topological: each could be one stage.
    """
    runs: list[list[str]] = [[]]
    for node in graph.placeable:
        if node.name in supported:
            runs[-1].append(node.name)
        elif runs[-1]:
            runs.append([])
    seconds = {name: (group.latency_s or 0.0) / len(group.nodes) for group in table.groups_on("cpu") for name in group.nodes}
    dearest = sorted((run for run in runs if run), key=lambda run: -sum(seconds.get(name, 0.0) for name in run))
    found = []
    for run in dearest[:MOST_SEGMENTS]:
        try:
            found.append(segment_of(graph, run))
        except ProfileError:  # nothing that it writes is needed outside
            continue
    return found


def _group_cost(graph: ModelGraph, group: GroupCost, times: Sequence[SegmentTime]) -> GroupCost | None:
    """Return what a group of the CPU costs in the engine that holds all of it, or None if none does."""
    live = [name for name in group.nodes if name not in graph.unplaced]
    home = next((time for time in times if live and set(live) <= set(time.nodes)), None)
    if home is None or not home.layers:
        return None
    alone = _node_seconds(home)
    seconds = sum(alone.get(name, 0.0) for name in live)
    low, high = home.latency.spread
    return replace(
        group, device="gpu", backend=home.backend, latency_s=seconds, low_s=seconds * low, high_s=seconds * high,
        source="measured", unfused_s={name: alone.get(name, 0.0) for name in live}, reason="",
    )  # fmt: skip


def _node_seconds(time: SegmentTime) -> Mapping[str, float]:
    """Return the seconds of each node: its equal share of the layers that run it; folded ones have none."""
    found: dict[str, float] = {}
    for layer in time.layers:
        for name in layer.nodes:
            found[name] = found.get(name, 0.0) + layer.seconds / len(layer.nodes)
    return found


def _told(segment: Segment, time: SegmentTime | Failure) -> dict[str, Any]:
    if isinstance(time, Failure):
        return {"nodes": len(segment.nodes), "first": segment.nodes[0], "failure": time.detail}
    return {
        "nodes": len(segment.nodes),
        "first": segment.nodes[0],
        "latency_s": time.latency.median,
        "device_bytes": time.device_bytes,
        "state": serde.to_builtins(time.state),
    }
