"""`cutset partition`: the main job, from one ONNX file to a running package."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.cli.commands.profile import split_arguments
from cutset.cli.options import cost_options, model_options, shared
from cutset.cli.output import Output, seconds, size
from cutset.cli.workflow import Measured, measure
from cutset.codegen.atomic import check_target
from cutset.codegen.numerics import Tolerance
from cutset.codegen.package import EmitOptions, emit, package_name
from cutset.errors import UsageError
from cutset.partitioner.cost import Machine
from cutset.partitioner.pins import parse_pin, resolve
from cutset.partitioner.plan import Plan
from cutset.partitioner.planner import PlanOptions, plan
from cutset.partitioner.support import gpu_support


@click.command(name="partition")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target_dir", type=click.Path(path_type=Path), help="Folder to write; MODEL-cutset by default.")
@click.option("--name", help="Name of the served model; the file's stem by default.")
@click.option("--force", is_flag=True, help="Replace an existing output folder of cutset.")
@click.option(
    "--objective", type=click.Choice(["throughput", "latency"]), default="throughput", show_default=True,
    help="What to make best.",
)  # fmt: skip
@click.option("--max-stages", type=click.IntRange(min=1), default=5, show_default=True, help="Most stages of the pipeline.")
@click.option(
    "--min-gpu-nodes", type=click.IntRange(min=0), default=0, help="Smallest GPU stage worth building, in fused groups."
)
@click.option("--cpu-workers", default="auto", show_default=True, metavar="N|auto", help="Threads that serve CPU stages.")
@click.option(
    "--pin", "pins", multiple=True, metavar="GLOB=cpu|gpu", help="Where nodes run, by name or op:TYPE; may be repeated."
)
@click.option("--flow", type=click.Choice(["scipy", "networkx"]), default="scipy", show_default=True, help="Engine of the cut.")
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative tolerance of the verification.")
@click.option("--atol", type=click.FloatRange(min=0), help="Absolute tolerance of the verification.")
@click.option("--plan-only", is_flag=True, help="Show the plan and write nothing.")
@model_options
@cost_options
@shared
def command(model: Path, target_dir: Path | None, force: bool, plan_only: bool, output: Output, **arguments: Any) -> None:
    """Split MODEL between CPU and GPU by measurement, prove the parts equal the whole, and emit a running package."""
    target = target_dir or Path(f"{model.stem}-cutset")
    if not plan_only:
        check_target(target, force=force)
    tolerance = Tolerance(rtol=arguments.pop("rtol"), atol=arguments.pop("atol"))
    wanted = [parse_pin(text) for text in arguments.pop("pins")]
    of_plan = {n: arguments.pop(n) for n in ("name", "objective", "max_stages", "min_gpu_nodes", "cpu_workers", "flow")}
    about, costs = split_arguments(model, arguments)
    of_plan["name"] = served_name(of_plan["name"], model)
    with output.progress() as progress:
        measured = measure(about, costs, output, progress)
        progress("planning")
        start = time.perf_counter()
        pins = resolve(measured.graph, wanted)
        options = _plan_options(measured, of_plan, costs.threads, about.seed)
        made = plan(measured.graph, measured.table, gpu_support(measured.graph), pins, options)
        measured.seconds["plan"] = time.perf_counter() - start
        proof = None
        if not plan_only:
            emission = EmitOptions(
                force=force, tolerance=tolerance, command=sys.argv, seconds=measured.seconds, progress=progress
            )
            proof = emit(measured.graph, made, measured.table, measured.samples, target, emission)
    document = made.as_json() | {"directory": None if plan_only else str(target)}
    if proof is not None:
        document["verification"] = serde.to_builtins(proof)
    if output.as_json:
        output.json(document)
        return
    print_plan(made, output)
    if proof is not None:
        what = f"{proof.samples} sample(s), {proof.inputs}: largest difference {proof.max_abs:.3g}"
        output.line(f"verified: the parts equal the whole on {what}")
        for name in proof.unrepeatable:
            output.line(f"not compared: output `{name}` differs between two runs of the model itself")
        output.line(f"serve it: cutset serve {target}    or: cd {target}/serving && python -m {package_name(made.name)}")
        output.line(f"report: {target / 'report.html'}")


def served_name(name: str | None, model: Path) -> str:
    """Return the name that the server answers to; the file's stem by default.

    Raises:
        UsageError: If it could not be one segment of a URL.
    """
    chosen = model.stem if name is None else name
    if not chosen or "/" in chosen or not chosen.isprintable():
        raise UsageError(f"{chosen!r} cannot be a served model's name", hint="give another with --name")
    return chosen


def _plan_options(measured: Measured, of_plan: dict[str, Any], threads: int, seed: int) -> PlanOptions:
    cores = int(measured.table.environment["usable_cores"])
    workers = of_plan.pop("cpu_workers")
    if workers != "auto" and (not workers.isdecimal() or int(workers) < 1):
        raise UsageError(f"--cpu-workers {workers!r} is not a positive number or auto")
    count = max(1, (cores - 1) // threads) if workers == "auto" else int(workers)
    machine = Machine(
        cpu_workers=count,
        cores=max(1, cores // threads),
        batch=measured.batch,
        min_gpu_ops=of_plan.pop("min_gpu_nodes"),
    )
    return PlanOptions(machine=machine, threads=threads, seed=seed, **of_plan)


def print_plan(made: Plan, output: Output) -> None:
    """Write the verdict, the stages, what crosses between them, and the baselines."""
    output.line(made.verdict)
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
    source = note.get(str(made.target["source"]), "")
    rows = [("this plan", f"{made.prediction.throughput_per_s:.1f}", seconds(made.prediction.latency_s))]
    for name, baseline in made.baselines.items():
        if baseline is not None:
            rows.append((name.replace("_", " "), f"{baseline['throughput_per_s']:.1f}", seconds(baseline["latency_s"])))
    output.table(f"Predicted{source}", ("plan", "requests/s", "latency"), rows)
    bound = made.prediction.lower_bound_s
    if made.decision == "split":
        kind = "latency" if made.objective == "latency" else "time between requests"
        above = f"this plan is {made.prediction.gap:.1%} above"
        output.line(f"proven: no placement has a {kind} under {seconds(bound)} at these costs; {above}")
