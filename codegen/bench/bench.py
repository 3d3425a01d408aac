"""`cutset bench` as a library: measure an output folder of `partition`, and say how it compares."""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cutset import serde
from cutset.codegen.bench.openloop import OpenLoad, open_loop
from cutset.codegen.bench.prediction import predicted_here, slowed_by
from cutset.codegen.bench.rounds import Rounds, resource_rates, run_rounds
from cutset.codegen.bench.server import serving
from cutset.codegen.bench.standin import Deployed
from cutset.codegen.bench.subjects import PIPELINE, REPLICAS, STAGE, Subject, pipeline_subject, stage_subjects, unsplit_subjects
from cutset.codegen.report.material import BENCH_SCHEMA, Material
from cutset.codegen.runtime.backends.base import BackendError
from cutset.codegen.runtime.bench import HttpCaller, load
from cutset.codegen.runtime.dtypes import Value
from cutset.codegen.runtime.samples import read_sample
from cutset.errors import ModelError, UsageError
from cutset.partitioner.simulate import Span
from cutset.profilers.cache import CostCache
from cutset.profilers.environment import environment
from cutset.profilers.gauge import recall, slowdown

WINDOW = 8
"""Results that the measured timeline shows."""
WATCHED_S = 3.0
"""Longest time that runs are written down for the timeline and the utilisation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """How to measure.

    Args:
        model: The model that was partitioned, None to leave the unsplit baselines out.
        budget_s: Seconds for the interleaved rounds.
        concurrency: Callers of the pipeline, None for enough to saturate it.
        http: Whether to measure the emitted server too.
        rates: Requests a second to offer open-loop.
        cache: Where measured costs are kept, and how fast this machine is when it is left alone.
        progress: Told what is being done.
    """

    model: Path | None = None
    budget_s: float = 60.0
    concurrency: int | None = None
    http: bool = False
    rates: tuple[float, ...] = ()
    cache: CostCache = field(default_factory=lambda: CostCache(None))
    progress: Callable[[str], None] = lambda _text: None


def bench(package: Path, material: Material, options: BenchOptions) -> dict[str, Any]:
    """Return what was measured, as ``bench.json`` holds it.

    Args:
        package: The serving package.
        material: The plan and the costs behind it.
        options: How to measure.

    Raises:
        UsageError: If the package has no sample to send.
        ConfigError: If the package cannot be loaded.
        ModelError: If onnxruntime does not open the unsplit model.
    """
    options.progress("loading the pipeline")
    before = _resident_bytes()
    with contextlib.ExitStack() as stack:
        deployed = Deployed(package)
        stack.callback(deployed.close)
        sample = read_sample(deployed.plan, package)
        if sample is None:
            raise UsageError(f"{package} has no sample.npz to send", hint="partition the model again")
        deployed.pipeline.run(sample)
        loaded_bytes = _resident_bytes() - before
        subjects = [pipeline_subject(deployed, sample, options.concurrency), *stage_subjects(deployed, sample)]
        subjects += stack.enter_context(_others(deployed, package, sample, options))
        devices = {f"{STAGE}_{entry.stage.index}": entry.device for entry in deployed.stages}
        recall(options.cache)
        rounds = run_rounds(subjects, devices, options.budget_s, options.progress)
        options.progress("watching the pipeline")
        spans = _watched(deployed, subjects[0], rounds)
        rates = [_offered(deployed, sample, rate, rounds, options) for rate in options.rates]
    return {
        **_document(material, deployed, subjects, rounds, spans),
        "rates": [serde.to_builtins(entry) for entry in rates],
        "memory": {"pipeline_bytes": max(0, loaded_bytes), "peak_bytes": _peak_bytes()},
    }


@contextlib.contextmanager
def _others(deployed: Deployed, package: Path, sample: Mapping[str, Value], options: BenchOptions) -> Iterator[list[Subject]]:
    """Yield what the pipeline is held against: the unsplit model, and its own server."""
    with contextlib.ExitStack() as stack:
        found: list[Subject] = []
        if options.model is not None:
            options.progress("loading the unsplit model")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cutset-bench-")))
            try:
                for subject in unsplit_subjects(deployed.plan, options.model, folder, sample, deployed.cores):
                    stack.callback(subject.close)
                    found.append(subject)
            except BackendError as error:
                raise ModelError(f"onnxruntime does not open {options.model}", cause=str(error)) from error
        if options.http:
            options.progress("starting the server")
            url = stack.enter_context(serving(package))
            callers = pipeline_subject(deployed, sample, options.concurrency).concurrency
            found.append(
                Subject(
                    name="http",
                    title="the pipeline's server, over HTTP",
                    caller=lambda: HttpCaller(url, deployed.plan, sample),
                    concurrency=callers,
                )
            )
        yield found


def _watched(deployed: Deployed, pipeline: Subject, rounds: Rounds) -> list[Span]:
    """Return the runs of a saturated pipeline, the time in which it fills and runs empty left out."""
    deployed.watch()
    load(pipeline.caller, pipeline.concurrency, min(WATCHED_S, rounds.seconds))
    spans = deployed.seen()
    first, last = min(span.start_s for span in spans), max(span.end_s for span in spans)
    margin = (last - first) / 4
    return [span for span in spans if span.end_s > first + margin and span.start_s < last - margin]


def _offered(deployed: Deployed, sample: Mapping[str, Value], rate: float, rounds: Rounds, options: BenchOptions) -> OpenLoad:
    options.progress(f"offering {rate:g} requests a second")
    duration_s = min(options.budget_s / 2, max(4 * rounds.seconds, 200 / rate))
    return open_loop(deployed.pipeline, sample, rate, duration_s)


def _document(
    material: Material, deployed: Deployed, subjects: Sequence[Subject], rounds: Rounds, spans: Sequence[Span]
) -> dict[str, Any]:
    rates = {subject.name: rounds.throughput(subject.name) for subject in subjects}
    devices = {f"{STAGE}_{entry.stage.index}": entry.device for entry in deployed.stages}
    alone = resource_rates({name: rates[name] for name in devices}, devices)
    measured = rates[PIPELINE]
    undisturbed = predicted_here(material.plan, material.table, deployed.stand_ins)
    whole = measured / rounds.gain(REPLICAS) if REPLICAS in rates else None
    slowed = slowed_by(material.plan, material.table, deployed.cores, whole) or float(slowdown(np.array(rounds.slowness)))
    here = undisturbed / slowed
    busy = utilisation(spans, deployed.servers)
    baselines = {
        name: {"throughput_per_s": rates[name], "latency_s": rounds.latency(name), "gain": rounds.gain(name)}
        for name in rates
        if name not in devices and name != PIPELINE
    }
    return {
        "schema": BENCH_SCHEMA,
        "pipeline": {
            "throughput_per_s": measured,
            "latency_s": rounds.latency(PIPELINE),
            "concurrency": subjects[0].concurrency,
            "utilisation": busy["devices"],
            "stages": [
                {
                    "index": entry.stage.index,
                    "device": entry.device,
                    "stands_in": entry.stands_in,
                    "throughput_per_s": rates[f"{STAGE}_{entry.stage.index}"],
                    "utilisation": busy["stages"].get(entry.stage.index, 0.0),
                }
                for entry in deployed.stages
            ],
        },
        "resources": alone,
        "efficiency": rounds.ratio,
        "efficiency_interval": list(rounds.interval),
        "baselines": baselines,
        "prediction": {
            "planned_per_s": material.plan["prediction"]["throughput_per_s"],
            "here_per_s": here,
            "slowness": slowed,
        },
        "prediction_error": here / measured - 1 if measured else None,
        "stand_ins": deployed.stand_ins,
        "cores": deployed.cores,
        "rounds": rounds.count,
        "disturbed_rounds": rounds.disturbed,
        "round_s": rounds.seconds,
        "rows": _rows(subjects, rounds),
        "timeline": [serde.to_builtins(span) for span in _window(spans, measured)],
        "environment": serde.to_builtins(environment()),
    }


def _rows(subjects: Sequence[Subject], rounds: Rounds) -> list[dict[str, Any]]:
    return [
        {
            "name": subject.name,
            "title": subject.title,
            "concurrency": subject.concurrency,
            "throughput_per_s": rounds.throughput(subject.name),
            "latency_s": rounds.latency(subject.name),
            "failed": sum(entry.failed for entry in rounds.loads[subject.name]),
        }
        for subject in subjects
    ]


def utilisation(spans: Sequence[Span], servers: Mapping[str, int]) -> dict[str, dict[Any, float]]:
    """Return the busy share of each device's workers, and what each stage has of it.

    Args:
        spans: What ran, between moments at which the pipeline was full.
        servers: Workers of each device.
    """
    begin, end = max(span.start_s for span in _firsts(spans)), max(span.end_s for span in spans)
    whole = (end - begin) or 1.0
    stages: dict[int, float] = {}
    devices: dict[str, float] = dict.fromkeys(servers, 0.0)
    for span in spans:
        share = max(0.0, min(span.end_s, end) - max(span.start_s, begin)) / (whole * servers[span.resource])
        stages[span.step] = stages.get(span.step, 0.0) + share
        devices[span.resource] += share
    return {"stages": stages, "devices": {name: min(1.0, share) for name, share in devices.items()}}


def _firsts(spans: Sequence[Span]) -> list[Span]:
    seen: dict[str, Span] = {}
    for span in spans:
        seen.setdefault(span.resource, span)
    return list(seen.values())


def _window(spans: Sequence[Span], throughput_per_s: float) -> list[Span]:
    """Return what ran while about `WINDOW` results came, times from zero."""
    middle = spans[len(spans) // 2].start_s  # when something ran, however long the machine stood still elsewhere
    end = middle + WINDOW / throughput_per_s
    return [
        Span(
            step=span.step,
            resource=span.resource,
            server=span.server,
            requests=span.requests,
            start_s=max(span.start_s, middle) - middle,
            end_s=min(span.end_s, end) - middle,
        )
        for span in spans
        if span.end_s > middle and span.start_s < end
    ]


def _resident_bytes() -> int:
    """Return the memory of this process, zero where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
