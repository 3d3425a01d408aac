"""`cutset partition`: the main job, from one ONNX file to a running package."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.cli.commands.profile import split_arguments
from cutset.cli.options import MOST_THREADS, Number, cost_options, model_options, shared
from cutset.cli.output import Output, seconds, size
from cutset.cli.workflow import Measured, measure
from cutset.codegen.atomic import check_target
from cutset.codegen.numerics import Tolerance
from cutset.codegen.package import EmitOptions, emit, package_name
from cutset.codegen.verify import Verification
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
@click.option("--rtol", type=Number(min=0), help="Relative tolerance of the verification.")
@click.option("--atol", type=Number(min=0), help="Absolute tolerance of the verification.")
@click.option("--plan-only", is_flag=True, help="Show the plan and write nothing.")
@model_options
@cost_options
@shared
def command(model: Path, target_dir: Path | None, force: bool, plan_only: bool, output: Output, **arguments: Any) -> None:
    """Split MODEL between CPU and GPU by measurement, prove the parts equal the whole, and emit a running package."""
    target = None if plan_only else target_dir or Path(f"{model.stem}-cutset")
    if target is not None:
        check_target(target, force=force)
    tolerance = Tolerance(rtol=arguments.pop("rtol"), atol=arguments.pop("atol"))
    pins = [parse_pin(text) for text in arguments.pop("pins")]
    workers = parse_workers(arguments.pop("cpu_workers"))
    of_plan = {name: arguments.pop(name) for name in ("objective", "max_stages", "min_gpu_nodes", "flow")}
    of_plan["name"] = served_name(arguments.pop("name"), model)
    about, costs = split_arguments(model, arguments)
    with output.progress() as progress:
        measured = measure(about, costs, output, progress)
        progress("planning")
        start = time.perf_counter()
        options = _plan_options(measured, workers, threads=costs.threads, seed=about.seed, of_plan=of_plan)
        made = plan(measured.graph, measured.table, gpu_support(measured.graph), resolve(measured.graph, pins), options)
        measured.seconds["plan"] = time.perf_counter() - start
        proof = None
        if target is not None:
            emission = EmitOptions(
                force=force, tolerance=tolerance, command=sys.argv, seconds=measured.seconds, progress=progress
            )
            proof = emit(measured.graph, made, measured.table, measured.samples, target, emission)
    _show(made, proof, target, output)


def _show(made: Plan, proof: Verification | None, target: Path | None, output: Output) -> None:
    """Write the plan, the proof, and what to do next."""
    if output.as_json:
        document = made.as_json() | {"directory": None if target is None else str(target)}
        output.json(document | ({"verification": serde.to_builtins(proof)} if proof is not None else {}))
        return
    print_plan(made, output)
    if proof is None or target is None:
        return
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


def parse_workers(text: str) -> int | None:
    """Return the number of CPU workers, or None for ``auto``.

    Raises:
        UsageError: If it is not such a number, or more than the runtime takes.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise UsageError(
            f"--cpu-workers {text!r} is not a number from 1 to {MOST_THREADS} or auto", hint="for example --cpu-workers 4"
        )
    return int(text)


def _plan_options(measured: Measured, workers: int | None, *, threads: int, seed: int, of_plan: dict[str, Any]) -> PlanOptions:
    """Return what to plan for: by default one core is left to feed the GPU."""
    cores = int(measured.table.environment["usable_cores"])
    machine = Machine(
        cpu_workers=workers or max(1, (cores - 1) // threads),
        cores=max(1, cores // threads),
        batch=measured.batch,
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
