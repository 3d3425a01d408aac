from __future__ import annotations

import errno
import json
import os
import signal
import threading
import tomllib
from pathlib import Path

import click
import pytest

from cutset.cli import main
from cutset.errors import CutsetError, PlanError, UnavailableError, UsageError, VerificationError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def failing(monkeypatch):
    """Return a function that runs the command line with a command that raises."""

    def run(error, *words):
        def invoke(*_args, **_kwargs):
            raise error

        monkeypatch.setattr(main.cli, "main", invoke)
        return main.run(words)

    return run


ERRORS = [
    (CutsetError("it is so", where="m.onnx", cause="because", hint="do this"), 1, "CutsetError"),
    (UsageError("it is so"), 2, "UsageError"),
    (PlanError("it is so"), 1, "PlanError"),
    (UnavailableError("it is so"), 3, "UnavailableError"),
    (VerificationError("it is so"), 4, "VerificationError"),
    (OSError(errno.EACCES, "it is so", "/some/file"), 1, "OSError"),
    (KeyboardInterrupt(), 130, "Interrupted"),
    (click.Abort(), 130, "Interrupted"),
    (MemoryError("it is so"), 1, "MemoryError"),
    (click.UsageError("it is so"), 2, "UsageError"),
    (ZeroDivisionError("it is so"), 70, "Bug"),
]


@pytest.mark.parametrize(("error", "code", "kind"), ERRORS, ids=[kind for *_, kind in ERRORS])
def test_every_failure_has_words_a_kind_and_a_code(error, code, kind, failing, capsys):
    assert failing(error) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert ("Traceback" in err) == (kind == "Bug")
    assert "it is so" in err or kind == "Interrupted"
    assert failing(error, "--json") == code
    out, _ = capsys.readouterr()
    document = json.loads(out)["error"]
    assert (document["kind"], document["exit_code"]) == (kind, code)


def test_an_error_is_shown_with_place_cause_and_hint(failing, capsys):
    failing(CutsetError("it is so", where="m.onnx", cause="because", hint="do this"))
    assert capsys.readouterr().err == "error: it is so\n  at: m.onnx\n  cause: because\nhint: do this\n"


HOSTILE = "a\n::error::b \x1b[31m"


@pytest.mark.parametrize(
    "error",
    [
        CutsetError(HOSTILE, where=HOSTILE, cause=HOSTILE, hint=HOSTILE),
        OSError(errno.EACCES, HOSTILE, HOSTILE),
        click.UsageError(HOSTILE),
        ZeroDivisionError(HOSTILE),
    ],
)
def test_no_name_acts_in_an_error(error, failing, capsys):
    for words in ((), ("--json",)):
        failing(error, *words)
        text = "".join(capsys.readouterr())
        assert not any(line.lstrip().startswith("::") for line in text.splitlines())
        assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_full_disk_is_called_so(number, failing, capsys):
    assert failing(OSError(number, os.strerror(number), "/d/f")) == 1
    assert capsys.readouterr().err.splitlines()[:2] == ["error: the disk is full; nothing was left behind", "  at: /d/f"]


def test_a_reader_that_has_left_is_no_failure(failing, capsys):
    assert failing(BrokenPipeError(errno.EPIPE, "Broken pipe")) == 0
    assert capsys.readouterr() == ("", "")


def test_sigterm_unwinds_and_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), main._terminable():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_runs_in_a_thread_where_signals_cannot_be_caught(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main.run(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert capsys.readouterr().out.startswith("cutset, version")


def test_the_list_of_commands_is_the_folder_of_commands():
    files = {path.stem for path in (ROOT / "cli" / "commands").glob("*.py")} - {"__init__"}
    assert files == set(main.COMMANDS)
    context = click.Context(main.cli)
    for name in main.COMMANDS:
        command = main.cli.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help
    assert main.cli.get_command(context, "os") is None


def test_every_command_takes_json_quiet_and_verbose():
    context = click.Context(main.cli)
    for name in main.COMMANDS:
        options = {option for parameter in main.cli.get_command(context, name).params for option in parameter.opts}
        assert {"--json", "-q", "-v"} <= options, name


def test_the_installed_command_is_this_one():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"cutset": "cutset.__main__:main"}
