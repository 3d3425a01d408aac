"""What a benchmark runs: the pipeline, each stage alone, and the unsplit model in onnxruntime on the same cores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cutset.codegen.bench.standin import Deployed, Watched
from cutset.codegen.full_load import callers_for
from cutset.codegen.runtime.backends import LOADERS
from cutset.codegen.runtime.backends.base import BackendError, BackendOptions, StageBackend
from cutset.codegen.runtime.backends.device import as_array
from cutset.codegen.runtime.backends.tensorrt import TensorRtBackend
from cutset.codegen.runtime.bench import Call
from cutset.codegen.runtime.config import PlanConfig, StageConfig
from cutset.codegen.runtime.dtypes import Value
from cutset.codegen.runtime.engine_config import ENGINE_BACKENDS, EngineBackend, EngineConfig, EngineInput
from cutset.codegen.split import write_stages
from cutset.graph.load import load, with_operators
from cutset.partitioner.plan import Part, form_stages

PIPELINE, STAGE, REPLICAS = "pipeline", "stage", "unsplit_replicas"
MOST_RANK = 8
"""Dimensions of a tensor in TensorRT: an input of more elements is no shape."""
GPU_CALLERS = 2
"""Callers of a GPU alone: one prepares what the other computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Something that answers requests.

    Args:
        name: What the JSON calls it.
        title: What people call it.
        caller: Makes the function that one caller calls again and again.
        concurrency: Callers at once; enough to saturate it.
        rows: Requests that one call answers.
        close: Releases it.
    """

    name: str
    title: str
    caller: Callable[[], Call]
    concurrency: int
    rows: int = 1
    close: Callable[[], None] = lambda: None


def pipeline_subject(deployed: Deployed, sample: Mapping[str, Value], concurrency: int | None) -> Subject:
    """Return the whole pipeline under `concurrency` callers, by default more than fit inside."""
    pipeline = deployed.pipeline
    callers = concurrency or callers_for(pipeline)
    return Subject(
        name=PIPELINE,
        title="the pipeline",
        caller=lambda: lambda: pipeline.run(sample),
        concurrency=callers,
        close=deployed.close,
    )


def stage_subjects(deployed: Deployed, sample: Mapping[str, Value]) -> Iterator[Subject]:
    """Yield each stage alone, called by as many threads as serve it in the pipeline."""
    for entry, feeds in zip(deployed.stages, deployed.feeds(sample), strict=True):
        rows = _rows(deployed.plan, entry)
        given = (
            feeds
            if rows == 1
            else {name: np.concatenate([np.asarray(as_array(value))] * rows) for name, value in feeds.items()}
        )
        where = f"{entry.device.upper()}{', on a CPU core' if entry.stands_in else ''}"
        yield Subject(
            name=f"{STAGE}_{entry.stage.index}",
            title=f"stage {entry.stage.index} alone ({where})",
            caller=_calling(entry, given),
            concurrency=deployed.servers[entry.device],
            rows=rows,
        )


def unsplit_subjects(plan: PlanConfig, model: Path, folder: Path, sample: Mapping[str, Value], cores: int) -> Iterator[Subject]:
    """Yield the unsplit model on the same cores, as threads of one run and as replicas, and on a GPU if one works here.

    On the GPU it runs in onnxruntime, and as one engine of each TensorRT that takes all of it.

    The model is written as one stage, as it is profiled: many a file exposes its weights as inputs, which keeps onnxruntime
    from folding and fusing, and would make any split look quick.

    Args:
        plan: The package's plan.
        model: The model that was partitioned.
        folder: Where it may be written.
        sample: One request.
        cores: Cores that the pipeline keeps busy.

    Raises:
        BackendError: If onnxruntime does not open the model.
        ModelError: If it cannot be read.
    """
    whole = whole_stage(plan, model, folder)
    yield _unsplit("unsplit_threads", f"unsplit, one request on {cores} threads", whole, _open(plan, whole, cores), sample)
    replicas = _open(plan, whole, 1)
    yield _unsplit(REPLICAS, f"unsplit, {cores} replicas of one thread", whole, replicas, sample, cores)
    on_gpu = _open(plan, replace(whole, device="gpu", backend="onnxruntime-cuda"), 1)
    if on_gpu.substitution is None and _runs(on_gpu, whole, sample):
        yield _unsplit("unsplit_cuda", "unsplit on the GPU, onnxruntime CUDA", whole, on_gpu, sample, GPU_CALLERS)
    else:
        on_gpu.close()
    for library in ENGINE_BACKENDS:
        engine = _engine(whole, library, folder, sample)
        if engine is not None:
            yield _unsplit(
                f"unsplit_{library}", f"unsplit on the GPU, one {library} engine", whole, engine, sample, GPU_CALLERS
            )


def _runs(backend: StageBackend, whole: StageConfig, sample: Mapping[str, Value]) -> bool:
    """Return whether a backend runs the whole model: onnxruntime's CUDA provider takes nodes that fail in it."""
    try:
        backend.run({name: sample[name] for name in whole.inputs})
    except BackendError:
        return False
    return True


