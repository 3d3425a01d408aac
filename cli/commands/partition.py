"""`cutset partition`: the main job, from one ONNX file to a running package."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from cutset.advisory import SkippedStep, advisory, skipped_steps
from cutset.cli.arguments import split_arguments
from cutset.cli.backend import backend_option
from cutset.cli.engines import EngineArguments, engine_lines, engine_options, range_lines
from cutset.cli.export import export_options, take_exports
from cutset.cli.options import Number, cost_options, model_options, shared
from cutset.cli.output import Output, print_held_back, seconds, size
from cutset.cli.plan_arguments import PlanArguments, plan_options, served_name
from cutset.cli.planning import Planner, Planning, prepare
from cutset.cli.proven import emit_proven
from cutset.codegen.atomic import check_target
from cutset.codegen.numerics import Tolerance
from cutset.codegen.package import EmitOptions, package_name
from cutset.codegen.verify import Verification
from cutset.errors import PlanError
from cutset.partitioner.baselines import WORDS
from cutset.partitioner.pins import resolve_kept
from cutset.partitioner.pins_file import write_pins
from cutset.partitioner.plan import PLAN_SCHEMA, Plan
from cutset.serde import read_json, to_builtins

LOAD_S = 1.5
"""Seconds that a package is run at full load, to see what it reaches."""
WHOLE = ("all_cpu", "all_gpu")
"""Baselines that cut nothing."""


@click.command(name="partition")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target_dir", type=click.Path(path_type=Path), help="Folder to write; MODEL-cutset by default.")
@click.option("--name", help="Name of the served model; the file's stem by default.")
@click.option("--force", is_flag=True, help="Replace an existing output folder of cutset.")
@click.option("--write-pins", type=click.Path(path_type=Path), metavar="FILE", help="Write where every node runs, for --pins.")
@click.option("--rtol", type=Number(min=0), help="Relative tolerance of the verification.")
@click.option("--atol", type=Number(min=0), help="Absolute tolerance of the verification.")
@export_options
@backend_option
@engine_options
@click.option("--plan-only", is_flag=True, help="Show the plan and write nothing.")
@plan_options
@model_options
@cost_options
@shared
def command(model: Path, target_dir: Path | None, force: bool, plan_only: bool, output: Output, **arguments: Any) -> None:
    """Split MODEL between CPU and GPU by measurement, prove the parts equal the whole, and emit a running package."""
    target = None if plan_only else target_dir or Path(f"{model.stem}-cutset")
    if target is not None:
        check_target(target, force=force)
    tolerance = Tolerance(rtol=arguments.pop("rtol"), atol=arguments.pop("atol"))
    gpu_backend = arguments.pop("gpu_backend")
    of_engines = EngineArguments.take(arguments)
    pins_to = arguments.pop("write_pins")
    wanted = PlanArguments.take(served_name(arguments.pop("name"), model), arguments)
    exports = take_exports(wanted.name, arguments)
    about, costs = split_arguments(model, arguments)
    with output.progress() as progress:
        planner = Planner(
            about=about, costs=costs, wanted=wanted, output=output, progress=progress, engines=of_engines,
            accept=None if target is None else of_engines.check,
        )  # fmt: skip
        planning = prepare(planner, gpu_backend)
        if target is None:
            made, proof = planning.final(planning.outcome_of({}).plan), None
        else:
            emission = EmitOptions(
                force=force,
                tolerance=of_engines.tolerate(tolerance, planning.backend),
                command=sys.argv,
                seconds={},
                progress=progress,
                exports=exports,
                load_s=LOAD_S if wanted.calibrate else 0.0,
            )
            made, proof = _emit_best(planning, of_engines, emission, target)
    if pins_to is not None:
        graph = planning.sized.measured.graph
        placed = {node.name: made.placement[node.name] for node in graph.placeable}
        write_pins(pins_to, placed, resolve_kept(graph, wanted.file.keeps))
    _show(made, proof, target, output)


def _emit_best(
    planning: Planning, of_engines: EngineArguments, emission: EmitOptions, target: Path
) -> tuple[Plan, Verification]:
    """Return the plan that was emitted and its proof; a split that was seen to be slower than the whole model is undone.

    A split that does not reach what the plan says of the whole model is held against the whole model at full load: what
    both reach now decides, for others may slow the machine.
    """
    made, proof = _emit(planning, of_engines, emission, target)
    reached = _reached(made)
    said = max((entry["throughput_per_s"] for name in WHOLE if (entry := made.baselines.get(name))), default=0.0)
    if made.decision != "split" or made.objective != "throughput" or reached is None or reached >= said:
        return made, proof
    notice, force = planning.planner.output.notice, replace(emission, force=True)
    options = replace(planning.sized.options, max_stages=1)
    undone = replace(planning, sized=replace(planning.sized, options=options), outcome=None)
    whole: tuple[Plan, Verification] | None = None
    with advisory("trying the whole model in place of the split", ends=()), contextlib.suppress(PlanError):
        whole = _emit(undone, of_engines, force, target)
    if whole is None:  # the pins leave no other plan, or trying it failed
        return made, proof
    seen = _reached(whole[0])
    if seen is not None and seen >= reached:
        notice(f"left whole: it answers {seen:.1f} requests/s at full load here, the split {reached:.1f}")
        return whole
    notice(f"the split stays: it answers {reached:.1f} requests/s at full load here, the whole model no more")
    return _emit(planning, of_engines, force, target)


def _reached(made: Plan) -> float | None:
    """Return the requests a second that a package was seen to answer at full load, None where that was not seen."""
    found: float | None = made.calibration.get("pipeline", {}).get("throughput_per_s")
    return found


def _emit(planning: Planning, of_engines: EngineArguments, emission: EmitOptions, target: Path) -> tuple[Plan, Verification]:
    """Return the plan whose GPU stages build, and the proof of the package that was written for it."""
    engines, proof = emit_proven(planning, of_engines, emission, target)
    calibration = read_json(target / "plan.json", schema=PLAN_SCHEMA)["calibration"] or {}
    return replace(engines.plan, calibration=calibration), proof


def _show(made: Plan, proof: Verification | None, target: Path | None, output: Output) -> None:
    """Write the plan, the proof, and what to do next."""
    if output.as_json:
        document = made.as_json() if target is None else read_json(target / "plan.json", schema=PLAN_SCHEMA)
        output.json({**document, "skipped": skipped_steps(), "directory": None if target is None else str(target)})
        return
    print_plan(made, output)
    if proof is None or target is None:
        _show_skipped(output)
        return
    document = read_json(target / "plan.json", schema=PLAN_SCHEMA)
    for line in [*engine_lines(document["engines"]), *range_lines(document["stages"])]:
        output.line(line)
    for note in document["least_sizes"]:
        output.line(f"refused when smaller: {note}")
    for entry in document["kept_together"]:
        output.line(f"{', '.join(f'`{name}`' for name in entry['nodes']) or 'the model'}: {entry['sentence']}")
    _show_skipped(output)
    what = f"{proof.samples} sample(s), {proof.inputs}: largest difference {proof.max_abs:.3g}"
    output.line(f"verified: the parts equal the whole on {what}")
    if proof.unproven_engines:
        stages = ", ".join(map(str, proof.unproven_engines))
        output.line(f"proven on onnxruntime; the numbers of the engine of stage {stages} are compared at its first start")
    for name in proof.unrepeatable:
        output.line(f"not compared: output `{name}` differs between two runs of the model itself")
    output.line(f"serve it: cutset serve {target}    or: cd {target}/serving && python -m {package_name(made.name)}")
    output.line(f"report: {target / 'report.html'}")


def _show_skipped(output: Output) -> None:
    """Write which advisory steps failed, and why."""
    for skipped in skipped_steps():
        output.line(str(SkippedStep(**skipped)))


def describe_calibration(found: Mapping[str, Any]) -> str:
    """Return in words how far the stages are from what the plan says of them."""
    devices = " and ".join(device.upper() for device in found["devices"])
    if found["worst_error"] is None:
        return f"{found['state']}: no stage could be measured here"
    kept = "" if "gpu" in found["devices"] else "; the GPU's costs stay as they were"
    text = (
        f"{found['state']}: {devices} stages measured within {found['worst_error']:.1%} of the plan "
        f"after {len(found['rounds'])} rounds{kept}"
    )
    reached = found.get("pipeline")
    if reached is None:
        return text
    far = f"{abs(reached['prediction_error']):.0%} {'more' if reached['prediction_error'] > 0 else 'less'}"
    return f"{text}; the pipeline answers {reached['throughput_per_s']:.1f} requests/s at full load here, the plan says {far}"


def print_plan(made: Plan, output: Output) -> None:
    """Write the verdict, the stages, what crosses between them, and the baselines."""
    output.line(made.verdict)
    if made.held_back is not None:
        print_held_back(to_builtins(made.held_back), str(made.target["source"]), output)
    note = {"modelled": " (modelled)", "recorded": " (recorded)"}
    output.table(
        "Stages",
        ("stage", "device", "nodes", "time a request", "source", "file"),
        [(s.index, s.device, len(s.nodes), seconds(s.service_s), s.source, s.model) for s in made.stages],
    )
    if made.boundary:
        output.table(
            "What crosses",
            ("tensor", "type", "bytes", "from", "to", "transfer"),
            [
                (
                    t.spec.name,
                    t.spec.dtype,
                    size(t.size_bytes),
                    t.producer,
                    ",".join(map(str, t.consumers)),
                    seconds(t.transfer_s) + note.get(str(made.target["source"]), ""),
                )
                for t in made.boundary
            ],
        )
    if made.calibration:
        output.line(describe_calibration(made.calibration))
    source = note.get(str(made.target["source"]), "")
    rows = [("this plan", f"{made.prediction.throughput_per_s:.1f}", seconds(made.prediction.latency_s))]
    for name, baseline in made.baselines.items():
        if baseline is not None:
            rows.append((_title(name, baseline), f"{baseline['throughput_per_s']:.1f}", seconds(baseline["latency_s"])))
    output.table(f"Predicted{source}", ("plan", "requests/s", "latency"), rows)
    bound = made.prediction.lower_bound_s
    if made.decision == "split":
        kind = "latency" if made.objective == "latency" else "time between requests"
        above = f"this plan is {made.prediction.gap:.1%} above"
        output.line(f"proven: no placement has a {kind} under {seconds(bound)} at these costs; {above}")


def _title(name: str, baseline: Mapping[str, Any]) -> str:
    """Return what a baseline does, and whether no package can be made of it."""
    return WORDS.get(name, name) + ("" if baseline.get("deployable", True) else " (no package can)")
