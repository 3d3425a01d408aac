"""Hand-made records of deployments, and what is found between two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cutset.codegen.ci.case import case_of
from cutset.codegen.ci.document import document, model_document
from cutset.codegen.ci.finding import Finding
from cutset.codegen.ci.fingerprint import fingerprints
from cutset.codegen.ci.judge import judge
from cutset.codegen.ci.limits import parse_limits
from cutset.codegen.ci.record import Deployment, Planned, Record
from cutset.profilers.repeats import Repeats
from cutset.profilers.table import CostTable
from tests.profile_tables import make_group, make_session, make_table

COSTS = {"a": 1e-3, "b": 2e-3, "c": 3e-3, "d": 4e-3}


def costs(*, factor: float = 1.0, cpu: str = "Some CPU", sha256: str = "a" * 64, **changed: float | None) -> CostTable:
    """Return a profile of the groups `COSTS`, all `factor` times slower; a group that is changed to None is gone."""
    times = {name: value * factor for name, value in (COSTS | changed).items() if value is not None}
    session = make_session(sum(times.values()))
    latency = replace(session.latency_s, low=session.latency_s.median * 0.98, high=session.latency_s.median * 1.02)
    groups = [make_group(name, value) for name, value in times.items()]
    return make_table(*groups, cpu=cpu, sha256=sha256, sessions=(replace(session, latency_s=latency),))


def plan(placement: Mapping[str, str] | None = None, **fields: Any) -> Planned:
    """Return a plan of the groups, `a` and `d` on the CPU."""
    defaults: dict[str, Any] = {
        "decision": "split",
        "devices": ("cpu", "gpu", "cpu"),
        "placement": {"a": "cpu", "b": "gpu", "c": "gpu", "d": "cpu"} | dict(placement or {}),
        "forced": {"a": "`x` is a string"},
        "bottleneck": "cpu",
        "utilisation": {"cpu": 1.0, "gpu": 0.5},
        "throughput_per_s": 200.0,
        "latency_s": 6e-3,
        "unsplit_per_s": 100.0,
        "cpu_workers": 1,
        "batch": 1,
    }
    return Planned(**(defaults | fields))


def deployment(scale: float = 1.0, **fields: Any) -> Deployment:
    """Return an emitted package whose model answers a ramp, scaled."""
    answers = {"y": np.linspace(-1, 1, 1000, dtype=np.float32) * np.float32(scale), "class": np.array([3])}
    defaults: dict[str, Any] = {"inputs": "same", "outputs": fingerprints([answers]), "package_bytes": 1000}
    return Deployment(**(defaults | fields))


def record(table: CostTable | None = None, *, speeds: Sequence[float] = (1.0,), name: str = "m", **fields: Any) -> Record:
    """Return a record; without arguments that of a baseline."""
    defaults: dict[str, Any] = {"options": {"target": "t4"}, "plan": plan(), "deployment": deployment()}
    return Record(name=name, repeats=Repeats(table=table or costs(), speeds=tuple(speeds)), **(defaults | fields))


def judged(then: Record, now: Record, *limits: str, keeping: float = float("inf")) -> dict[str, Finding]:
    """Return the findings between two records by check."""
    return {found.check: found for found in judge(case_of(then, now, parse_limits(limits), keeping=keeping))}


def worse(then: Record, now: Record, *limits: str, keeping: float = float("inf")) -> set[str]:
    """Return the checks that fail."""
    return {name for name, found in judged(then, now, *limits, keeping=keeping).items() if found.verdict == "worse"}


def documented(then: Record, now: Record, *, keeping: float = float("inf")) -> dict[str, Any]:
    """Return the document of one model that was compared."""
    limits = parse_limits(())
    case = case_of(then, now, limits, keeping=keeping)
    model = model_document(now, case, judge(case), limits, measured=2, report="m/report.html")
    return document([model], "cutset-baseline.json")
