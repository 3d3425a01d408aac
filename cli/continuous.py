"""One model as `cutset ci` examines it: measured, planned, emitted and held against its baseline, again where in doubt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.advisory import advisory
from cutset.cli.arguments import cache_folder
from cutset.cli.engines import EngineArguments
from cutset.cli.planning import Planner, Planning, prepare
from cutset.cli.proven import emit_proven
from cutset.cli.workflow import Measured
from cutset.codegen.bench.bench import BenchOptions, bench
from cutset.codegen.ci.case import Case, case_of
from cutset.codegen.ci.finding import Finding
from cutset.codegen.ci.fingerprint import Fingerprint, digest_inputs, fingerprints
from cutset.codegen.ci.judge import judge, suspicious
from cutset.codegen.ci.limits import Limits
from cutset.codegen.ci.record import Benched, Deployment, Record, benched, machine_of, planned, precision_errors, sizes
from cutset.codegen.numerics import Tolerance
from cutset.codegen.package import EmitOptions, package_name
from cutset.codegen.report import read_material, write_report
from cutset.codegen.report.material import BENCH
from cutset.codegen.verify import PartsDifferError, reference_outputs
from cutset.devices import GpuBackendRequest
from cutset.files import write_atomic
from cutset.partitioner.keeping import price_of_keeping
from cutset.profilers.cache import CostCache
from cutset.profilers.repeats import Repeats, combine, comparable, runners
from cutset.profilers.table import CostTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is examined.

    Args:
        repeats: Measurements of a baseline.
        again: Most further measurements of what looks like a regression.
        limits: What counts as one.
        tolerance: What counts as equal numbers.
        gpu_backend: What is to run GPU stages.
        engines: How engines are made.
        bench_s: Seconds to run the emitted package against the unsplit model, None for no run.
        options: What decides whether two records can be compared.
        command: The command line, for the manifest.
    """

    repeats: int
    again: int
    limits: Limits
    tolerance: Tolerance
    gpu_backend: GpuBackendRequest
    engines: EngineArguments
    bench_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """A model's record, and what it was held against.

    Args:
        record: What it is.
        case: That and the baseline's record; None where a baseline is taken.
        findings: What came of it.
        measured: How often it was measured.
        folder: What was emitted.
    """

    record: Record
    case: Case | None
    findings: tuple[Finding, ...]
    measured: int
    folder: Path


def take(planner: Planner, settings: Settings, target: Path) -> Examined:
    """Return a model's record for a baseline, measured several times, and emit it to `target`.

    Args:
        planner: What measures and plans it.
        settings: How.
        target: The output folder.
    """
    again = replace(planner, output=planner.output.hushed())
    runs = [planner.measure(), *(again.measure() for _ in range(settings.repeats - 1))]
    planning = prepare(planner, settings.gpu_backend, _combined(runs, None))
    record = _emit(planning, settings, _repeats(runs, planning), target)
    return Examined(record=record, case=None, findings=(), measured=len(runs), folder=target)


def examine(planner: Planner, settings: Settings, then: Record, target: Path) -> Examined:
    """Return a model's record, held against the baseline's, and emit it to `target`.

    Args:
        planner: What measures and plans it.
        settings: How; what looks like a regression is measured again.
        then: The baseline's record.
        target: The output folder.
    """
    runs: list[Mapping[int, Measured]] = []
    while True:
        runs.append(planner.measure())
        planning = prepare(planner, settings.gpu_backend, _combined(runs, then))
        planning.outcome_of({})
        found = judge(_case(planning, _record(planning, settings, _repeats(runs, planning)), then, settings))
        if not suspicious(found) or len(runs) > settings.again:
            break
        planner.progress("measuring again what looks like a regression")
        planner = replace(planner, output=planner.output.hushed())
    record = _emit(planning, settings, _repeats(runs, planning), target)
    case = _case(planning, record, then, settings)
    return Examined(record=record, case=case, findings=tuple(judge(case)), measured=len(runs), folder=target)


def like_baseline(planner: Planner, then: Record) -> Planner:
    """Return a planner that takes the baseline's batch and workers where it may choose, so that like is held against like."""
    costs, wanted = planner.costs, planner.wanted
    if costs.batch == "auto":
        costs = replace(costs, batch=str(then.plan.batch))
    if wanted.workers is None:
        wanted = replace(wanted, workers=then.plan.cpu_workers)
    return replace(planner, costs=costs, wanted=wanted)


