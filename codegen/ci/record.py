"""The record of one deployed model: costs, plan, answers and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cutset.codegen.ci.fingerprint import Fingerprint
from cutset.codegen.engines.feedback import Engineered
from cutset.partitioner.plan import Plan
from cutset.partitioner.reasons import WEIGHED
from cutset.profilers.repeats import Repeats
from cutset.profilers.table import CostTable

ENGINES = "engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What is kept of a plan.

    Args:
        decision: ``split``, ``unsplit-cpu`` or ``unsplit-gpu``.
        devices: Device of each stage, in order.
        placement: Device of every node that a stage computes.
        forced: Why nodes had no choice, for those that had none.
        bottleneck: The resource that limits the throughput.
        utilisation: Busy share of each resource at that throughput.
        throughput_per_s: Requests a second at full load.
        latency_s: Seconds of one batch alone.
        unsplit_per_s: Requests a second of the best unsplit plan.
        cpu_workers: Threads that it was made for.
        batch: Requests in one run.
        simple_per_s: Requests a second of the best plan that needs no optimiser and could be deployed; 0 in records made
            before such plans were compared.
    """

    decision: str
    devices: tuple[str, ...]
    placement: Mapping[str, str]
    forced: Mapping[str, str]
    bottleneck: str
    utilisation: Mapping[str, float]
    throughput_per_s: float
    latency_s: float
    unsplit_per_s: float
    cpu_workers: int
    batch: int
    simple_per_s: float = 0.0

    @property
    def gain(self) -> float | None:
        """Throughput over that of the best simple plan, or of the best unsplit plan in an older record."""
        against = self.simple_per_s or self.unsplit_per_s
        return self.throughput_per_s / against if against else None

    def as_old(self) -> Planned:
        """Return the plan as an older record would hold the plan: held against unsplit plans alone."""
        return replace(self, simple_per_s=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benched:
    """What a run of the package showed.

    Args:
        gain: Throughput over that of the best unsplit arrangement on the same cores, in the same run.
        noise: Half of the 95 % interval of such a ratio in that run, as a share of it.
    """

    gain: float
    noise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What is kept of an emitted package.

    Args:
        inputs: Digest of the sample inputs.
        outputs: What the whole model answers to them.
        parts_error: Largest difference of the parts from the whole, over the output's largest magnitude.
        precision_errors: The same of each GPU stage's precision from fp32, by stage.
        package_bytes: Size of the package, engines left out.
        engine_bytes: Size of the engine of each GPU stage that was built, by stage.
        benched: What a run of the package showed, None where none was asked for.
        failure: Why the parts were not accepted as equal to the whole, or empty.
    """

    inputs: str = ""
    outputs: tuple[Fingerprint, ...] = ()
    parts_error: float = 0.0
    precision_errors: Mapping[str, float] = field(default_factory=dict)
    package_bytes: int = 0
    engine_bytes: Mapping[str, int] = field(default_factory=dict)
    benched: Benched | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One model on one machine: an entry of a baseline.

    Args:
        name: The served model.
        options: What it was measured and planned with, as far as that decides what can be compared.
        repeats: Its costs.
        plan: What was planned with them, and with the costs of the baseline's moment where there was one.
        deployment: What was emitted.
    """

    name: str
    options: Mapping[str, Any]
    repeats: Repeats
    plan: Planned
    deployment: Deployment = Deployment()

    @property
    def machine(self) -> dict[str, Any]:
        """What decides whether times of two records can be compared: processor, cores and GPUs."""
        return machine_of(self.repeats.table.environment)


def machine_of(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides whether times that were measured in two environments can be compared."""
    return {
        "cpu": environment.get("cpu"),
        "cores": environment.get("usable_cores"),
        "gpus": [gpu.get("name") for gpu in environment.get("gpus", ())],
    }


def planned(plan: Plan, cpu_workers: int) -> Planned:
    """Return what is kept of a plan.

    Args:
        plan: The plan.
        cpu_workers: Threads that it was made for; one that leaves the model whole on the CPU says how many cores instead.
    """
    unsplit = [plan.baselines.get(name) for name in ("all_cpu", "all_gpu")]
    computed = {name for stage in plan.stages for name in stage.nodes}
    return Planned(
        decision=plan.decision,
        devices=tuple(stage.device for stage in plan.stages),
        placement={name: device for name, device in plan.placement.items() if name in computed},
        forced={
            name: plan.reasons[name] for name in plan.placement if name in computed and _forced(plan.reasons.get(name, ""))
        },
        bottleneck=plan.prediction.bottleneck,
        utilisation=dict(plan.prediction.utilisation),
        throughput_per_s=plan.prediction.throughput_per_s,
        latency_s=plan.prediction.latency_s,
        unsplit_per_s=max((entry["throughput_per_s"] for entry in unsplit if entry is not None), default=0.0),
        cpu_workers=cpu_workers,
        batch=plan.batch,
        simple_per_s=max((entry["throughput_per_s"] for entry in plan.baselines.values() if _deployable(entry)), default=0.0),
    )


def _deployable(baseline: Mapping[str, Any] | None) -> bool:
    return baseline is not None and bool(baseline.get("deployable"))


def _forced(reason: str) -> bool:
    return bool(reason) and WEIGHED not in reason


def essential(table: CostTable) -> CostTable:
    """Return a profile without what a comparison does not need: it goes into a file that is kept in a repository."""
    groups = tuple(replace(group, nodes=group.canonical, unfused_s={}, work={}) for group in table.groups if group.canonical)
    return replace(table, groups=groups, shapes={}, coverage=None)


def sizes(folder: Path, engines: Engineered) -> tuple[int, dict[str, int]]:
    """Return the bytes of the package in an output folder, and of the engine of each stage that was built."""
    files = [path for path in (folder / "serving").rglob("*") if path.is_file() and ENGINES not in path.parts]
    built = {
        str(ready.stage.index): ready.engine.stat().st_size
        for ready in engines.stages
        if ready.engine is not None and ready.engine.is_file()
    }
    return sum(path.stat().st_size for path in files), built


def benched(found: Mapping[str, Any]) -> Benched | None:
    """Return what ``bench.json`` says of the package against the unsplit model; None where that was not measured."""
    gains = [entry["gain"] for name, entry in found["baselines"].items() if name.startswith("unsplit_")]
    low, high = found["efficiency_interval"]
    return Benched(gain=min(gains), noise=(high - low) / 2 / found["efficiency"]) if gains else None


def precision_errors(engines: Engineered) -> dict[str, float]:
    """Return the largest error of each GPU stage's precision, over the output's largest magnitude."""
    return {
        str(ready.stage.index): max((error.max_rel for error in ready.prepared.reduced.errors), default=0.0)
        for ready in engines.stages
        if ready.prepared.reduced.errors
    }
