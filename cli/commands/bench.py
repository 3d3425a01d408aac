"""`cutset bench`: the emitted pipeline against its parts, the unsplit model and its own prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cutset import serde
from cutset.advisory import advisory
from cutset.cli.commands.serve import find_package
from cutset.cli.options import Number, shared
from cutset.cli.output import Output, seconds
from cutset.codegen.bench.bench import BenchOptions, bench
from cutset.codegen.report import Material, read_material, write_report
from cutset.codegen.report.material import BENCH
from cutset.codegen.runtime.errors import ConfigError
from cutset.digest import sha256_file
from cutset.errors import UnavailableError, UsageError
from cutset.files import write_atomic
from cutset.profilers.cache import CostCache, default_folder

MANIFEST_SCHEMA = "cutset.manifest/1"


@click.command(name="bench")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="The model that was partitioned; found where it was by default.")
@click.option(
    "--seconds", "budget_s", type=Number(min=1, max=3600), default=60.0, show_default=True, help="Time for all rounds."
)
@click.option("--concurrency", type=click.IntRange(1, 1024), help="Callers of the pipeline; enough to saturate it by default.")
@click.option("--http", is_flag=True, help="Measure the emitted server over HTTP too.")
@click.option("--rate", "rates", type=Number(min=0.01), multiple=True, metavar="R", help="Offer so many requests a second too.")
@shared
def command(directory: Path, model: Path | None, output: Output, **arguments: Any) -> None:
    """Measure DIRECTORY's pipeline, its stages alone and the unsplit model in one run, and draw its report again."""
    material = read_material(directory)
    package = find_package(directory)
    with output.progress() as progress:
        options = BenchOptions(
            model=_model(directory, material, model, output), cache=CostCache(default_folder()), progress=progress, **arguments
        )
        try:
            found = bench(package, material, options)
        except ConfigError as error:
            raise UnavailableError(f"{package} cannot be loaded here", cause=str(error)) from error
    write_atomic(directory / BENCH, serde.dumps(found).encode())
    with advisory("drawing the report again"):
        write_report(directory)
    if output.as_json:
        output.json(found)
    else:
        _show(found, directory, output)


def _model(directory: Path, material: Material, given: Path | None, output: Output) -> Path | None:
    """Return the model that was partitioned, None if it is no longer where it was.

    Raises:
        UsageError: If the one that is given is another.
    """
    sha256 = material.plan["model"]["sha256"]
    if given is not None:
        if not given.is_file() or sha256_file(given) != sha256:
            raise UsageError(f"{given} is not the model that {directory} was made from")
        return given
    manifest = directory / "manifest.json"
    known = serde.read_json(manifest, schema=MANIFEST_SCHEMA).get("model_path") if manifest.is_file() else None
    if isinstance(known, str) and Path(known).is_file() and sha256_file(Path(known)) == sha256:
        return Path(known)
    output.notice("the unsplit model is not measured: it is no longer where it was (--model FILE)")
    return None


def _show(found: dict[str, Any], directory: Path, output: Output) -> None:
    output.table(
        f"Measured, {found['rounds']} interleaved rounds of {found['round_s']:.1f} s",
        ("what ran", "callers", "requests/s", "p50", "p99", "failed"),
        [
            (
                row["title"], row["concurrency"], f"{row['throughput_per_s']:.1f}", seconds(row["latency_s"]["p50"]),
                seconds(row["latency_s"]["p99"]), row["failed"],
            )
            for row in found["rows"]
        ],
    )  # fmt: skip
    low, high = found["efficiency_interval"]
    output.line(f"efficiency: {found['efficiency']:.1%} of the slowest resource alone (95 % interval {low:.1%} to {high:.1%})")
    busy = ", ".join(f"{name} {share:.0%}" for name, share in found["pipeline"]["utilisation"].items())
    output.line(f"busy: {busy}; memory at most {found['memory']['peak_bytes'] / 2**20:.0f} MiB with all that was measured")
    if found["prediction_error"] is not None:
        here = f"{found['prediction']['here_per_s']:.1f} requests/s predicted for what ran here"
        output.line(f"{here}, {found['prediction_error']:+.1%} off{_disturbed(found['prediction']['slowness'])}")
    if found["stand_ins"]:
        which = ", ".join(map(str, found["stand_ins"]))
        output.line(f"no GPU works here: stage {which} ran on a CPU core of its own in its place")
    for entry in found["rates"]:
        _show_rate(entry, output)
    output.line(f"report: {directory / 'report.html'}")


def _disturbed(slowness: float) -> str:
    return f" (on a machine that others slowed {slowness:.2f} times, which is counted in)" if slowness > 1.05 else ""


def _show_rate(entry: dict[str, Any], output: Output) -> None:
    most = max(entry["counts"], default=0)
    lost = f"{entry['refused']} of {entry['offered']} refused, {entry['failed']} failed"
    times = f"p50 {seconds(entry['p50_s'])}, p99 {seconds(entry['p99_s'])}"
    output.table(
        f"Open loop at {entry['rate_per_s']:g} requests/s: {lost}; {times}",
        ("latency up to", "answers", ""),
        [(seconds(edge), n, "#" * round(40 * n / most)) for edge, n in zip(entry["edges_s"][1:], entry["counts"], strict=True)],
    )
