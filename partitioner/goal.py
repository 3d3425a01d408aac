"""What a placement is judged by: the objective, the stages it may have, and the limits it must keep."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.phases import Window, earliest, windows
from cutset.partitioner.problem import CPU, RESOURCES, FloatArray, Placement, Problem

Objective = Literal["throughput", "latency"]

_ROUNDING = 1 + 1e-9
_STEEP = 10.0  # a second over a limit weighs as much as ten seconds of the objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a placement must not exceed.

    Attributes:
        latency_s: Seconds of one request alone.
        gpu_bytes: Bytes of the ops' weights on one GPU.
    """

    latency_s: float = math.inf
    gpu_bytes: float = math.inf

    def __post_init__(self) -> None:
        if not (self.latency_s >= 0 and self.gpu_bytes >= 0):
            raise ValueError(f"a limit is negative or not a number: {self}")

    @property
    def some(self) -> bool:
        """Whether there is any limit."""
        return math.isfinite(self.latency_s) or math.isfinite(self.gpu_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What a placement is judged by.

    Attributes:
        problem: The costs.
        objective: "throughput" (smallest bottleneck) or "latency" (smallest sum).
        max_stages: Most stages, or None.
        limits: What it must keep.
        byte_s: Seconds of the objective that a byte over the limit weighs in a search; derived.
    """

    problem: Problem
    objective: Objective = "throughput"
    max_stages: int | None = None
    limits: Limits = field(default_factory=Limits)
    byte_s: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        problem = self.problem
        byte_s = _STEEP * problem.total_s / max(float(problem.gpu_bytes.sum()), 1.0)
        object.__setattr__(self, "byte_s", byte_s)

    @property
    def rows(self) -> FloatArray:
        """The linear terms whose largest is the objective, as weights on demands, shape ``(terms, 4)``."""
        return self.problem.shares if self.objective == "throughput" else np.ones((1, len(RESOURCES)))

    def objective_s(self, evaluation: Evaluation) -> float:
        """Return the objective in seconds."""
        return evaluation.bottleneck_s if self.objective == "throughput" else evaluation.latency_s

    def excess_s(self, latency_s: float, gpu_bytes: float) -> float:
        """Return what a search adds to the objective of a placement over a limit; 0 within all."""
        over_s = max(latency_s - self.limits.latency_s, 0.0)
        over_bytes = max(gpu_bytes - self.limits.gpu_bytes, 0.0)
        return _STEEP * over_s + self.byte_s * over_bytes

    def excess_of_each_s(self, latency_s: FloatArray, gpu_bytes: FloatArray) -> FloatArray:
        """Return `excess_s` of several placements at once, shape as given."""
        over_s = np.maximum(latency_s - self.limits.latency_s, 0.0)
        over_bytes = np.maximum(gpu_bytes - self.limits.gpu_bytes, 0.0)
        return np.asarray(_STEEP * over_s + self.byte_s * over_bytes)

    def allows(self, evaluation: Evaluation) -> bool:
        """Return whether a placement is possible and keeps stages and limits."""
        return (
            math.isfinite(evaluation.latency_s)
            and (self.max_stages is None or evaluation.stages <= self.max_stages)
            and evaluation.latency_s <= self.limits.latency_s * _ROUNDING
            and evaluation.gpu_bytes <= self.limits.gpu_bytes
        )

    def value_s(self, placement: Placement) -> float:
        """Return the exact objective in seconds; infinite if the placement is not allowed."""
        evaluation = evaluate(self.problem, placement)
        return self.objective_s(evaluation) if self.allows(evaluation) else math.inf

    def score_s(self, placement: Placement) -> float:
        """Return what a search minimises: the objective, and more the farther it is over a limit."""
        evaluation = evaluate(self.problem, placement)
        if self.max_stages is not None and evaluation.stages > self.max_stages:
            return math.inf
        return self.objective_s(evaluation) + self.excess_s(evaluation.latency_s, evaluation.gpu_bytes)

    def windows(self, placement: Placement) -> list[Window]:
        """Return the chains the placement fits in; without a limit, one that leaves it room to grow."""
        devices = placement.tolist()
        if self.max_stages is None:
            return [Window(low=CPU, high=max(earliest(self.problem, devices, CPU), default=0) + 2)]
        return [
            window
            for window in windows(self.max_stages)
            if max(earliest(self.problem, devices, window.low), default=0) <= window.high
        ]
