"""`cutset report`: draw the report of an output folder again, from the files in it."""

from __future__ import annotations

from pathlib import Path

import click

from cutset import serde
from cutset.cli.options import shared
from cutset.cli.output import Output
from cutset.codegen.report import write_report
from cutset.codegen.report.explore import explore
from cutset.codegen.report.material import EXPLORED, PROBLEM
from cutset.errors import UsageError
from cutset.files import write_atomic
from cutset.partitioner.study import read_study


@click.command(name="report")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--explore", "wanted", is_flag=True, help="Plan again for other numbers of stages and other links; takes a while."
)
@shared
def command(directory: Path, wanted: bool, output: Output) -> None:
    """Write DIRECTORY's report.html again, with what `bench` measured and `--explore` found since."""
    if wanted:
        _explore(directory, output)
    path = write_report(directory)
    if output.as_json:
        output.json({"report": str(path)})
    else:
        output.line(str(path))


def _explore(directory: Path, output: Output) -> None:
    problem = directory / PROBLEM
    if not problem.is_file():
        raise UsageError(f"{directory} holds no {PROBLEM}", hint="partition the model again with this version of cutset")
    with output.progress() as progress:
        found = explore(read_study(problem), progress)
    write_atomic(directory / EXPLORED, serde.dumps(found).encode())
