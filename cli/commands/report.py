"""`cutset report`: draw the report of an output folder again, from the files in it."""

from __future__ import annotations

from pathlib import Path

import click

from cutset.cli.options import shared
from cutset.cli.output import Output
from cutset.codegen.report import write_report


@click.command(name="report")
@click.argument("directory", type=click.Path(path_type=Path))
@shared
def command(directory: Path, output: Output) -> None:
    """Write DIRECTORY's report.html again, with what `bench` measured since."""
    path = write_report(directory)
    if output.as_json:
        output.json({"report": str(path)})
    else:
        output.line(str(path))
