"""What the emitted pipeline is held against: the whole model in onnxruntime in every arrangement a user may think of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from threading import Lock
from typing import Any

import networkx as nx
import onnxruntime as ort

from benchmarks.gpu.job import Job
from cutset.codegen.bench.subjects import Subject
from cutset.codegen.precision.floats import MATRIX_OPS
from cutset.codegen.split import write_stages
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Part, Stage, form_stages
from cutset.profilers.ort_child import SessionJob, open_job
from cutset.profilers.refusals import MAX_REFUSED, failed_node

CALLERS = (2, 4, 8, 16, 32)
SESSIONS = (2, 4)

TF32 = {"use_tf32": "1"}
"""Products in tf32 where the GPU can, as onnxruntime's CUDA provider computes them by itself."""
BY_ITSELF = {**TF32, "cudnn_conv_algo_search": "EXHAUSTIVE"}
"""And every algorithm tried, which takes seconds a session: one session is so, to see what it gains."""

Feed = Mapping[str, Any]
Opened = Sequence[tuple[ort.InferenceSession, Stage]]
"""Sessions that a request walks on its caller's thread, and the stage that each runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A model, as Cutset loads it, that runs as one; sessions are opened as they are asked for.

    Args:
        graph: The model.
        feed: One array a graph input.
        job: What says where it runs.
        folder: Where `stages` lie.
        stages: The model for the device: one stage, or what the device cannot run on the CPU and then the rest.
        refused: Why the device cannot run a node, for those at which its run failed.
    """

    graph: ModelGraph
    feed: Feed
    job: Job
    folder: Path
    stages: tuple[Stage, ...]
    refused: Mapping[str, str] = field(default_factory=dict)

    def opened(self, *, threads: int, options: Mapping[str, str] = TF32) -> Opened:
        """Return the sessions on the device, with these options of the CUDA provider."""
        return _opened(self.graph, self.stages, self.folder, self.job, threads, options)

    def title(self, text: str) -> str:
        """Return the title of an arrangement, which tells whether a part runs in a session on the CPU."""
        return f"{text}, in two sessions" if self.refused else text


def whole_model(graph: ModelGraph, feed: Feed, job: Job, folder: Path) -> Whole:
    """Return a model written as one part: weights folded, so that no arrangement is slower for its file's sake.

    While its run on the device fails at a node, that node and all that comes before it is a part for the CPU: the nearest
    thing that a user could run.
    """
    refused: dict[str, str] = {}
    while True:
        parts, target = _beside(graph, refused), folder / f"without-{len(refused)}"
        whole = Whole(
            graph=graph, feed=feed, job=job, folder=target, stages=_written(graph, parts, target), refused=dict(refused)
        )
        try:
            _plain(whole.opened(threads=job.cores), feed)()
        except Exception as error:  # onnxruntime raises a dozen kinds that share no base class
            failed = failed_node(str(error))
            nodes = {node.name for node in graph.placeable} - refused.keys()
            if failed is None or failed.name not in nodes or len(refused) == MAX_REFUSED:
                return whole  # every arrangement will tell that it fails
            refused[failed.name] = failed.reason
        else:
            return whole


def _beside(graph: ModelGraph, refused: Collection[str]) -> list[Part]:
    """Return the given nodes with all their ancestors for the CPU, and everything else for the device."""
    wires = _wires(graph)
    first = set(refused).union(*(nx.ancestors(wires, name) for name in refused))
    names = [node.name for node in graph.placeable]
    return [
        Part(device="cpu", nodes=tuple(name for name in names if name in first)),
        Part(device="gpu", nodes=tuple(name for name in names if name not in first)),
    ]


def _written(graph: ModelGraph, parts: Sequence[Part], folder: Path) -> tuple[Stage, ...]:
    stages = form_stages(graph, parts)
    write_stages(graph, stages, folder)
    return stages


def _opened(
    graph: ModelGraph, stages: Sequence[Stage], folder: Path, job: Job, threads: int, options: Mapping[str, str] = TF32
) -> Opened:
    """Return a session for each stage, those of the GPU on the job's device, None for the CPU in its place."""
    asked = SessionJob(model=folder, feed={}, threads=threads, custom_ops=graph.custom_ops, cuda_options=options)
    return [
        (open_job(replace(asked, model=folder / one.model, cuda_device=job.device if one.device == "gpu" else None)), one)
        for one in stages
    ]


