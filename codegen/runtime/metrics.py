"""What `/metrics` shows, in Prometheus's text format.

Nothing is kept for it: the pipeline's own counters are read when somebody asks, so an unread metric costs a request nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from .service import Service
from .statistics import Distribution

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.registry import CollectorRegistry
except ImportError:  # the extra `metrics` is not installed
    _INSTALLED = False
    CONTENT_TYPE = b"text/plain"
else:
    _INSTALLED = True
    CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()


def render(service: Service) -> bytes:
    """Return the metrics of a service as text."""
    if not _INSTALLED:
        return b"# metrics need the package prometheus-client: pip install prometheus-client\n"
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(service))
    return generate_latest(registry)


class _Collector:
    """Reads the numbers of one service and of the GPUs of this machine."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._requests()
        yield from self._stages()
        yield from _gpus()

    def _requests(self) -> Iterator[Metric]:
        pipeline = self._service.pipeline
        stats = pipeline.stats()
        answers = CounterMetricFamily("cutset_answers", "Answers sent, by protocol and status.", labels=["protocol", "status"])
        for labels, count in sorted(self._service.answers.items()):
            answers.add_metric(labels, count)
        yield answers
        failures = CounterMetricFamily("cutset_failures", "Requests that failed, by reason.", labels=["reason"])
        for reason, count in sorted(stats.failures.items()):
            failures.add_metric([reason], count)
        yield failures
        yield _histogram("cutset_request_seconds", "From submission to result.", {(): pipeline.distributions()[0]})
        for name, text, value in (
            ("cutset_ready", "1 if requests are taken, every stage has a backend that lives, and none hangs.", pipeline.ready),
            ("cutset_live", "0 if a new process is needed: a stage hangs, or dies again and again.", pipeline.live),
            ("cutset_held_bytes", "Memory of the requests and answers that are held.", self._service.memory.held_bytes),
            ("cutset_inside", "Requests inside the pipeline.", stats.inside),
            ("cutset_waiting", "Requests in the line outside.", stats.waiting),
            ("cutset_uptime_seconds", "Time since the pipeline was loaded.", stats.uptime_s),
        ):
            yield GaugeMetricFamily(name, text, value=float(value))
        used = GaugeMetricFamily("cutset_utilisation", "Share of a device's worker time in use.", labels=["device"])
        for device, share in stats.utilisation.items():
            used.add_metric([device], share)
        yield used

    def _stages(self) -> Iterator[Metric]:
        stages = self._service.pipeline.stats().stages
        labels = [(str(stage.index), stage.device) for stage in stages]
        found = self._service.pipeline.distributions()[1]
        for name, key, text in (
            ("cutset_stage_seconds", "service", "Time of one run."),
            ("cutset_stage_wait_seconds", "waited", "Time a request waited for its run."),
            ("cutset_stage_rows", "rows", "Rows of one run, of stages that can be batched."),
        ):
            yield _histogram(name, text, dict(zip(labels, (entry[key] for entry in found), strict=True)))
        for name, text, attribute in (
            ("cutset_stage_failures", "Requests that failed in the stage.", "failed"),
            ("cutset_stage_replaced", "Times the stage's backend died and was loaded anew.", "replaced"),
        ):
            counter = CounterMetricFamily(name, text, labels=["stage", "device"])
            for label, stage in zip(labels, stages, strict=True):
                counter.add_metric(label, getattr(stage, attribute))
            yield counter
        fallbacks = CounterMetricFamily(
            "cutset_stage_fallbacks",
            "Runs that the stage's backend refused, as an engine does outside its range, and that another backend did.",
            labels=["stage", "backend"],
        )
        for stage in stages:
            for backend, count in sorted(stage.fallbacks.items()):
                fallbacks.add_metric([str(stage.index), backend], count)
        yield fallbacks
        queue = GaugeMetricFamily("cutset_stage_queue", "Requests that wait for the stage.", labels=["stage", "device"])
        for label, stage in zip(labels, stages, strict=True):
            queue.add_metric(label, stage.queue)
        yield queue
        substituted = GaugeMetricFamily(
            "cutset_stage_substituted", "1 for each stage that does not run as planned.", labels=["stage", "device", "reason"]
        )
        for label, stage in zip(labels, stages, strict=True):
            if stage.substitution:
                substituted.add_metric([*label, stage.substitution], 1.0)
        yield substituted


def _histogram(name: str, text: str, series: dict[tuple[str, ...], Distribution]) -> Metric:
    labels = ["stage", "device"] if () not in series else []
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, found in series.items():
        buckets = [
            ("+Inf" if bound == float("inf") else str(bound), count)
            for bound, count in zip(found.bounds, found.counts, strict=True)
        ]
        family.add_metric(values, buckets, found.total)
    return family


def _gpus() -> Iterator[Metric]:
    """Read NVML, where the package nvidia-ml-py and a driver are."""
    with contextlib.ExitStack() as stack:
        try:
            import pynvml  # noqa: PLC0415 - an extra

            pynvml.nvmlInit()
        except Exception:  # not installed, or no driver: every kind says that there is nothing to read
            return
        stack.callback(pynvml.nvmlShutdown)
        yield from _read_gpus(pynvml)


def _read_gpus(nvml: Any) -> Iterator[Metric]:
    busy = GaugeMetricFamily("cutset_gpu_utilisation", "Share of the last second with a kernel running.", labels=["gpu"])
    used = GaugeMetricFamily("cutset_gpu_memory_bytes", "Memory of the GPU in use.", labels=["gpu"])
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        busy.add_metric([str(index)], nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100)
        used.add_metric([str(index)], nvml.nvmlDeviceGetMemoryInfo(handle).used)
    yield busy
    yield used
