"""Run a package that was just written at full load: what its pipeline reaches here, beside what its plan says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.bench import load

MOST_CALLERS = 64
WAITING = 2
"""Callers more than fit inside the pipeline, so that its door is never without a request."""


def callers_for(pipeline: Pipeline) -> int:
    """Return how many callers saturate a pipeline."""
    return min(MOST_CALLERS, pipeline.window + WAITING)


def full_load(pipeline: Pipeline, sample: Mapping[str, Any], seconds: float) -> float | None:
    """Return the requests a second that a pipeline answers at full load, None where a stage runs elsewhere than planned.

    Args:
        pipeline: Loaded.
        sample: One request.
        seconds: How long to measure.
    """
    if any(
        stage.device != planned.device for stage, planned in zip(pipeline.stats().stages, pipeline.plan.stages, strict=True)
    ):
        return None
    callers = callers_for(pipeline)
    load(lambda: lambda: pipeline.run(sample), callers, seconds / 4)
    found = load(lambda: lambda: pipeline.run(sample), callers, seconds)
    return found.throughput_per_s if found.throughput_per_s > 0 else None
