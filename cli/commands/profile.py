"""`cutset profile`: what every group of operators costs on every device."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from cutset import serde
from cutset.advisory import advisory
from cutset.cli.arguments import split_arguments
from cutset.cli.options import cost_options, model_options, shared
from cutset.cli.output import CPU_ALONE, Output, describe_coverage, seconds
from cutset.cli.remembered import recall, remember
from cutset.errors import UsageError
from cutset.files import write_atomic
from cutset.profilers.compare import Comparison, Difference, compare
from cutset.profilers.merge import merge, split
from cutset.profilers.table import CostTable, Latency, OptimizationLevel, read_profile

DEAREST = 20


@click.command(name="profile")
@click.argument("files", nargs=-1, required=True, metavar="MODEL|PROFILE...", type=click.Path(path_type=Path))
@click.option("-o", "--output", "path", type=click.Path(path_type=Path), help="File for the profile (JSON).")
@click.option("--merge", "action", flag_value="merge", help="Put profiles of one model from several machines in one file.")
@click.option("--diff", "action", flag_value="diff", help="Say what differs between two profiles, by more than noise.")
@click.option(
    "--optimization",
    type=click.Choice(get_args(OptimizationLevel)),
    default="all",
    show_default=True,
    help="How far onnxruntime may rewrite the graph; packages are deployed with all.",
)
@model_options
@cost_options
@shared
def command(files: tuple[Path, ...], path: Path | None, action: str | None, output: Output, **arguments: Any) -> None:
    """Measure what every operator costs on the CPU, and model or replay what it costs on a GPU.

    With --merge or --diff, read profiles instead of a model: FILE.json, or FILE.json#1 for the second machine of a merged
    profile.
    """
    if path is not None and path.is_dir():
        raise UsageError(f"{path} is a folder", hint="give the file to write, for example -o profile.json")
    if action == "merge":
        _merge(files, path, output)
    elif action == "diff":
        _diff(files, path, output)
    elif len(files) > 1:
        raise UsageError(f"one model at a time, not {len(files)}", hint="for profiles: --merge or --diff")
    else:
        _measure(files[0], path, output, arguments)


def _measure(model: Path, path: Path | None, output: Output, arguments: dict[str, Any]) -> None:
    about, costs = split_arguments(model, arguments)
    known = None
    with advisory("looking for a profile that was made before"):
        known = recall(about, costs)
    if known is not None:
        if known.target is None and costs.target == "auto":
            output.notice(CPU_ALONE)
        if known.coverage is not None:
            output.notice(f"{costs.target}: {describe_coverage(known.coverage)}")
        output.notice(f"nothing changed since {about.model} was profiled like this; --cache none measures again")
        _write(known, path, output)
        return
    from cutset.cli.workflow import measure  # noqa: PLC0415 - what is known must not wait for onnx and its kin

    with output.progress() as progress:
        measured = measure(about, costs, output, progress)
    with advisory("keeping the profile for the next time"):
        remember(about, costs, measured.table, measured.graph.files)
    _write(measured.table, path, output)


def _write(table: CostTable, path: Path | None, output: Output) -> None:
    """Write the profile to its file and to stdout."""
    if path is not None:
        write_atomic(path, serde.dumps(table).encode())
    if output.as_json:
        output.json(table)
        return
    for part in split(table):
        print_table(part, output)
    if path is not None:
        output.line(f"profile: {path}")


def _merge(files: tuple[Path, ...], path: Path | None, output: Output) -> None:
    if len(files) < 2:
        raise UsageError("--merge needs at least two profiles", hint="cutset profile --merge A.json B.json -o M.json")
    _write(merge([read_profile(file) for file in files]), path, output)


def _diff(files: tuple[Path, ...], path: Path | None, output: Output) -> None:
    if len(files) != 2:
        raise UsageError(f"--diff needs two profiles, not {len(files)}", hint="cutset profile --diff A.json B.json")
    if path is not None:
        raise UsageError("--diff writes no profile", hint="leave -o out; for a file: --json > diff.json")
    from cutset.cli.workflow import read_machine  # noqa: PLC0415 - as above

    found = compare(*(read_machine(str(file)) for file in files))
    if output.as_json:
        output.json(found)
    else:
        print_comparison(found, output)


def print_comparison(found: Comparison, output: Output) -> None:
    """Write what differs: circumstances, totals, the groups that changed most, and what cannot be compared."""
    for change in found.changes:
        output.line(f"not the same: {change.what}: {_shown(change.a)} and {_shown(change.b)}")
    for total in found.totals:
        output.line(
            f"{total.device} total: {seconds(total.a_s)} {total.sources[0]}, {seconds(total.b_s)} {total.sources[1]}: "
            f"{_times(total)}"
        )
    rows = [
        (f"{group.what} (+{group.nodes - 1})" if group.nodes > 1 else group.what, group.device, seconds(group.a_s),
         group.sources[0], seconds(group.b_s), group.sources[1], _times(group))
        for group in found.groups[:DEAREST]
    ]  # fmt: skip
    columns = ("group", "device", "first", "source", "second", "source", "second is")
    output.table(f"The {len(rows)} of {len(found.groups)} groups that differ most", columns, rows)
    changed = sum(group.verdict != "same" for group in found.groups)
    output.line(f"{changed} of {len(found.groups)} groups differ by more than noise")
    for name, only in (("first", found.only_a), ("second", found.only_b)):
        if only:
            output.line(
                f"{len(only)} groups are in the {name} profile alone, {seconds(sum(group.latency_s for group in only))}"
            )


def _times(found: Difference) -> str:
    ratio = "" if found.ratio is None else f"{found.ratio:.2f}x, "
    return ratio + ("the same within noise" if found.verdict == "same" else found.verdict)


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _settled(latency: Latency) -> str:
    if latency.low is None or latency.high is None:
        return "not repeated"
    interval = f"median between {seconds(latency.low)} and {seconds(latency.high)}"
    return interval if latency.settled else f"{interval}: time ran out (--profile-seconds)"


def print_table(table: CostTable, output: Output) -> None:
    """Write the dearest groups and the whole-model latency."""
    for session in table.sessions:
        latency = session.latency_s
        output.line(
            f"{session.device} ({session.backend}, batch {session.batch}, {session.threads} thread): "
            f"{seconds(latency.median)} {session.source}, p10 {seconds(latency.p10)}, p90 {seconds(latency.p90)}, "
            f"{latency.samples} of {latency.runs} runs count ({latency.clock} clock), {_settled(latency)}"
        )
    for session in table.loaded:
        output.line(f"{session.device} with {session.workers} requests at once: {seconds(session.latency_s.median)} each")
    gpu = {group.nodes: group for group in table.groups_on("gpu")}
    rows = []
    for group in sorted(table.groups_on("cpu"), key=lambda g: -(g.latency_s or 0.0))[:DEAREST]:
        other = gpu.get(group.nodes)
        label = group.nodes[0] if len(group.nodes) == 1 else f"{group.nodes[0]} (+{len(group.nodes) - 1})"
        rows.append((label, seconds(group.latency_s), *((seconds(other.latency_s), other.source) if other else ("-", ""))))
    name = (table.target or {}).get("name", "GPU")
    output.table(f"The {len(rows)} dearest groups", ("group", "CPU, measured", f"{name}", "source"), rows)
