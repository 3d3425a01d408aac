"""What the emitted pipeline is held against: the whole model in onnxruntime in every arrangement a user may think of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
from cutset.partitioner.plan import Part, form_stages
from cutset.profilers.ort_child import SessionJob, open_job

CALLERS = (2, 4, 8, 16)
SESSIONS = (2, 4)

TF32 = {"use_tf32": "1"}
"""Products in tf32 where the GPU can, as onnxruntime's CUDA provider computes them by itself."""
BY_ITSELF = {**TF32, "cudnn_conv_algo_search": "EXHAUSTIVE"}
"""And every algorithm tried, which takes seconds a session: one session is so, to see what it gains."""

Feed = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A model, as Cutset loads it, that runs as one; sessions are opened as they are asked for."""

    graph: ModelGraph
    model: Path
    feed: Feed
    job: Job

    def session(self, *, device: int | None, threads: int, options: Mapping[str, str] = TF32) -> ort.InferenceSession:
        """Return a session on a device, None for the CPU, with these options of the CUDA provider."""
        opened = SessionJob(
            model=self.model,
            feed={},
            cuda_device=device,
            threads=threads,
            custom_ops=self.graph.custom_ops,
            cuda_options=options,
        )
        return open_job(opened)


def whole_model(graph: ModelGraph, feed: Feed, job: Job, folder: Path) -> Whole:
    """Return a model written as one part: weights folded, so that no arrangement is slower for its file's sake."""
    (stage,) = form_stages(graph, [Part(device="cpu", nodes=tuple(node.name for node in graph.placeable))])
    write_stages(graph, (stage,), folder)
    given = {name: feed[name] for name in stage.inputs}
    return Whole(graph=graph, model=folder / stage.model, feed=given, job=job)


def unsplit(whole: Whole) -> Iterator[Subject]:
    """Yield the unsplit model: one request at a time, with IO binding, from threads, in several sessions, on the CPU alone."""
    job, feed = whole.job, whole.feed
    device = job.device
    few = job.small
    one = whole.session(device=device, threads=1, options=BY_ITSELF)
    wide = whole.session(device=device, threads=job.cores)
    yield Subject(name="one", title="one request at a time", caller=lambda: _plain(one, feed), concurrency=1)
    yield Subject(name="one_wide", title="the same, CPU nodes on all cores", caller=lambda: _plain(wide, feed), concurrency=1)
    yield Subject(name="bound", title="one at a time, IO binding", caller=lambda: _bound(one, feed, job), concurrency=1)
    for callers in CALLERS[:1] if few else [count for count in CALLERS if count <= 2 * job.cores]:
        yield Subject(
            name=f"threads_{callers}", title=f"{callers} threads on one session", caller=lambda: _plain(one, feed),
            concurrency=callers,
        )  # fmt: skip
    yield Subject(
        name="bound_threads", title="threads on one session, IO binding", caller=lambda: _bound(one, feed, job),
        concurrency=min(8, job.cores),
    )  # fmt: skip
    for count in SESSIONS[:1] if few else [count for count in SESSIONS if count <= job.cores]:
        sessions = [whole.session(device=device, threads=1) for _ in range(count)]
        yield Subject(
            name=f"sessions_{count}", title=f"{count} sessions, a thread each", caller=_each(sessions, feed),
            concurrency=count,
        )  # fmt: skip
    alone = whole.session(device=None, threads=1)
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
    stages = form_stages(whole.graph, parts)
    write_stages(whole.graph, stages, folder)
    sessions = []
    for stage in stages:
        device = whole.job.device if stage.device == "gpu" else None
        opened = SessionJob(
            model=folder / stage.model,
            feed={},
            cuda_device=device,
            custom_ops=whole.graph.custom_ops,
            cuda_options=TF32,
        )
        sessions.append((open_job(opened), stage.inputs, stage.outputs))

    def walk() -> Callable[[], Any]:
        def call() -> Any:
            values = dict(whole.feed)
            for session, reads, writes in sessions:
                found = session.run(list(writes), {name: values[name] for name in reads})
                values |= zip(writes, found, strict=True)
            return values

        return call

    cores = whole.job.cores
    for callers in sorted({1, cores} if whole.job.small else {1, max(2, cores // 2), cores}):
        yield Subject(name=f"hand_{callers}", title=f"split by hand, {callers} threads", caller=walk, concurrency=callers)


def hand_split(graph: ModelGraph) -> list[Part]:
    """Return what comes before the network, the network, and what comes after it; empty parts are left out.

    The network is every node between two matrix products of the model; as that is a convex set, no part waits for a later.
    """
    nodes = {node.name: node for node in graph.placeable}
    wires: nx.DiGraph = nx.DiGraph()
    wires.add_nodes_from(nodes)
    for node in nodes.values():
        wires.add_edges_from((graph.producer[v], node.name) for v in node.inputs if graph.producer.get(v) in nodes)
    products = [name for name, node in nodes.items() if node.op.op_type in MATRIX_OPS]
    after = set(products).union(*(nx.descendants(wires, name) for name in products))
    before = set(products).union(*(nx.ancestors(wires, name) for name in products))
    sides = [
        ("cpu", [name for name in nodes if name in before and name not in after]),
        ("gpu", [name for name in nodes if name in before and name in after]),
        ("cpu", [name for name in nodes if name not in before]),
    ]
    return [Part(device=device, nodes=tuple(names)) for device, names in sides if names]


def _plain(session: ort.InferenceSession, feed: Feed) -> Callable[[], Any]:
    return lambda: session.run(None, dict(feed))


def _each(sessions: list[ort.InferenceSession], feed: Feed) -> Callable[[], Callable[[], Any]]:
    """Return what gives each caller the next session."""
    turn, lock = cycle(sessions), Lock()

    def caller() -> Callable[[], Any]:
        with lock:
            return _plain(next(turn), feed)

    return caller


def _bound(session: ort.InferenceSession, feed: Feed, job: Job) -> Callable[[], Any]:
    """Return a call through IO binding: inputs where they arrive, outputs on the device until the run is over.

    Text cannot be bound by onnxruntime's Python API (1.32): such a model runs as it does without binding.
    """
    if any(getattr(value, "dtype", None) is None or value.dtype.kind in "OUS" for value in feed.values()):
        return _plain(session, feed)
    binding = session.io_binding()

    def call() -> Any:
        for name, value in feed.items():
            binding.bind_cpu_input(name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, job.kind, job.device or 0)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()

    return call
