"""The emitted pipeline of one model against every unsplit arrangement, its prediction, and sizes around the plan's.

Each row is the median over turns in which every arrangement ran; ratios are of those turns. The gain over one request at a
time is told apart: what the pipeline gains with one CPU worker and no batches is overlap, then replicated CPU workers, then
batches.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.gpu.command import cutset
from benchmarks.gpu.job import Job
from benchmarks.gpu.material import subject
from benchmarks.gpu.standin import stand_in_profile
from benchmarks.gpu.unsplit import by_hand, unsplit, whole_model
from benchmarks.gpu.usage import Nvml, Usage
from cutset import serde
from cutset.codegen.bench.bench import BenchOptions, bench
from cutset.codegen.bench.standin import Deployed
from cutset.codegen.bench.subjects import Subject, pipeline_subject
from cutset.codegen.package import MANIFEST_SCHEMA
from cutset.codegen.report.material import Material, read_material
from cutset.codegen.runtime.bench import load as drive
from cutset.codegen.runtime.samples import read_sample
from cutset.errors import CutsetError
from cutset.graph.load import load, with_operators
from cutset.partitioner.steps import Step, demand_of

ROUNDS = 3
DIFFERENT, LOOSE = 4, 1e-2
"""Exit code of `cutset partition` where the numbers of the parts differ, and the tolerance of a second try, which is told."""
ANSWERS, LONGEST = 20, 4.0
"""Answers that a turn should have, and how many times its usual length it may take to have them."""
COMPARED_SHARE = 0.7
"""Of the time that is left when the package is made; the rest is for other sizes of the pipeline."""
TOLD_APART = 3
"""Sizes that the gain is told apart by, measured however late it is."""
UNSPLIT = ("one", "one_wide", "bound", "threads_", "bound_threads", "sessions_")
"""Arrangements of the unsplit model on the GPU, by how their names begin."""


def serve(job: Job) -> dict[str, Any]:
    """Return what one model's package reaches, and everything it is held against."""
    return _serve(job, "onnxruntime-cuda")


def serve_engines(job: Job) -> dict[str, Any]:
    """Return the same for a package whose GPU stages are engines, if a library that builds them is here."""
    found = _serve(job, "auto")
    if found["backend"] in {"onnxruntime-cuda", "none"}:
        found["note"] = "no stage of this package is an engine"
    return found


def _serve(job: Job, backend: str) -> dict[str, Any]:
    begin = time.monotonic()
    work = job.folder / "serving" / f"{job.name}-{backend}"
    model = subject(job.name, job.folder / "models").path
    plan = partition(job, model, work / "out", backend)
    (package,) = (work / "out" / "serving").glob("*_serving")
    material = read_material(work / "out")
    found: dict[str, Any] = {"plan": _plan(plan), "backend": _backend(plan)}
    found["bench"] = _benched(package, material, job)
    left = begin + job.seconds - time.monotonic()
    found |= _compared(job, package, work, time.monotonic() + COMPARED_SHARE * left)
    found["variants"] = _variants(job, package, found["plan"], begin + job.seconds)
    found |= _judged(found)
    return found


def partition(job: Job, model: Path, target: Path, backend: str) -> dict[str, Any]:
    """Return the plan of a package that is made as a user makes it."""
    words = ["partition", model, "-o", target, "--force", "--gpu-backend", backend, "--calibrate"]
    words += ["--profile-seconds", job.measured_s, "--cache", job.folder / "cache"]
    words += ["--target", f"cuda:{job.device}" if job.device is not None else stand_in_profile(job, model)]
    try:
        return cutset(*words)
    except RuntimeError as error:
        if f"ended with {DIFFERENT}" not in str(error):
            raise
        return {**cutset(*words, "--rtol", LOOSE, "--atol", LOOSE), "loosened": str(error)}


