"""The command line: finds commands lazily, and turns every failure into words and an exit code in one place."""

from __future__ import annotations

import contextlib
import errno
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from cutset import __version__
from cutset.claims import own_temporary_folder
from cutset.cli.streams import StdoutError, drop_stdout, prepare_streams
from cutset.cli.successor import Successor
from cutset.errors import CutsetError
from cutset.visible import visible, visible_json, visible_line

COMMANDS = {
    "doctor": "Say what works on this machine, and the way out for what does not.",
    "inspect": "Show operators, shapes, sizes and which device can run each node.",
    "profile": "Measure what every operator costs, and model or replay the GPU.",
    "compose": "Compose several models and the glue between them into one.",
    "partition": "Split a model between CPU and GPU and emit a running package.",
    "explain": "Say why every node is where it is, and what a change would buy.",
    "capacity": "Say what other numbers of workers, batches and replicas would do, and cost.",
    "solve": "Plan a bare cost graph, no model.",
    "serve": "Start the server of an emitted package.",
    "bench": "Measure an emitted pipeline against its parts and the unsplit model.",
    "ci": "Hold a model's deployment against a baseline, and fail when it got worse.",
    "report": "Draw the report of an output folder again.",
    "samples": "List the sample models, write one, or fetch a real one.",
}
"""Command name to its one line of help; the module of that name in `cutset.cli.commands` is imported when it is used."""

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
INTERRUPTED, BUG = 130, 70


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used, so that ``--help`` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names in the order of a session's work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, imported now."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"cutset.cli.commands.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cutset")
def cli() -> None:
    """Split an ONNX model between CPU and GPU by measurement, and emit a running, pipelined deployment."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: Words after the program's name; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    prepare_streams()
    try:
        with _terminable(), own_temporary_folder():
            result = cli.main(args=words, prog_name="cutset", standalone_mode=False)
            sys.stdout.flush()
        if isinstance(result, Successor):
            result.start()
        return result if isinstance(result, int) else 0
    except CutsetError as error:
        return _say(error.as_json(), as_json=as_json)
    except click.ClickException as error:
        return _usage(error, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        data = {"kind": "Interrupted", "what": "interrupted", "exit_code": INTERRUPTED}
        return _say(data, as_json=as_json, label="")
    except (OSError, MemoryError) as error:
        return _of_the_machine(error, as_json=as_json)
    except Exception:  # anything else is ours to mend: keep the traceback, it is the report
        for line in traceback.format_exc().splitlines():
            click.echo(visible_line(line), err=True)
        text = "this is a bug in cutset; please report it with the lines above"
        return _say({"kind": "Bug", "what": text, "exit_code": BUG}, as_json=as_json)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C does, so that half-written output is removed."""

    def stop(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller owns the signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _usage(error: click.ClickException, *, as_json: bool) -> int:
    context = getattr(error, "ctx", None)
    hint = f"{context.command_path} --help" if context is not None else "cutset --help"
    what = " ".join(error.format_message().split())
    return _say({"kind": "UsageError", "what": what, "hint": hint, "exit_code": 2}, as_json=as_json)


def _of_the_machine(error: OSError | MemoryError, *, as_json: bool) -> int:
    """Say that the system refused something: a file, space on a disk, memory, words on stdout."""
    if isinstance(error, MemoryError):
        hint = "smaller sample inputs and a smaller --batch need less"
        kind, shown = "MemoryError", CutsetError("out of memory", cause=str(error), hint=hint)
    elif error.errno == errno.EPIPE:
        drop_stdout()
        return 0
    elif isinstance(error, StdoutError):
        drop_stdout()
        what = "the result cannot be written to stdout; files that the command made are whole"
        hint = "send stdout to a place with room, or to /dev/null"
        kind, shown, as_json = "OSError", CutsetError(what, cause=error.strerror, hint=hint), False
    elif error.errno in FULL_DISK:
        hint = "free some space, or give a path on another disk with -o; TMPDIR moves the work files"
        kind, shown = "OSError", CutsetError("the disk is full; nothing was left behind", where=_path(error), hint=hint)
    else:
        kind, shown = "OSError", CutsetError(error.strerror or str(error), where=_path(error))
    return _say(shown.as_json() | {"kind": kind}, as_json=as_json)


def _path(error: OSError) -> str | None:
    """Return the file of an error, which may be a number or bytes."""
    name = error.filename
    return None if name is None else os.fsdecode(name) if isinstance(name, (str, bytes)) else str(name)


def _say(data: Mapping[str, Any], *, as_json: bool, label: str = "error: ") -> int:
    """Write an error, as JSON on stdout when asked for, else as text on stderr, and return its exit code."""
    parts = {label: "what", "  at: ": "where", "  cause: ": "cause", "hint: ": "hint"}
    text = "\n".join(f"{name}{visible(str(data[key]).strip())}" for name, key in parts.items() if data.get(key))
    with contextlib.suppress(OSError):  # nobody is there to be told
        try:
            click.echo(visible_json(json.dumps({"error": data})) if as_json else text, err=not as_json)
        except StdoutError:
            drop_stdout()
            click.echo(text, err=True)
    code: int = data["exit_code"]
    return code
