"""`cutset serve`: start the server of an emitted package, as `python -m` of it would."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from cutset.cli.options import shared
from cutset.cli.output import Output
from cutset.cli.successor import Successor
from cutset.errors import UsageError


@click.command(name="serve", context_settings={"ignore_unknown_options": True})
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@shared
def command(directory: Path, arguments: tuple[str, ...], output: Output) -> Successor:
    """Start the server of the package in DIRECTORY; further options go to it (--host, --port, ...)."""
    project = find_package(directory)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project.parent), os.environ.get("PYTHONPATH", "")])}
    words = [sys.executable, "-m", project.name, *arguments]
    output.notice(f"starting {project.name} from {project.parent}")
    # In this process: a parent that waits would pass on Ctrl-C to a child that got it already, and two signals mean "now".
    return Successor(words=words, environment=environment)


def find_package(directory: Path) -> Path:
    """Return the serving package inside an output folder of `partition`.

    Raises:
        UsageError: If there is none.
    """
    found = sorted((directory / "serving").glob("*_serving/plan.json"))
    if not found:
        raise UsageError(f"{directory} holds no serving package", hint="make one: cutset partition MODEL -o DIR")
    return found[0].parent.resolve()
