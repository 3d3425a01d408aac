from __future__ import annotations

import json
import logging

import pytest

from cutset.cli.output import Output, count, seconds, size


@pytest.fixture(autouse=True)
def logging_as_before():
    """`Output` sets up logging for a process of its own."""
    handlers, level = list(logging.root.handlers), logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.0 us"),
        (4.5e-5, "45.0 us"),
        (9.99e-4, "999.0 us"),
        (1e-3, "1.00 ms"),
        (0.0321, "32.10 ms"),
        (2, "2.00 s"),
    ],
)
def test_times_are_written_as_people_write_them(value, text):
    assert seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (602112, "588.0 KiB"),
        (3 << 20, "3.0 MiB"),
        (5 << 40, "5120.0 GiB"),
    ],
)
def test_sizes_are_written_as_people_write_them(value, text):
    assert size(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (999, "999"), (1500, "1.5 k"), (4.1e9, "4.1 G"), (2e13, "20.0 T")])
def test_counts_are_written_as_people_write_them(value, text):
    assert count(value) == text


def test_results_are_on_stdout_and_the_rest_on_stderr(capsys):
    output = Output()
    output.line("a result")
    output.notice("a notice")
    with output.progress() as progress:
        progress("a step")
    assert capsys.readouterr() == ("a result\n", "a notice\n... a step\n")


def test_quiet_leaves_only_results(capsys):
    output = Output(quiet=True)
    output.line("a result")
    output.notice("a notice")
    with output.progress() as progress:
        progress("a step")
    assert capsys.readouterr() == ("a result\n", "")


def test_a_line_is_never_wrapped_nor_read_as_markup(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    text = "[red]" + "x" * 60 + "[/red] :smile: \\["
    output = Output()
    output.line(text)
    output.notice(text)
    with output.progress() as progress:
        progress(text)
    assert capsys.readouterr() == (f"{text}\n", f"{text}\n... {text}\n")


def test_a_table_shows_cells_as_they_are(capsys):
    Output().table("A [title]", ("name", "count"), [("[bold]x[/bold]", 3), ("y", 14)])
    out = capsys.readouterr().out
    assert "A [title]" in out
    assert "[bold]x[/bold]" in out
    lines = out.splitlines()
    assert lines[-3].rstrip(" │").endswith("  3"), "numbers are aligned to the right"


def test_no_name_acts_wherever_it_is_written(capsys):
    name = "::error::a\n::error::b \x1b[31m\u202e##[error]c"
    output = Output(verbose=True)
    for write in (output.line, output.notice, output.command):
        write(name)
    output.table(name, ("name",), [(name,)])
    with output.progress() as progress:
        progress(name)
    logging.getLogger("cutset.x").info(name)
    out, err = capsys.readouterr()
    shown = "a\\n::error::b \\x1b[31m\\u202e\\x23#[error]c"
    assert [line.rstrip() for line in out.splitlines()[:2]] == [f"\\x3a:error::{shown}"] * 2
    assert f"│ ::error::{shown} │" in out
    assert err == (
        f"\\x3a:error::{shown}\n::error::{shown}\n... ::error::{shown}\ncutset.x: ::error::a\n"
        "\\x3a:error::b \\x1b[31m\\u202e\\x23#[error]c\n"
    )


def test_an_empty_table_is_a_table(capsys):
    Output().table("Nothing", ("name",), [])
    assert "name" in capsys.readouterr().out


def test_json_is_one_document(capsys):
    Output(as_json=True).json({"a": [1, None], "é": "<b>"})
    assert json.loads(capsys.readouterr().out) == {"a": [1, None], "é": "<b>"}


@pytest.mark.parametrize(("verbose", "shown"), [(True, "cutset.x: seen\n"), (False, "")])
def test_what_libraries_log_is_shown_on_demand(verbose, shown, capsys):
    Output(verbose=verbose)
    logging.getLogger("cutset.x").info("seen")
    assert capsys.readouterr().err == shown
