"""The plan: one placement, divided into stages, with what it should reach and what it was held against.

A plan is a pure value that can be printed before anything acts on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from cutset import serde
from cutset.graph.model import ModelGraph
from cutset.graph.types import TensorSpec
from cutset.partitioner.steps import Step

PLAN_SCHEMA = "cutset.plan/1"

Decision = Literal["split", "unsplit-cpu", "unsplit-gpu"]
Objective = Literal["throughput", "latency"]
BACKENDS = {"cpu": "onnxruntime-cpu", "gpu": "onnxruntime-cuda"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the pipeline.

    Args:
        index: Place in the pipeline.
        device: ``cpu`` or ``gpu``.
        nodes: Nodes it computes, in graph order; constant nodes it needs are copied in besides.
        inputs: Values it reads from the request or from earlier stages.
        outputs: Values it writes for later stages or for the caller.
        service_s: Seconds a request.
        source: Where that number came from.
    """

    index: int
    device: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    service_s: float
    source: str

    @property
    def backend(self) -> str:
        """Backend that runs it."""
        return BACKENDS[self.device]

    @property
    def model(self) -> str:
        """Path of its ONNX file inside the package."""
        return f"stages/{self.index:02d}_{self.device}.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryTensor:
    """A value that crosses between stages; it moves once a direction, however many stages read it."""

    spec: TensorSpec
    size_bytes: int | None
    producer: int
    consumers: tuple[int, ...]
    transfer_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What the plan should reach, and the proven bound on what any placement could.

    Args:
        latency_s: Seconds of one batch alone.
        throughput_per_s: Requests a second with all tokens taken.
        bottleneck: The resource that limits it.
        utilisation: Busy share of each resource at that rate.
        lower_bound_s: The objective of no placement is smaller.
        gap: How far above the bound the plan is, as a fraction.
        loaded_latency_s: Seconds of a request, once let in, with all tokens taken.
    """

    latency_s: float
    throughput_per_s: float
    bottleneck: str
    utilisation: Mapping[str, float]
    lower_bound_s: float
    gap: float
    loaded_latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operating:
    """A size and a load, and what they reach: a point of the front of throughput and latency."""

    batch: int
    cpu_workers: int
    tokens: int
    decision: Decision
    stages: int
    throughput_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    """One kind of refusal that keeps nodes off the GPU.

    Args:
        what: The kind, for people.
        nodes: How many nodes it refuses.
        first: Names of the first of them.
        share: Share of the CPU's time that it holds there.
        reason: The refusal of the first node, in the words of who refused it.
        way_out: What to do about it, empty where nothing helps.
    """

    what: str
    nodes: int
    first: tuple[str, ...]
    share: float
    reason: str
    way_out: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """What keeps a model off the GPU, the dearest first.

    Args:
        share: Share of the CPU's time that cannot leave it.
        gain: How many times better a plan without these refusals would be, by the same costs; None where it would not.
        obstacles: The kinds of refusals.
    """

    share: float
    gain: float | None
    obstacles: tuple[Obstacle, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where every node runs and why, as `plan.json` shows it. Times are seconds, sizes bytes."""

    name: str
    model: Mapping[str, Any]
    target: Mapping[str, Any]
    objective: Objective
    options: Mapping[str, Any]
    decision: Decision
    verdict: str
    cpu_workers: int
    intra_op_threads: int
    batch: int
    tokens: int
    queue_limit: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Mapping[str, str]
    reasons: Mapping[str, str]
    pins: Mapping[str, str]
    stages: tuple[Stage, ...]
    boundary: tuple[BoundaryTensor, ...]
    prediction: Prediction
    baselines: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    batch_scaling: Literal["overheads", "measured"] = "overheads"
    robustness: Mapping[str, Any] = field(default_factory=dict)
    comparison: Mapping[str, Any] = field(default_factory=dict)
    pareto: tuple[Operating, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    held_back: HeldBack | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the plan as `plan.json` holds it (schema ``cutset.plan/1``)."""
        return {
            "schema": PLAN_SCHEMA,
            "name": self.name,
            "model": dict(self.model),
            "target": dict(self.target),
            "objective": self.objective,
            "options": dict(self.options),
            "decision": self.decision,
            "verdict": self.verdict,
            "cpu_workers": self.cpu_workers,
            "intra_op_threads": self.intra_op_threads,
            "batch": self.batch,
            "max_batch": self.batch if self.batch > 1 else None,
            "tokens": self.tokens,
            "queue_limit": self.queue_limit,
            "inputs": [_spec_json(spec) for spec in self.inputs],
            "outputs": [_spec_json(spec) for spec in self.outputs],
            "stages": [_stage_json(stage) for stage in self.stages],
            "boundary": [_boundary_json(tensor) for tensor in self.boundary],
            "steps": [_step_json(step) for step in self.steps],
            "batch_scaling": self.batch_scaling,
            "prediction": {
                "latency_s": self.prediction.latency_s,
                "throughput_per_s": self.prediction.throughput_per_s,
                "bottleneck": self.prediction.bottleneck,
                "utilisation": dict(self.prediction.utilisation),
                "lower_bound_s": self.prediction.lower_bound_s,
                "gap": self.prediction.gap,
                "loaded_latency_s": self.prediction.loaded_latency_s,
            },
            "pareto": [serde.to_builtins(point) for point in self.pareto],
            "baselines": dict(self.baselines),
            "robustness": dict(self.robustness),
            "comparison": dict(self.comparison) or None,
            "calibration": dict(self.calibration) or None,
            "notes": list(self.notes),
            "held_back": None if self.held_back is None else serde.to_builtins(self.held_back),
            "placement": dict(self.placement),
            "reasons": dict(self.reasons),
            "pins": dict(self.pins),
        }


def finite(value: float) -> float:
    """Return a rate as JSON can hold it: zero for the infinite one of a model that costs nothing."""
    return value if math.isfinite(value) else 0.0


def _spec_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "shape": None if spec.shape is None else list(spec.shape)}


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "index": stage.index,
        "device": stage.device,
        "backend": stage.backend,
        "model": stage.model,
        "nodes": list(stage.nodes),
        "inputs": list(stage.inputs),
        "outputs": list(stage.outputs),
        "service_s": stage.service_s,
        "source": stage.source,
    }


def _step_json(step: Step) -> dict[str, Any]:
    return {"stage": step.stage, "resource": step.resource, "fixed_s": step.fixed_s, "each_s": step.each_s, "rows": step.rows}


def _boundary_json(tensor: BoundaryTensor) -> dict[str, Any]:
    return {
        "tensor": tensor.spec.name,
        "dtype": tensor.spec.dtype,
        "shape": None if tensor.spec.shape is None else list(tensor.spec.shape),
        "bytes": tensor.size_bytes,
        "from": tensor.producer,
        "to": list(tensor.consumers),
        "transfer_s": tensor.transfer_s,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Nodes of one stage before its interface is known."""

    device: str
    nodes: tuple[str, ...]
    service_s: float = 0.0
    source: str = "measured"


def form_stages(graph: ModelGraph, parts: Sequence[Part]) -> tuple[Stage, ...]:
    """Return the stages of an ordered division of the placeable nodes, each with the values it reads and writes.

    A graph output that is constant is written by the last stage; one that is a graph input is written by none, for the
    pipeline passes it through. A model without a placeable node is one CPU stage. The only stage of a CPU reads inputs
    that nothing uses, too: it is the user's file, which asks for them.
    """
    parts = [part for part in parts if part.nodes] or [Part(device="cpu", nodes=())]
    inputs = {spec.name for spec in graph.inputs}
    wanted = {spec.name for spec in graph.outputs}
    home = {output: index for index, part in enumerate(parts) for name in part.nodes for output in graph.by_name[name].outputs}
    reads = [_reads(graph, part.nodes) for part in parts]
    if len(parts) == 1 and parts[0].device == "cpu":
        reads = [list(dict.fromkeys([*reads[0], *(spec.name for spec in graph.inputs)]))]
    for index, values in enumerate(reads):
        wanted.update(value for value in values if home.get(value, index) != index)
    stages = []
    for index, part in enumerate(parts):
        own = [output for name in part.nodes for output in graph.by_name[name].outputs]
        outputs = [value for value in own if value in wanted]
        if index == len(parts) - 1:
            outputs += [s.name for s in graph.outputs if s.name not in home and s.name not in inputs]
        stages.append(
            Stage(
                index=index,
                device=part.device,
                nodes=part.nodes,
                inputs=tuple(value for value in reads[index] if home.get(value, -1) != index),
                outputs=tuple(dict.fromkeys(outputs)),
                service_s=part.service_s,
                source=part.source,
            )
        )
    return tuple(stages)


def _reads(graph: ModelGraph, nodes: Sequence[str]) -> list[str]:
    """Return the values that nodes read, weights and constants left out, in first-use order."""
    values = (value for name in nodes for value in graph.by_name[name].inputs)
    return [value for value in dict.fromkeys(values) if value not in graph.constant_values]
