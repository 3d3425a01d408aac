"""What every group of every model costs on the GPU, in place, and how well that predicts a model that was left out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.gpu.ceilings import copies
from benchmarks.gpu.job import Job
from benchmarks.gpu.left_out import identity, leave_each_out, profiles
from benchmarks.gpu.material import batched_file, in_precision, subject
from cutset import serde
from cutset.files import write_atomic
from cutset.graph.load import load, with_operators
from cutset.profilers.child import Failure, Limits
from cutset.profilers.cuda_driver import CudaDevice
from cutset.profilers.environment import environment
from cutset.profilers.ort_child import SessionJob
from cutset.profilers.ort_cpu import observe
from cutset.profilers.ort_cuda import Children, group_costs, profile_session
from cutset.profilers.profile import batched, described
from cutset.profilers.shipped import record, write_recording
from cutset.profilers.table import CostTable, ModelFile, SessionCost, read_profile

BATCHES = (1, 8, 64)
PRECISIONS = ("fp32", "fp16")
LIMITS = Limits(time_s=60.0)


@cache
def _children() -> Children:
    """Return the two processes that measure; they end with this one."""
    return Children(LIMITS)


def profile_model(job: Job) -> dict[str, Any]:
    """Return a row for each precision and batch of one model, and what there was no time for; profiles go into files."""
    until = time.monotonic() + job.seconds
    one = subject(job.name, job.folder / "models")
    many = batched_file(one.path, one.inputs)
    points = [(batch, precision) for batch in (BATCHES[:2] if job.small else BATCHES) for precision in PRECISIONS]
    points = [(batch, precision) for batch, precision in points if batch == 1 or many is not None]
    rows: list[dict[str, Any]] = []
    left = []
    for batch, precision in points:
        target = job.folder / "profiles" / f"{job.name}-{precision}-{batch}.json"
        if not target.is_file():
            if rows and time.monotonic() > until:
                left.append([batch, precision])
                continue
            try:
                table = _profiled(job, in_precision(many or one.path, precision), one.inputs, batch)
            except Exception as error:  # one precision or batch that fails leaves the others standing
                rows.append({"batch": batch, "precision": precision, "failure": str(error)[:400]})
                continue
            write_atomic(target, serde.dumps(table).encode())
        rows.append(_row(read_profile(target), batch, precision))
    return {"batchable": many is not None, "rows": rows, "left": left}


def _profiled(job: Job, model: Path, inputs: Mapping[str, Any], batch: int) -> CostTable:
    graph = with_operators(load(model))
    feed = batched(graph, inputs, batch)
    seen = observe(graph, feed, threads=job.cores)
    graph = graph.with_measured(seen.shapes, seen.dtypes)
    asked = SessionJob(
        model=Path(), feed=feed, cuda_device=job.device, budget_s=job.measured_s / 2, custom_ops=graph.custom_ops
    )
    found = profile_session(graph, asked, limits=LIMITS, children=_children())
    if isinstance(found, Failure):
        raise RuntimeError(found.detail)
    session = SessionCost(
        device="gpu", backend="onnxruntime-cuda", batch=batch, threads=1, latency_s=found.session.latency, source="measured"
    )
    return CostTable(
        model=ModelFile(file=model.name, sha256=graph.sha256, nodes=len(graph.nodes)),
        target={
            "kernel_sum_ratio": found.kernel_sum_ratio,
            "device_bytes": found.session.device_bytes,
            "state": serde.to_builtins(found.session.state),
        },
        environment=serde.to_builtins(environment()),
        shapes=dict(graph.measured),
        sessions=(session,),
        groups=group_costs(found, [described(graph, group.nodes) for group in seen.groups], batch=batch),
        transfers=(),
    )


def _row(table: CostTable, batch: int, precision: str) -> dict[str, Any]:
    latency_s = table.sessions[0].latency_s.median
    about = table.target or {}
    return {
        "batch": batch,
        "precision": precision,
        "latency_s": latency_s,
        "per_s": batch / latency_s,
        "groups": len(table.groups),
        "refused": sum(group.latency_s is None for group in table.groups),
        "kernel_sum_ratio": about["kernel_sum_ratio"],
        "device_bytes": about["device_bytes"],
    }


def fit(job: Job) -> dict[str, Any]:
    """Return how far each model's total is from what the profiles of all others say; write the recording of this GPU.

    Raises:
        RuntimeError: If fewer than two models were profiled.
    """
    tables = profiles(job.folder / "profiles")
    fp32 = {name: table for name, table in tables.items() if name.rpartition("-")[0].endswith("-fp32")}
    models = {name.rpartition("-")[0].removesuffix("-fp32") for name in fp32}
    if len(models) < 2:
        raise RuntimeError(f"{len(models)} models were profiled: there is nothing to leave out")
    about, moved = target_of(job), copies(job)
    others = [table for name, table in tables.items() if name not in fp32]
    made = record(list(fp32.values()), others, target=about, transfers=moved.models())
    path = write_recording(made, job.folder / f"recorded-{about['id']}.json")
    return {
        **leave_each_out(fp32, about),
        "models": len(models),
        "recording": {"file": path.name, "size_bytes": path.stat().st_size, "groups": len(made.groups)},
    }


def target_of(job: Job) -> dict[str, Any]:
    """Return what the GPU is called in a recording: the id of its data sheet where there is one."""
    if job.device is None:
        return {"id": "stand-in", "name": "CPU in place of a GPU"}
    with CudaDevice(job.device) as cuda:
        return identity(cuda.name)
