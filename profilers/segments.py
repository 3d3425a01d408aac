"""Time candidate segments: sets of nodes that a cut would make one stage, each extracted and run as a unit of its own.

Sums of attributed times are close for groups that the whole session has too; a cut can also create units that it has not,
and on a GPU only the built engine tells. Symbolic dimensions stay symbolic, as deployed. Measuring happens in child
processes; a segment that cannot be timed has a `Failure` in its place.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from cutset.codegen.runtime.backends.engine_compile import BuildSettings
from cutset.errors import ProfileError
from cutset.graph.extract import name_plainly, write_part
from cutset.graph.model import ModelGraph
from cutset.graph.rows import with_fixed_rows, with_free_rows
from cutset.profilers.child import DEFAULT_LIMITS, Failure, Limits, map_in_child, run_in_child
from cutset.profilers.gauge import gauge
from cutset.profilers.gpu_state import GpuState
from cutset.profilers.ort_child import SessionJob, SessionTime, time_session
from cutset.profilers.session import Arrays, fit_together, open_session, release_memory, run
from cutset.profilers.table import Latency
from cutset.profilers.tensorrt import EngineJob, LayerGroup, Library, time_engine
from cutset.profilers.turns import time_in_turns

Backend = Literal["onnxruntime-cpu", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx"]

_PLAIN = re.compile(r"n(\d+)")
_LIBRARIES: Mapping[str, Library] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A set of nodes as a unit: what it computes, and the values that cross its border.

    Args:
        nodes: Nodes that a placement is about, in graph order; the constant ones it needs come along unnamed.
        inputs: Values it reads from outside, weights not counted.
        outputs: Values it writes for others or for the caller.
    """

    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentTime:
    """What a segment costs as one unit.

    Args:
        nodes: Its nodes.
        backend: What ran it.
        latency: Seconds of one run; on a GPU with inputs and outputs on the device.
        device_bytes: Device memory it took, None on the CPU.
        layers: Times of its nodes by engine layers; empty where no engine was built.
        state: The GPU right after, None on the CPU or where it does not tell.
    """

    nodes: tuple[str, ...]
    backend: Backend
    latency: Latency
    device_bytes: int | None = None
    layers: tuple[LayerGroup, ...] = ()
    state: GpuState | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """How to time.

    Args:
        backend: What runs the segments.
        device: Device number as CUDA counts them; of no account on the CPU.
        threads: Intra-op threads.
        budget_s: Seconds to repeat each segment.
        limits: Time of each segment, memory of the child.
        rows: Requests in a run of sessions, of segments that were made for one; their values have one row a request.
        recorded: Whether a CUDA session runs as deployed, from a CUDA graph where it can be recorded.
        deployed: Makes of the segments' files what engines would be built from in a package, and returns what the builder
            would be told of each; None leaves the files as they are, and builds for the shapes of the values.
        in_turns: Whether sessions on the CPU are all open at once and run in turns, which is dearer in memory; the ratio of
            each to the first is then what was measured.
    """

    backend: Backend = "onnxruntime-cpu"
    device: int = 0
    threads: int = 1
    budget_s: float = 0.5
    limits: Limits = DEFAULT_LIMITS
    rows: int = 1
    recorded: bool = False
    deployed: Callable[[Sequence[Segment], Sequence[Path]], Sequence[BuildSettings]] | None = None
    in_turns: bool = False


def segment_of(graph: ModelGraph, nodes: Sequence[str]) -> Segment:
    """Return the segment of a set of nodes; constant and dead ones among them are left out.

    Raises:
        ProfileError: If nothing that it writes is needed outside it.
    """
    chosen = set(nodes) - graph.unplaced
    members = [node for node in graph.nodes if node.name in chosen]
    written = [value for node in members for value in node.outputs]
    own = set(written)
    wanted = {spec.name for spec in graph.outputs}
    for node in graph.placeable:
        if node.name not in chosen:
            wanted.update(node.inputs)
    reads = dict.fromkeys(value for node in members for value in node.inputs)
    outputs = tuple(value for value in written if value in wanted)
    if not outputs:
        raise ProfileError("a segment must write something that is needed outside it", where=", ".join(list(nodes)[:5]))
    return Segment(
        nodes=tuple(node.name for node in members),
        inputs=tuple(value for value in reads if value not in own and value not in graph.constant_values),
        outputs=outputs,
    )


def boundary_values(graph: ModelGraph, inputs: Arrays, segments: Sequence[Segment]) -> dict[str, Any]:
    """Return the value of every segment's inputs in one run of the model on `inputs`.

    Raises:
        ProfileError: If the model does not run on these inputs.
    """
    values = {name: inputs[name] for segment in segments for name in segment.inputs if name in inputs}
    missing = [name for name in dict.fromkeys(n for s in segments for n in s.inputs) if name not in inputs]
    if not missing:
        return values
    with tempfile.TemporaryDirectory(prefix="cutset-segments-") as folder:
        model = Path(folder) / "model.onnx"
        write_part(graph, [spec.name for spec in graph.inputs], missing, model, external=True)
        session = open_session(model, custom_ops=graph.custom_ops, where=str(graph.path))
        used = {value.name for value in session.get_inputs()}
        values |= run(session, {name: value for name, value in inputs.items() if name in used}, missing)
        del session
    release_memory()
    return values