def _combined(runs: Sequence[Mapping[int, Measured]], then: Record | None) -> dict[int, Measured]:
    """Return the measurements of each batch as one, at the speed of the baseline where that is of this machine."""
    found = {}
    for batch, last in runs[-1].items():
        repeats = combine([run[batch].table for run in runs if batch in run])
        found[batch] = replace(last, table=repeats.table if then is None else _at_baseline(repeats, then))
    return found


def _at_baseline(repeats: Repeats, then: Record) -> CostTable:
    if machine_of(repeats.table.environment) != then.machine:
        return repeats.table
    _, table, _ = comparable(then.repeats, repeats)
    same = table.model.sha256 == then.repeats.table.model.sha256 and runners(table) == runners(then.repeats.table)
    return replace(table, pieces=then.repeats.table.pieces) if same else table


def _repeats(runs: Sequence[Mapping[int, Measured]], planning: Planning) -> Repeats:
    """Return the measurements at the planned batch as one, with what planning measured besides."""
    made = planning.sized.measured.table
    batch = planning.sized.measured.batch
    repeats = combine([run[batch].table for run in runs if batch in run] or [made])
    groups = (*repeats.table.groups_on("cpu"), *made.groups_on("gpu"))
    return replace(repeats, table=replace(repeats.table, groups=groups, pieces=made.pieces))


def _record(planning: Planning, settings: Settings, repeats: Repeats) -> Record:
    made = planning.outcome_of({}).plan if planning.outcome is None else planning.outcome.plan
    return Record(
        name=made.name,
        options=settings.options,
        repeats=repeats,
        plan=planned(made, planning.sized.options.machine.cpu_workers),
    )


def _case(planning: Planning, record: Record, then: Record, settings: Settings) -> Case:
    keeping = math.inf if planning.outcome is None else price_of_keeping(planning.outcome, then.plan.placement)
    return case_of(then, record, settings.limits, keeping=keeping)


def _emit(planning: Planning, settings: Settings, repeats: Repeats, target: Path) -> Record:
    """Return the record of a planned model after its package was emitted and verified."""
    planner, measured = planning.planner, planning.sized.measured
    options = EmitOptions(
        force=True,
        tolerance=settings.engines.tolerate(settings.tolerance, planning.backend),
        command=settings.command,
        progress=planner.progress,
    )
    deployment = Deployment(inputs=digest_inputs(measured.samples.samples))
    try:
        engines, proof = emit_proven(planning, settings.engines, options, target, reuse=True)
    except PartsDifferError as error:
        deployment = replace(deployment, failure=f"{error.what}: {error.cause}")
    else:
        package_bytes, engine_bytes = sizes(target, engines)
        deployment = replace(
            deployment,
            precision_errors=precision_errors(engines),
            outputs=_answers(planning.sized.measured, proof.unrepeatable),
            parts_error=proof.max_rel,
            package_bytes=package_bytes,
            engine_bytes=engine_bytes,
            benched=_benched(target, planning, settings),
        )
    return replace(_record(planning, settings, repeats), deployment=deployment)


def _benched(target: Path, planning: Planning, settings: Settings) -> Benched | None:
    """Return what a run of the package in an output folder shows, which its report shows too; None where none is wanted."""
    if settings.bench_s is None:
        return None
    planner, graph = planning.planner, planning.sized.measured.graph
    cache = CostCache(cache_folder(planner.costs.cache))
    options = BenchOptions(model=graph.path, budget_s=settings.bench_s, cache=cache, progress=planner.progress)
    with advisory("running the package against the unsplit model"):
        found = bench(target / "serving" / package_name(planner.wanted.name), read_material(target), options)
        write_atomic(target / BENCH, serde.dumps(found).encode())
        with advisory("drawing the report again"):
            write_report(target)
        return benched(found)
    return None


def _answers(measured: Measured, unrepeatable: Sequence[str]) -> tuple[Fingerprint, ...]:
    outputs, _ = reference_outputs(measured.graph, measured.samples.samples)
    return fingerprints([{name: value for name, value in sample.items() if name not in unrepeatable} for sample in outputs])