def _plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the plan says: the decision, the sizes, and how many cores it takes to feed the GPU."""
    steps = [Step(**entry) for entry in plan["steps"]]
    demand = demand_of(steps, plan["batch"])
    gpu_s = demand.get("gpu", 0.0)
    return {
        "decision": plan["decision"],
        "verdict": plan["verdict"],
        "stages": [[stage["device"], len(stage["nodes"]), stage["service_s"]] for stage in plan["stages"]],
        "workers": plan["cpu_workers"],
        "batch": max(step.most(plan["batch"]) for step in steps),
        "bottleneck": plan["prediction"]["bottleneck"],
        "utilisation": plan["prediction"]["utilisation"],
        "predicted_per_s": plan["prediction"]["throughput_per_s"],
        "cores_to_feed_the_gpu": math.ceil(demand.get("cpu", 0.0) / gpu_s) if gpu_s else None,
        "calibration": plan.get("calibration"),
        "loosened": plan.get("loosened"),
    }


def _backend(plan: Mapping[str, Any]) -> str:
    return next((str(stage["backend"]) for stage in plan["stages"] if stage["device"] == "gpu"), "none")


def _benched(package: Path, material: Material, job: Job) -> dict[str, Any]:
    """Return the efficiency and the error of the prediction, as `cutset bench` finds them."""
    kept = ("pipeline", "resources", "efficiency", "efficiency_interval", "prediction", "prediction_error", "stand_ins")
    try:
        found = bench(package, material, BenchOptions(budget_s=8 * job.measured_s))
    except CutsetError as error:  # too little time for a slow model; the comparison below stands on its own
        return dict.fromkeys(kept) | {"reason": str(error)}
    return {name: found[name] for name in kept}


def _compared(job: Job, package: Path, work: Path, until: float) -> dict[str, Any]:
    """Return the pipeline and what it is held against, measured in turns, and the nodes that the device cannot run."""
    with closing(Deployed(package)) as deployed:
        sample = read_sample(deployed.plan, package)
        assert sample is not None
        libraries = tuple(str(entry.file) for entry in deployed.plan.custom_ops if entry.file is not None)
        graph = with_operators(load(_partitioned(work / "out"), custom_ops=libraries))
        whole = whole_model(graph, sample, job, work / "whole")
        subjects = [pipeline_subject(deployed, sample, None), *unsplit(whole), *by_hand(whole, work / "hand")]
        rows = in_turns(subjects, Nvml(job.device), job, until)
        return {"rows": rows, "unsplit_refused": dict(whole.refused)}


def in_turns(subjects: Sequence[Subject], nvml: Nvml, job: Job, until: float) -> list[dict[str, Any]]:
    """Return what each subject reached: every one runs in each round, which keeps ratios fair on a machine that wavers."""
    rows: dict[str, list[dict[str, Any]]] = {one.name: [] for one in subjects}
    seconds: dict[str, float] = {}
    for one in subjects:  # what is loaded late is loaded now: kernels, algorithms, memory
        found = drive(one.caller, one.concurrency, job.measured_s / 4)
        slow_s = ANSWERS * found.p50_s / one.concurrency if math.isfinite(found.p50_s) else math.inf
        seconds[one.name] = min(max(job.measured_s, slow_s), LONGEST * job.measured_s)
    for number in range(1 if job.small else ROUNDS):
        for one in subjects:
            if number and time.monotonic() > until:
                break
            with Usage(nvml) as usage:
                found = drive(one.caller, one.concurrency, seconds[one.name])
            rows[one.name].append({**serde.to_builtins(found), "gpu": usage.gpu, "cpu": usage.cpu, "threads": usage.threads})
    return [_row(one, rows[one.name]) for one in subjects]


def _row(one: Subject, turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    gpu = [turn["gpu"] for turn in turns if turn["gpu"] is not None]
    return {
        "name": one.name,
        "title": one.title,
        "concurrency": one.concurrency,
        "per_s": median(turn["throughput_per_s"] for turn in turns),
        "turns_per_s": [turn["throughput_per_s"] for turn in turns],
        "p50_s": median(turn["p50_s"] for turn in turns),
        "p99_s": median(turn["p99_s"] for turn in turns),
        "gpu": median(gpu) if gpu else None,
        "cpu": median(turn["cpu"] for turn in turns),
        "threads": turns[-1]["threads"],
        "failed": sum(turn["failed"] for turn in turns),
    }


def _variants(job: Job, package: Path, plan: Mapping[str, Any], until: float) -> list[dict[str, Any]]:
    """Return the pipeline at other sizes: one worker without batches, the planned workers without, and around the plan."""
    workers, rows = plan["workers"], plan["batch"]
    sizes = [(1, 1), (workers, 1), (workers, rows)]
    sizes += [
        (max(1, workers // 2), rows),
        (min(job.cores, workers + 1), rows),
        (workers, max(1, rows // 2)),
        (workers, 2 * rows),
    ]
    found: list[dict[str, Any]] = []
    for cpu_workers, max_batch in dict.fromkeys(sizes[:TOLD_APART] if job.small else sizes):
        if (cpu_workers, max_batch) not in sizes[:TOLD_APART] and time.monotonic() > until:
            break
        with closing(Deployed(package, cpu_workers=cpu_workers, max_batch=max_batch)) as deployed:
            sample = read_sample(deployed.plan, package)
            assert sample is not None
            one = replace(pipeline_subject(deployed, sample, None), name=f"{cpu_workers}x{max_batch}")
            (row,) = in_turns([one], Nvml(job.device), job, 0.0)
        found.append({**row, "workers": cpu_workers, "max_batch": max_batch})
    return found


def _judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ratios that the claims are about."""
    rate = {row["name"]: row["per_s"] for row in found["rows"]}
    pipeline, one = rate["pipeline"], rate["one"]
    together = {name: per_s for name, per_s in rate.items() if name.startswith(UNSPLIT)}
    best = max(together, key=lambda name: together[name])
    by_size = {(row["workers"], row["max_batch"]): row["per_s"] for row in found["variants"]}
    workers, batch = found["plan"]["workers"], found["plan"]["batch"]
    steps = [one, by_size.get((1, 1)), by_size.get((workers, 1)), by_size.get((workers, batch))]
    names = ("overlap", "cpu_replication", "batching")
    return {
        "over_one_at_a_time": pipeline / one if one else None,
        "best_unsplit": best,
        "over_best_unsplit": pipeline / together[best] if together[best] else None,
        "gain": {n: b / a for n, a, b in zip(names, steps, steps[1:], strict=False) if a and b},
        "best_size": max(by_size, key=lambda size: by_size[size], default=None),
    }


def _partitioned(out: Path) -> Path:
    """Return the model that was partitioned: of a cascade, the one it was composed to."""
    return Path(serde.read_json(out / "manifest.json", schema=MANIFEST_SCHEMA)["model_path"])
