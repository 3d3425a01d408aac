"""Timing the stages of a plan on this machine, for `--calibrate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.advisory import advisory
from cutset.cli.workflow import Measured, Progress
from cutset.codegen.runtime.backends.engine_compile import BuildSettings
from cutset.partitioner.calibrate import StageNodes, Timing
from cutset.profilers.child import Failure
from cutset.profilers.profile import batched
from cutset.profilers.segments import Backend, Segment, SegmentOptions, boundary_values, segment_of, time_segments
from cutset.profilers.table import Latency


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTimer:
    """Times stages as sessions of their own, and those of the GPU where it is in this machine.

    Args:
        measured: The model, its inputs and how it was measured.
        progress: Told what is being measured.
        gpu_backend: What runs GPU stages here, None where the GPU is elsewhere.
        rows: Requests that share a run of a GPU stage, of which each is charged its share.
        deployed: What makes engines of stages as a package would have them; None builds for the sample's shapes.
    """

    measured: Measured
    progress: Progress
    gpu_backend: Backend | None = None
    rows: int = 1
    deployed: Callable[[Sequence[Segment], Sequence[Path]], Sequence[BuildSettings]] | None = None

    def __call__(self, stages: Sequence[StageNodes]) -> list[Timing | None]:
        """Return what each stage takes, None for one that cannot be measured here."""
        found: list[Timing | None] = [None] * len(stages)
        for device, backend, rows in (("cpu", "onnxruntime-cpu", 1), ("gpu", self.gpu_backend, self.rows)):
            places = [place for place, stage in enumerate(stages) if stage.device == device]
            if backend is not None and places:
                self.progress(f"measuring {len(places)} stage(s) on the {device.upper()}")
                timings = self._times([stages[place] for place in places], backend, rows)
                for place, timing in zip(places, timings, strict=True):
                    found[place] = timing
        return found

    def _times(self, stages: Sequence[StageNodes], backend: Backend, rows: int) -> list[Timing | None]:
        measured, graph = self.measured, self.measured.graph
        options = SegmentOptions(
            backend=backend, threads=measured.options.threads, budget_s=min(1.0, measured.options.budget_s), rows=rows,
            recorded=True, in_turns=True, deployed=self.deployed,
        )  # fmt: skip
        with advisory("measuring stages"):
            segments: list[Segment] = [segment_of(graph, stage.nodes) for stage in stages]
            inputs = batched(graph, measured.samples.samples[0], measured.batch)
            times = time_segments(graph, segments, boundary_values(graph, inputs, segments), options=options)
            return [None if isinstance(time, Failure) else _timing(time.latency, rows) for time in times]
        return [None] * len(stages)


def _timing(latency: Latency, rows: int) -> Timing:
    low, high = latency.low or latency.median, latency.high or latency.median
    return Timing(seconds=latency.median / rows, noise=(high - low) / 2 / latency.median if latency.median else 0.0)
