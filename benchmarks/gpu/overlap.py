"""Do copies overlap with computation, and CPU stages with GPU stages: shown by traces that chrome://tracing and Perfetto open.

The trace of stages is the runtime's own. That of the device, kernel by kernel and copy by copy, is taken with CUPTI through
`torch.profiler`, which sees everything that the process does on the GPU, where PyTorch happens to be installed; Cutset does
not need it for anything else.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.gpu.job import Job
from benchmarks.gpu.material import subject
from benchmarks.gpu.serving import partition
from cutset.codegen.bench.standin import Deployed
from cutset.codegen.bench.subjects import pipeline_subject
from cutset.codegen.runtime.bench import load as drive
from cutset.codegen.runtime.samples import read_sample
from cutset.files import write_atomic
from cutset.partitioner.simulate import Span

Interval = tuple[float, float]


def trace(job: Job) -> dict[str, Any]:
    """Return the shares of time that overlap in a saturated pipeline; the traces are beside the document."""
    out = job.folder / "serving" / f"{job.name}-onnxruntime-cuda" / "out"
    if not (out / "plan.json").is_file():
        partition(job, subject(job.name, job.folder / "models").path, out, "onnxruntime-cuda")
    (package,) = (out / "serving").glob("*_serving")
    with closing(Deployed(package)) as deployed:
        sample = read_sample(deployed.plan, package)
        assert sample is not None
        pipeline = pipeline_subject(deployed, sample, None)
        drive(pipeline.caller, pipeline.concurrency, job.measured_s / 2)
        deployed.watch()
        drive(pipeline.caller, pipeline.concurrency, job.measured_s)
        spans = deployed.seen()
        path = write_atomic(job.folder / f"trace-{job.name}-stages.json", json.dumps(_chrome(spans)).encode())
        found: dict[str, Any] = {"stages": {"file": path.name, **stage_overlap(spans)}}
        found["device"] = _device_trace(job, pipeline.caller, pipeline.concurrency)
    return found


def stage_overlap(spans: Sequence[Span]) -> dict[str, Any]:
    """Return the seconds in which each device worked, and in which both did."""
    sides = {name: merged((s.start_s, s.end_s) for s in spans if s.resource == name) for name in ("cpu", "gpu")}
    return {
        "cpu_s": length(sides["cpu"]),
        "gpu_s": length(sides["gpu"]),
        "both_s": length(common(sides["cpu"], sides["gpu"])),
        "runs": len(spans),
    }


def _device_trace(job: Job, caller: Any, concurrency: int) -> dict[str, Any]:
    """Return what CUPTI saw, or why it was not asked."""
    if job.device is None:
        return {"reason": "no GPU: the CPU provider stands in"}
    try:
        profiler = importlib.import_module("torch.profiler")
        torch = importlib.import_module("torch")
        torch.cuda.init()
    except Exception as error:  # an installation without PyTorch, or one for another CUDA
        return {"reason": f"PyTorch, through which CUPTI is asked, cannot be used: {error}"[:300]}
    path = job.folder / f"trace-{job.name}-device.json"
    with profiler.profile(activities=[profiler.ProfilerActivity.CUDA]) as taken:
        drive(caller, concurrency, min(0.5, job.measured_s))
        torch.cuda.synchronize()
    taken.export_chrome_trace(str(path))
    return {"file": path.name, "size_bytes": path.stat().st_size, **device_overlap(path)}


def device_overlap(path: Path) -> dict[str, Any]:
    """Return the seconds of kernels and copies in a trace of `torch.profiler`, and the seconds in which both went on."""
    events = json.loads(path.read_text("utf-8"))["traceEvents"]
    kinds: dict[str, list[Interval]] = {"kernel": [], "h2d": [], "d2h": []}
    streams = set()
    for event in events:
        name, category = str(event.get("name", "")), event.get("cat")
        kind = "kernel" if category == "kernel" else "h2d" if "HtoD" in name else "d2h" if "DtoH" in name else ""
        if kind and category in {"kernel", "gpu_memcpy"}:
            kinds[kind].append((event["ts"] * 1e-6, (event["ts"] + event["dur"]) * 1e-6))
            streams.add(event.get("args", {}).get("stream"))
    sides = {kind: merged(found) for kind, found in kinds.items()}
    copies = merged((*sides["h2d"], *sides["d2h"]))
    return {
        **{f"{kind}_s": length(found) for kind, found in sides.items()},
        "copies_beside_kernels_s": length(common(copies, sides["kernel"])),
        "streams": len(streams),
        "pageable": sum("Pageable" in str(event.get("name", "")) for event in events),
    }


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals as disjoint ones in order."""
    found: list[Interval] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


def common(one: Sequence[Interval], other: Sequence[Interval]) -> list[Interval]:
    """Return what two lists of disjoint intervals in order have in common."""
    found, i, j = [], 0, 0
    while i < len(one) and j < len(other):
        begin, end = max(one[i][0], other[j][0]), min(one[i][1], other[j][1])
        if begin < end:
            found.append((begin, end))
        if one[i][1] < other[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(intervals: Iterable[Interval]) -> float:
    """Return the sum of the lengths."""
    return sum(end - begin for begin, end in intervals)


def _chrome(spans: Sequence[Span]) -> dict[str, Any]:
    """Return spans in the trace format of Chrome: a process a device, a thread a worker; microseconds."""
    begin = min((span.start_s for span in spans), default=0.0)
    return {
        "traceEvents": [
            {
                "name": f"stage {span.step}",
                "ph": "X",
                "ts": (span.start_s - begin) * 1e6,
                "dur": (span.end_s - span.start_s) * 1e6,
                "pid": span.resource,
                "tid": span.server,
            }
            for span in spans
        ]
    }
