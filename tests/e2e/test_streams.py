"""Standard streams that are closed or full: the files of a command are whole, and what is said is the truth."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.harness import PATIENCE_S, QUICK

UNWRITABLE = [">/dev/full", ">&-"]


def shell(cutset, redirection, *words):
    """Run a command with its streams redirected, and return its code and what it wrote to stderr."""
    line = f'"$@" {redirection}'
    done = subprocess.run(
        ["sh", "-c", line, "sh", *cutset.words(*words)],
        env=cutset.environment(), cwd=cutset.folder, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.mark.parametrize("redirection", UNWRITABLE)
@pytest.mark.parametrize("words", [("--help",), ("samples",), ("samples", "--json"), ("inspect", "--json")])
def test_a_stdout_that_takes_nothing_is_called_so(redirection, words, cutset):
    code, err = shell(cutset, redirection, *words)
    assert code == (2 if "inspect" in words else 1)
    assert err.startswith("error: ")
    assert "the result cannot be written to stdout" in err or "inspect" in words
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert "disk is full" not in err


@pytest.mark.parametrize("redirection", UNWRITABLE)
def test_the_package_is_there_though_nothing_could_be_said(redirection, cutset, cnn_file, tmp_path):
    target = tmp_path / "out"
    words = ("partition", cnn_file, "-o", target, "--target", "t4", "--shape", "x=1x3x8x8", *QUICK)
    code, err = shell(cutset, redirection, *words)
    assert code == 1, err
    assert err.splitlines()[-3].startswith("error: the result cannot be written to stdout; files that the command made")
    assert (target / "manifest.json").is_file()


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2>&- <&-", "<&- >/dev/null"])
def test_progress_that_nobody_reads_stops_nothing(redirection, cutset, cnn_file):
    code, _ = shell(cutset, f"{redirection} >out.txt", "inspect", cnn_file, "--no-costs", "--shape", "x=1x3x8x8")
    assert code == 0
    assert "conv" in (cutset.folder / "out.txt").read_text("utf-8")


def test_letters_that_a_stream_lacks_are_escaped(cutset, tmp_path):
    done = cutset("inspect", tmp_path / "é.onnx", env={"PYTHONIOENCODING": "ascii"})
    assert done.code == 1
    assert "\\xe9.onnx" in done.err
