"""How results look: tables and JSON on stdout, progress and notices on stderr; names from a model are made visible here."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cutset import serde
from cutset.profilers.table import Coverage
from cutset.visible import visible, visible_line

PIPE_WIDTH = 160
LOG_HANDLER = "cutset"

CPU_ALONE = "planning for the CPU alone; name a GPU to plan for it with modelled costs, e.g. --target t4"


class Output:
    """Where a command writes.

    Args:
        as_json: Write the result as one JSON document.
        quiet: Show no progress.
        verbose: Show what libraries log.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
        self.stdout = Console(width=width, highlight=False)
        self.stderr = Console(stderr=True, highlight=False)
        _log_to_stderr(logging.INFO if verbose else logging.ERROR)

    def hushed(self) -> Output:
        """Return this without progress and notices: what is done again need not be said again."""
        other = copy.copy(self)
        other.quiet = True
        return other

    def json(self, value: Any) -> None:
        """Write `value` as JSON to stdout."""
        click.echo(serde.dumps(value), nl=False)

    def line(self, text: str) -> None:
        """Write one line of the result."""
        self.stdout.print(Text(visible_line(text)), soft_wrap=True)

    def notice(self, text: str) -> None:
        """Write one line to stderr, unless quiet."""
        if not self.quiet:
            self._aside(Text(visible_line(text), style="dim"))

    def _aside(self, text: Text) -> None:
        """Write to stderr; a stderr that takes nothing is no reason to stop."""
        with contextlib.suppress(OSError):
            self.stderr.print(text, soft_wrap=True)

    def command(self, text: str) -> None:
        """Write a line that another program obeys to stderr, unwrapped, so that stdout holds the result alone."""
        click.echo(visible(text), err=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Write a table; cells that are numbers are aligned to the right."""
        table = Table(title=Text(visible_line(title)), title_justify="left", header_style="bold")
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
            table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(visible(str(cell))) for cell in row))
        self.stdout.print(table)

    @contextlib.contextmanager
    def progress(self) -> Iterator[Any]:
        """Yield a function that is told each step: a live line on a terminal, plain lines elsewhere."""
        if self.quiet or not self.stderr.is_terminal:
            yield (lambda _text: None) if self.quiet else lambda text: self._aside(Text(f"... {visible(text)}"))
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        with Progress(*columns, console=self.stderr, transient=True) as live:
            task = live.add_task("starting", total=None)
            yield lambda text: live.update(task, description=visible(text))


def _log_to_stderr(level: int) -> None:
    """Show what libraries log from `level` on, through one handler of ours however often a command is run in a process."""
    root = logging.getLogger()
    handler = logging.StreamHandler()
    handler.set_name(LOG_HANDLER)
    handler.setLevel(level)
    handler.setFormatter(_VisibleFormatter("%(name)s: %(message)s"))
    root.handlers = [*(other for other in root.handlers if other.get_name() != LOG_HANDLER), handler]
    root.setLevel(min(level, logging.WARNING))


class _VisibleFormatter(logging.Formatter):
    """Shows each line of a message; a message may quote a model."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, and the traceback if there is one, line by line."""
        return "\n".join(visible_line(line) for line in super().format(record).split("\n"))


def _is_number(cell: object) -> bool:
    text = str(cell).strip()
    return bool(text) and (text[0].isdigit() or text in {"-", ""} or text[0] == "-")


def seconds(value: float | None) -> str:
    """Return a time as people write it: ``3.21 ms``, ``45.0 us``; a dash for none."""
    if value is None:
        return "-"
    if value >= 1:
        return f"{value:.2f} s"
    return f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def size(value: int | None) -> str:
    """Return a number of bytes as people write it: ``588.0 KiB``; a dash for none."""
    if value is None:
        return "-"
    amount, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{value} B" if unit == "B" else f"{amount:.1f} {unit}"


def count(value: float) -> str:
    """Return a large count as people write it: ``4.1 G``."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f}"


def print_held_back(held: Mapping[str, Any], source: str, output: Output) -> None:
    """Write what keeps a model off the GPU, and what to do about it.

    Args:
        held: As plan.json holds it.
        source: Where the GPU's costs came from.
        output: Where to write.
    """
    rows = [
        (
            f"{entry['what']} in {entry['nodes']} nodes",
            ", ".join(entry["first"]),
            f"{entry['share']:.0%}",
            entry["way_out"] or "-",
        )
        for entry in held["obstacles"]
    ]
    title = f"What keeps {held['share']:.0%} of the CPU's time off the GPU"
    output.table(title, ("what", "first nodes", "of the time", "way out"), rows)
    if held["gain"] is not None:
        output.line(f"without these refusals a plan would reach {held['gain']:.1f}x as much ({source})")


def describe_coverage(coverage: Coverage) -> str:
    """Return in words what a recorded profile covers and what stands in for the rest."""
    total = coverage.recorded + coverage.calibrated + coverage.datasheet + coverage.unknown
    rest = [
        f"{number} {how}"
        for number, how in (
            (coverage.calibrated, "modelled by rates fitted to it"),
            (coverage.datasheet, "modelled from the data sheet"),
            (coverage.unknown, "without a cost, so on the CPU"),
        )
        if number
    ]
    covered = f"{coverage.recorded} of {total} groups recorded ({coverage.cpu_time_share:.1%} of the CPU time)"
    return "; ".join([covered, *rest])
