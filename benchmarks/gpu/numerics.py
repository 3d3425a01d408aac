"""How far a model's outputs on the GPU are from the CPU's in float32: in float32, tf32 and float16, on real inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.gpu.job import Job
from benchmarks.gpu.material import in_precision, inputs_of, subject
from cutset import serde
from cutset.codegen.precision.error import errors_of
from cutset.graph.load import load, with_operators
from cutset.profilers.ort_child import SessionJob, run_session

SEEDS = (0, 1)
WAYS = {"fp32": ("fp32", "0"), "tf32": ("fp32", "1"), "fp16": ("fp16", "0")}
"""File that is run, and whether its float32 products may be computed in tf32."""


def compare_model(job: Job) -> dict[str, Any]:
    """Return the errors of each output of one model in each precision, or why there are none."""
    one = subject(job.name, job.folder / "models")
    custom_ops = with_operators(load(one.path)).custom_ops
    asked = [
        SessionJob(model=one.path, feed=inputs_of(job.name, seed=seed), threads=job.cores, custom_ops=custom_ops)
        for seed in (SEEDS[:1] if job.small else SEEDS)
    ]
    reference = [run_session(ask) for ask in asked]
    rows = []
    for way, (precision, tf32) in WAYS.items():
        try:
            model = in_precision(one.path, precision)
            on_gpu = [replace(ask, model=model, cuda_device=job.device, cuda_options={"use_tf32": tf32}) for ask in asked]
            found = [run_session(ask) for ask in on_gpu]
            rows.append({"precision": way, "outputs": serde.to_builtins(errors_of(reference, found))})
        except Exception as error:  # a precision that fails leaves the others standing
            rows.append({"precision": way, "failure": str(error)[:400]})
    return {"inputs": len(asked), "rows": rows}