def time_segments(
    graph: ModelGraph, segments: Sequence[Segment], values: Arrays, *, options: SegmentOptions
) -> list[SegmentTime | Failure]:
    """Return what each segment costs as one unit, or why that could not be measured.

    Args:
        graph: The whole model.
        segments: From `segment_of`.
        values: The segments' inputs, from `boundary_values`.
        options: How to time.

    Raises:
        ModelError: If a segment cannot be cut out of the model.
    """
    with tempfile.TemporaryDirectory(prefix="cutset-segments-") as folder:
        models = [Path(folder) / f"{index}.onnx" for index in range(len(segments))]
        for segment, model in zip(segments, models, strict=True):
            write_segment(graph, segment, model)
        feeds = [{name: values[name] for name in segment.inputs} for segment in segments]
        if options.backend in _LIBRARIES:
            return _time_engines(graph, segments, models, feeds, options)
        if options.rows > 1:
            feeds = [_widened(model, feed, options.rows) for model, feed in zip(models, feeds, strict=True)]
        return _time_sessions(graph, segments, models, feeds, options)


def _widened(model: Path, feed: Arrays, rows: int) -> dict[str, Any]:
    """Let the file of a segment take so many rows, and return an input of that many."""
    freed, axis = with_free_rows(onnx.load(str(model), load_external_data=False))
    model.write_bytes(with_fixed_rows(freed, axis, rows).SerializeToString())
    return {name: np.concatenate([value] * rows) for name, value in feed.items()}


def write_segment(graph: ModelGraph, segment: Segment, path: Path) -> None:
    """Write a segment as an ONNX file whose nodes are called ``n<index>`` after their place in ``graph.nodes``.

    Casts that cutting added are called ``c<index>``.

    Engines name the nodes of a layer in a text, in which names as models have them could not be told apart.
    """
    write_part(graph, segment.inputs, segment.outputs, path, external=True)
    proto = onnx.load(str(path), load_external_data=False)
    name_plainly(graph, proto.graph.node)
    path.write_bytes(proto.SerializeToString())


def _time_sessions(
    graph: ModelGraph,
    segments: Sequence[Segment],
    models: Sequence[Path],
    feeds: Sequence[Mapping[str, Any]],
    options: SegmentOptions,
) -> list[SegmentTime | Failure]:
    device = options.device if options.backend == "onnxruntime-cuda" else None
    jobs = [
        SessionJob(
            model=model, feed=feed, cuda_device=device, threads=options.threads, budget_s=options.budget_s,
            custom_ops=graph.custom_ops, gauge_s=gauge().own_s, recorded=options.recorded,
        )
        for model, feed in zip(models, feeds, strict=True)
    ]  # fmt: skip
    return [
        time
        if isinstance(time, Failure)
        else SegmentTime(
            nodes=segment.nodes, backend=options.backend, latency=time.latency, device_bytes=time.device_bytes, state=time.state
        )
        for segment, time in zip(segments, _session_times(jobs, options), strict=True)
    ]


def _session_times(jobs: Sequence[SessionJob], options: SegmentOptions) -> Sequence[SessionTime | Failure]:
    """Return what each job takes; one by one where one of them fails or they are too large to be open together."""
    in_turns = options.in_turns and options.backend == "onnxruntime-cpu" and len(jobs) > 1
    if in_turns and fit_together([job.model for job in jobs]):
        together = replace(options.limits, time_s=options.limits.time_s * len(jobs))
        found = run_in_child(time_in_turns, jobs, limits=together)
        if not isinstance(found, Failure):
            return found
    return map_in_child(time_session, jobs, limits=options.limits)


def _time_engines(
    graph: ModelGraph,
    segments: Sequence[Segment],
    models: Sequence[Path],
    feeds: Sequence[Mapping[str, Any]],
    options: SegmentOptions,
) -> list[SegmentTime | Failure]:
    library = _LIBRARIES[options.backend]
    told: Sequence[BuildSettings | None] = [None] * len(segments)
    if options.deployed is not None:
        told = options.deployed(segments, models)
    jobs = [
        EngineJob(model=model, feed=feed, library=library, device=options.device, budget_s=options.budget_s, settings=settings)
        for model, feed, settings in zip(models, feeds, told, strict=True)
    ]
    found = map_in_child(time_engine, jobs, limits=options.limits)
    return [
        time
        if isinstance(time, Failure)
        else SegmentTime(
            nodes=segment.nodes,
            backend=options.backend,
            latency=time.latency,
            device_bytes=time.device_bytes,
            layers=tuple(replace(layer, nodes=original_names(graph, layer.nodes)) for layer in time.layers),
            state=time.state,
        )
        for segment, time in zip(segments, found, strict=True)
    ]


def original_names(graph: ModelGraph, nodes: Sequence[str]) -> tuple[str, ...]:
    """Return the names in `graph` of nodes called ``n<index>``; casts that cutting and precisions added have none."""
    return tuple(graph.nodes[int(match[1])].name for name in nodes if (match := _PLAIN.fullmatch(name)))
