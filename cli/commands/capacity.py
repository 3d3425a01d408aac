"""`cutset capacity`: what other numbers of workers, batches and replicas of an emitted plan would do, and cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.advisory import advisory
from cutset.cli.options import Number, shared
from cutset.cli.output import Output, seconds
from cutset.cli.packages import read_plan_document
from cutset.codegen.report import write_report
from cutset.codegen.report.material import CAPACITY, CAPACITY_SCHEMA, REPORT
from cutset.errors import UsageError
from cutset.files import write_atomic
from cutset.partitioner.capacity import Capacity, Question, Row, StepsAt, busy_with, capacity
from cutset.partitioner.sizing import worker_counts
from cutset.partitioner.steps import Step, demand_of
from cutset.profilers.table import CostTable, read_profile

MOST_WORKERS = 64
BATCHES = (1, 2, 4, 8, 16)


@click.command(name="capacity")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--rate", type=Number(min=1e-3), metavar="R", help="Requests that arrive in a second; saturated by default.")
@click.option("--slo-ms", type=Number(min=0.001), metavar="MS", help="Answer 99 of 100 requests within so many milliseconds.")
@click.option("--cpu-workers", metavar="N,N,...", help="CPU workers per replica to try; up to a busy GPU by default.")
@click.option("--batch", metavar="N,N,...", help="Batch sizes to try; those of the plan by default.")
@click.option("--gpus", type=click.IntRange(min=1), default=1, show_default=True, help="GPUs per replica.")
@click.option("--core-per-hour", type=Number(min=0), metavar="PRICE", help="Price of a CPU core for an hour.")
@click.option("--gpu-per-hour", type=Number(min=0), metavar="PRICE", help="Price of a GPU for an hour.")
@shared
def command(directory: Path, output: Output, **arguments: Any) -> None:
    """Say what DIRECTORY's plan does with other numbers of CPU workers, batches and replicas; simulated, nothing is run.

    The answer is kept in capacity.json, and the report of DIRECTORY gets a chart of it.
    """
    document = read_plan_document(directory)
    table = read_profile(directory / "profile.json")
    steps = [serde.convert(step, Step, where=str(directory / "plan.json")) for step in document["steps"]]
    question = _question(document, table, steps, arguments)
    found = capacity(_steps_at(document, table, steps), question)
    scaling = document.get("batch_scaling", "overheads")
    result = {
        "schema": CAPACITY_SCHEMA,
        "source": document["target"]["source"],
        "batch_scaling": scaling,
        "rate_per_s": question.rate_per_s,
        "slo_s": question.slo_s,
        **serde.to_builtins(found),
    }
    write_atomic(directory / CAPACITY, serde.dumps(result).encode())
    report = directory / REPORT
    with advisory("drawing the report again"):
        write_report(directory)
    if output.as_json:
        output.json(result)
        return
    _print(found, question, output)
    _print_source(document, scaling, output)
    output.line(f"report: {report}")


def _question(document: dict[str, Any], table: CostTable, steps: Sequence[Step], arguments: dict[str, Any]) -> Question:
    workers, batches = arguments["cpu_workers"], arguments["batch"]
    slo_ms = arguments["slo_ms"]
    return Question(
        workers=_numbers("--cpu-workers", workers) if workers else _workers(steps, document, arguments["gpus"]),
        batches=_numbers("--batch", batches) if batches else _batches(document),
        gpus=arguments["gpus"],
        threads=document["intra_op_threads"],
        rate_per_s=arguments["rate"],
        slo_s=None if slo_ms is None else slo_ms / 1e3,
        core_per_hour=arguments["core_per_hour"],
        gpu_per_hour=arguments["gpu_per_hour"],
    )


def _numbers(option: str, text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise UsageError(f"{option} {text!r} is not a list of numbers from 1 to 1024", hint=f"for example {option} 1,2,4")
    return tuple(sorted({int(part) for part in parts}))


def _workers(steps: Sequence[Step], document: dict[str, Any], gpus: int) -> tuple[int, ...]:
    """Return the numbers of workers up to what keeps the rest busy, and one more."""
    demand = demand_of(steps, document["batch"])
    others = max((s / (gpus if name == "gpu" else 1) for name, s in demand.items() if name != "cpu"), default=0.0)
    enough = int(demand.get("cpu", 0.0) / others) + 2 if others else int(document["cpu_workers"])
    return worker_counts(min(enough, MOST_WORKERS), 1, gpu=False)


def _batches(document: dict[str, Any]) -> tuple[int, ...]:
    most = max([document["batch"], *(point["batch"] for point in document.get("pareto", ()))])
    return (*(batch for batch in BATCHES if batch < most), most)


def _steps_at(document: dict[str, Any], table: CostTable, steps: Sequence[Step]) -> StepsAt:
    """Return the steps by number of busy workers, as measured between one alone and every core busy."""
    return lambda workers: busy_with(document, steps, table, workers)


def _print(found: Capacity, question: Question, output: Output) -> None:
    busy = sorted({name for row in found.rows for name in row.utilisation})
    columns = ["workers", "batch", "inside", "law, req/s", "simulated", "p99 loaded", *(f"{name} busy" for name in busy)]
    if question.rate_per_s is not None:
        columns += ["replicas", "p50 at rate", "p99 at rate"]
    if question.priced:
        columns.append("per million")
    rows = [[*_cells(row, busy), *_asked(row, question)] for row in found.rows]
    output.table("Capacity", columns, rows)
    output.line(_advice(found.recommended))
    if found.cores_per_gpu is not None:
        busy_at = found.gpu_busy_at
        checked = "a copy or the CPU limits it" if busy_at is None else f"simulated: busy with {busy_at} worker(s)"
        output.line(f"{found.cores_per_gpu:.2f} CPU cores keep one GPU busy ({checked})")


def _advice(row: Row | None) -> str:
    if row is None:
        return "nothing tried serves that in time; allow more with --slo-ms, or plan with --slo-ms"
    replicas = f", {row.replicas} replica(s)" if row.replicas else ""
    return f"take {row.cpu_workers} CPU worker(s), batch {row.batch}{replicas}"


def _cells(row: Row, busy: Sequence[str]) -> list[str]:
    return [
        str(row.cpu_workers), str(row.batch), str(row.tokens), f"{row.limit_per_s:.1f}", f"{row.throughput_per_s:.1f}",
        seconds(row.loaded_latency_s), *(f"{row.utilisation.get(name, 0.0):.0%}" for name in busy),
    ]  # fmt: skip


def _asked(row: Row, question: Question) -> list[str]:
    cells = []
    if question.rate_per_s is not None:
        cells += ["-" if row.replicas is None else str(row.replicas), seconds(row.latency_p50_s), seconds(row.latency_p99_s)]
    if question.priced:
        cells.append("-" if row.cost_per_million is None else f"{row.cost_per_million:.2f}")
    return cells


def _print_source(document: dict[str, Any], scaling: str, output: Output) -> None:
    source = document["target"]["source"]
    if source != "measured":
        output.line(f"the GPU's times are {source}, and so is what follows from them")
    if scaling == "overheads":
        output.line(
            "how costs grow with the batch was not measured (--batch auto does); larger batches share only overheads here"
        )