def whole_stage(plan: PlanConfig, model: Path, folder: Path) -> StageConfig:
    """Return the whole model as one stage on the CPU, written into a folder."""
    libraries = tuple(str(entry.file) for entry in plan.custom_ops if entry.file is not None)
    graph = with_operators(load(model, custom_ops=libraries))
    (stage,) = form_stages(graph, [Part(device="cpu", nodes=tuple(node.name for node in graph.placeable))])
    write_stages(graph, (stage,), folder)
    return StageConfig(
        index=0,
        device="cpu",
        backend="onnxruntime-cpu",
        model=folder / stage.model,
        inputs=stage.inputs,
        outputs=stage.outputs,
        service_s=0.0,
    )


def _engine(whole: StageConfig, library: EngineBackend, folder: Path, sample: Mapping[str, Value]) -> StageBackend | None:
    """Return the whole model as one engine, None where there is no GPU or the library refuses."""
    stage = replace(whole, device="gpu", backend=library, engine=whole_engine(whole, library, folder, sample))
    try:
        return TensorRtBackend.load(stage, BackendOptions(intra_op_threads=1, custom_ops=()))
    except BackendError:
        return None


def whole_engine(whole: StageConfig, library: EngineBackend, folder: Path, sample: Mapping[str, Value]) -> EngineConfig:
    """Return how to come by the engine of a whole model, for the shapes of a sample alone."""
    given = {name: np.asarray(sample[name]) for name in whole.inputs}
    ranges = tuple(
        EngineInput(name=name, shapes=(value.shape,) * 3, values=(_elements(value),) * 3) for name, value in given.items()
    )
    return EngineConfig(backend=library, model=whole.model, folder=folder / "engines", precision="fp32", inputs=ranges)


def _elements(value: np.ndarray) -> tuple[int, ...]:
    """Return the elements of what may be a shape."""
    return tuple(value.ravel().tolist()) if value.dtype.kind == "i" and value.size <= MOST_RANK else ()


def _unsplit(
    name: str, title: str, whole: StageConfig, backend: StageBackend, sample: Mapping[str, Value], concurrency: int = 1
) -> Subject:
    feeds = {given: sample[given] for given in whole.inputs}
    return Subject(
        name=name, title=title, caller=lambda: lambda: backend.run(feeds), concurrency=concurrency, close=backend.close
    )


def _open(plan: PlanConfig, whole: StageConfig, threads: int) -> StageBackend:
    return LOADERS[whole.backend](whole, BackendOptions(intra_op_threads=threads, custom_ops=plan.custom_ops))


def _rows(plan: PlanConfig, entry: Watched) -> int:
    """Return the most requests that a stage takes as one."""
    if not entry.stage.batchable or entry.device == "cpu":
        return 1
    return min(plan.max_batch or 1, entry.max_batch or plan.max_batch or 1)


def _calling(entry: Watched, feeds: Mapping[str, Value]) -> Callable[[], Call]:
    return lambda: lambda: entry.run(feeds)
