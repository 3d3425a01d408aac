"""`cutset profile`: what every group of operators costs on every device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.cli.options import cost_options, model_options, shared
from cutset.cli.output import Output, seconds
from cutset.cli.workflow import CostArguments, ModelArguments, measure
from cutset.codegen.atomic import write_file
from cutset.profilers.table import CostTable

DEAREST = 20


@click.command(name="profile")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="File for the profile (JSON).")
@model_options
@cost_options
@shared
def command(model: Path, path: Path | None, output: Output, **arguments: Any) -> None:
    """Measure what every operator costs on the CPU, and model or replay what it costs on a GPU."""
    about, costs = split_arguments(model, arguments)
    with output.progress() as progress:
        measured = measure(about, costs, output, progress)
    if path is not None:
        write_file(path, serde.dumps(measured.table))
    if output.as_json:
        output.json(measured.table)
        return
    print_table(measured.table, output)
    if path is not None:
        output.line(f"profile: {path}")


def split_arguments(model: Path, arguments: dict[str, Any]) -> tuple[ModelArguments, CostArguments]:
    """Return the options of the command line as the two values that the workflow takes."""
    of_costs = {name: arguments.pop(name) for name in ("target", "batch", "threads", "profile_seconds", "cache")}
    return ModelArguments(model=model, **arguments), CostArguments(**of_costs)


def print_table(table: CostTable, output: Output) -> None:
    """Write the dearest groups and the whole-model latency."""
    for session in table.sessions:
        latency = session.latency_s
        output.line(
            f"{session.device} ({session.backend}, batch {session.batch}, {session.threads} thread): "
            f"{seconds(latency.median)} {session.source}, p10 {seconds(latency.p10)}, p90 {seconds(latency.p90)}, "
            f"{latency.samples} of {latency.runs} runs undisturbed ({latency.clock} clock)"
        )
    gpu = {group.nodes: group for group in table.groups_on("gpu")}
    rows = []
    for group in sorted(table.groups_on("cpu"), key=lambda g: -(g.latency_s or 0.0))[:DEAREST]:
        other = gpu.get(group.nodes)
        label = group.nodes[0] if len(group.nodes) == 1 else f"{group.nodes[0]} (+{len(group.nodes) - 1})"
        rows.append((label, seconds(group.latency_s), *((seconds(other.latency_s), other.source) if other else ("-", ""))))
    name = (table.target or {}).get("name", "GPU")
    output.table(f"The {len(rows)} dearest groups", ("group", "CPU, measured", f"{name}", "source"), rows)