def unsplit(whole: Whole) -> Iterator[Subject]:
    """Yield the unsplit model: one request at a time, with IO binding, from threads, in several sessions, on the CPU alone."""
    job, feed = whole.job, whole.feed
    few, title = job.small, whole.title
    one = whole.opened(threads=1, options=BY_ITSELF)
    wide = whole.opened(threads=job.cores)
    yield Subject(name="one", title=title("one request at a time"), caller=lambda: _plain(one, feed), concurrency=1)
    yield Subject(
        name="one_wide", title=title("the same, CPU nodes on all cores"), caller=lambda: _plain(wide, feed), concurrency=1
    )
    yield Subject(name="bound", title=title("one at a time, IO binding"), caller=lambda: _bound(one, feed, job), concurrency=1)
    for callers in CALLERS[:1] if few else [count for count in CALLERS if count <= 2 * job.cores]:
        yield Subject(
            name=f"threads_{callers}", title=title(f"{callers} threads on one session"), caller=lambda: _plain(one, feed),
            concurrency=callers,
        )  # fmt: skip
    yield Subject(
        name="bound_threads", title=title("threads on one session, IO binding"), caller=lambda: _bound(one, feed, job),
        concurrency=min(8, job.cores),
    )  # fmt: skip
    for count in SESSIONS[:1] if few else [count for count in SESSIONS if count <= job.cores]:
        sessions = [whole.opened(threads=1) for _ in range(count)]
        yield Subject(
            name=f"sessions_{count}", title=title(f"{count} sessions, a thread each"), caller=_each(sessions, feed),
            concurrency=count,
        )  # fmt: skip
    names = tuple(node.name for node in whole.graph.placeable)
    folder = whole.folder / "cpu"
    stages = _written(whole.graph, [Part(device="cpu", nodes=names)], folder)
    alone = _opened(whole.graph, stages, folder, job, threads=1)
    yield Subject(
        name="cpu", title=f"all on the CPU, {job.cores} threads", caller=lambda: _plain(alone, feed), concurrency=job.cores
    )


def by_hand(whole: Whole, folder: Path) -> Iterator[Subject]:
    """Yield the division a person would make, the network on the GPU and the rest on the CPU, each a session of its own.

    The network is what lies between the model's matrix products; every request walks the sessions on its caller's thread.
    """
    parts = hand_split(whole.graph)
    if len(parts) < 2:
        return
    sessions = _opened(whole.graph, _written(whole.graph, parts, folder), folder, whole.job, threads=1)
    cores = whole.job.cores
    for callers in sorted({1, cores} if whole.job.small else {1, max(2, cores // 2), cores}):
        yield Subject(
            name=f"hand_{callers}", title=f"split by hand, {callers} threads", caller=lambda: _plain(sessions, whole.feed),
            concurrency=callers,
        )  # fmt: skip


def hand_split(graph: ModelGraph) -> list[Part]:
    """Return what comes before the network, the network, and what comes after it; empty parts are left out.

    The network is every node between two matrix products of the model; as that is a convex set, no part waits for a later.
    """
    nodes, wires = {node.name: node for node in graph.placeable}, _wires(graph)
    products = [name for name, node in nodes.items() if node.op.op_type in MATRIX_OPS]
    after = set(products).union(*(nx.descendants(wires, name) for name in products))
    before = set(products).union(*(nx.ancestors(wires, name) for name in products))
    sides = [
        ("cpu", [name for name in nodes if name in before and name not in after]),
        ("gpu", [name for name in nodes if name in before and name in after]),
        ("cpu", [name for name in nodes if name not in before]),
    ]
    return [Part(device=device, nodes=tuple(names)) for device, names in sides if names]


def _wires(graph: ModelGraph) -> nx.DiGraph:
    """Return which placeable node feeds which."""
    nodes = {node.name: node for node in graph.placeable}
    wires: nx.DiGraph = nx.DiGraph()
    wires.add_nodes_from(nodes)
    for node in nodes.values():
        wires.add_edges_from((graph.producer[v], node.name) for v in node.inputs if graph.producer.get(v) in nodes)
    return wires


def _plain(sessions: Opened, feed: Feed) -> Callable[[], Any]:
    return _walk([(_run(session, stage), stage) for session, stage in sessions], feed)


def _each(sessions: Sequence[Opened], feed: Feed) -> Callable[[], Callable[[], Any]]:
    """Return what gives each caller the next session."""
    turn, lock = cycle(sessions), Lock()

    def caller() -> Callable[[], Any]:
        with lock:
            return _plain(next(turn), feed)

    return caller


def _bound(sessions: Opened, feed: Feed, job: Job) -> Callable[[], Any]:
    """Return a call that binds inputs and outputs of the sessions on the device."""
    runs = [
        (_bound_run(session, stage, job) if stage.device == "gpu" else _run(session, stage), stage)
        for session, stage in sessions
    ]
    return _walk(runs, feed)


def _walk(runs: Sequence[tuple[Callable[[Feed], Sequence[Any]], Stage]], feed: Feed) -> Callable[[], Any]:
    """Return a call that hands each stage what it reads of the values so far."""

    def call() -> Any:
        values = dict(feed)
        for run, stage in runs:
            values.update(zip(stage.outputs, run(values), strict=True))
        return values

    return call


def _run(session: ort.InferenceSession, stage: Stage) -> Callable[[Feed], Sequence[Any]]:
    return lambda values: session.run(list(stage.outputs), {name: values[name] for name in stage.inputs})


def _bound_run(session: ort.InferenceSession, stage: Stage, job: Job) -> Callable[[Feed], Sequence[Any]]:
    """Return a run through IO binding: inputs where they arrive, outputs on the device until the run is over.

    Text cannot be bound by onnxruntime's Python API (1.32): such a stage runs as it does without binding.
    """
    if any(not one.type.startswith("tensor(") or one.type == "tensor(string)" for one in session.get_inputs()):
        return _run(session, stage)
    binding = session.io_binding()

    def call(values: Feed) -> Sequence[Any]:
        for name in stage.inputs:
            binding.bind_cpu_input(name, values[name])
        for name in stage.outputs:
            binding.bind_output(name, job.kind, job.device or 0)
        session.run_with_iobinding(binding)
        return list(binding.copy_outputs_to_cpu())

    return call
