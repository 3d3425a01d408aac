"""`cutset solve`: plan a bare cost graph, no model."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cutset.cli.options import Number, shared
from cutset.cli.output import Output
from cutset.errors import UsageError
from cutset.partitioner.cost_graph import parse
from cutset.partitioner.exact import DEFAULT_SECONDS
from cutset.partitioner.pins import parse_pin
from cutset.partitioner.solve_graph import GraphOptions, GraphPlan, solve_graph


@click.command(name="solve")
@click.argument("graph", type=click.Path(path_type=Path))
@click.option(
    "--objective", type=click.Choice(["throughput", "latency"]), default="throughput", show_default=True,
    help="What to make best.",
)  # fmt: skip
@click.option("--max-stages", type=click.IntRange(min=1), help="Most stages of the pipeline; no limit by default.")
@click.option("--exact", is_flag=True, help="Also solve the mixed-integer program, which proves the optimum or a bound.")
@click.option("--exact-seconds", type=Number(min=0.1), default=DEFAULT_SECONDS, show_default=True, help="Time for --exact.")
@click.option("--latency", type=Number(min=0), help="Longest time of one request alone, in the file's unit.")
@click.option("--pin", "pins", multiple=True, metavar="GLOB=cpu|gpu", help="Where nodes run, by id or name; may be repeated.")
@click.option("--replicas", is_flag=True, help="Let several accelerators serve one plan alike, where that is better.")
@click.option(
    "--pareto", "points", type=click.IntRange(min=2), metavar="N", help="Also trade latency for throughput, in N plans."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the search.")
@shared
def command(graph: Path, pins: tuple[str, ...], output: Output, **arguments: Any) -> None:
    """Plan the bare cost graph in GRAPH (JSON), no model: who computes which node, and how good that is at most.

    The file is of the form of the published device-placement workloads: nodes with id, cpuLatency, fpgaLatency,
    supportedOnFpga, size and colorClass; edges with sourceId, destId and cost; maxCPUs, maxFPGAs, maxSizePerFPGA.
    """
    options = _options(arguments)
    start = time.perf_counter()
    parsed = parse(_read(graph), where=str(graph), pins=tuple(parse_pin(text) for text in pins))
    plan = solve_graph(parsed, options)
    seconds = time.perf_counter() - start
    if output.as_json:
        output.json(as_json(plan, options, seconds))
    else:
        _show(plan, options, output)


def _options(arguments: Mapping[str, Any]) -> GraphOptions:
    latency = arguments["latency"]
    return GraphOptions(
        objective=arguments["objective"],
        max_stages=arguments["max_stages"],
        exact_s=arguments["exact_seconds"] if arguments["exact"] else None,
        latency=float("inf") if latency is None else latency,
        points=arguments["points"] or 0,
        replicate=arguments["replicas"],
        seed=arguments["seed"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON", where=str(path), cause=str(error)) from error
    if not isinstance(data, dict):
        raise UsageError(f"{path} holds no JSON object", where=str(path))
    return data


def as_json(plan: GraphPlan, options: GraphOptions, seconds: float) -> dict[str, Any]:
    """Return the plan as its JSON document; times are in the file's unit, ``seconds`` is the time taken to plan."""
    value = plan.bottleneck if options.objective == "throughput" else plan.latency
    return {
        "placement": {str(node): device for node, device in plan.placement.items()},
        "bottleneck": plan.bottleneck,
        "lower_bound": plan.lower_bound,
        "latency": plan.latency,
        "stages": plan.stages,
        "objective": options.objective,
        "seconds": seconds,
        "gap": _gap(value, plan.lower_bound),
        "replicas": plan.replicas,
        "alternatives": dict(plan.alternatives),
        "front": [dict(point) for point in plan.front],
        "notes": list(plan.notes),
    }


def _gap(value: float, lower: float) -> float | None:
    if lower > 0:
        return value / lower - 1
    return 0.0 if value == 0 else None


def _show(plan: GraphPlan, options: GraphOptions, output: Output) -> None:
    devices = sorted(set(plan.placement.values()))
    counts = [(device, sum(at == device for at in plan.placement.values())) for device in devices]
    output.table("Placement", ("device", "nodes"), counts)
    value = plan.bottleneck if options.objective == "throughput" else plan.latency
    shown = f"bottleneck {plan.bottleneck:.6g}, latency {plan.latency:.6g}, {plan.stages} stages"
    output.line(shown + (f", on each of {plan.replicas} accelerators" if plan.replicas > 1 else ""))
    gap = _gap(value, plan.lower_bound)
    above = "" if gap is None else f"; this plan is {gap:.1%} above"
    output.line(f"proven: no placement has a {options.objective} value under {plan.lower_bound:.6g}{above}")
    if plan.front:
        rows = [(f"{p['latency']:.6g}", f"{p['bottleneck']:.6g}", p["stages"]) for p in plan.front]
        output.table("Latency against throughput", ("latency", "bottleneck", "stages"), rows)
    for name, bottleneck in plan.alternatives.items():
        output.line(f"{name}: {'impossible' if bottleneck is None else f'bottleneck {bottleneck:.6g}'}")
    for note in plan.notes:
        output.line(f"note: {note}")
