"""Names of a model act nowhere: not in a terminal, not in the log of a job, not in the summary of one."""

from __future__ import annotations

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.e2e.harness import QUICK, onnx_file

NAMES = ["::error file=a::pwned", "\n::stop-commands::x", "\x1b[31mred\x1b]0;title\x07", "\u202eevil", "a\x9b2J##[add-mask]b"]
OBEYED = re.compile(r"^\s*::(?!notice title=hostile::|error title=hostile%3A )|##\w*\[", re.MULTILINE)
"""Commands in a job's log, but for those that Cutset writes itself."""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A chain in which everything has a hostile name."""
    values = [f"{name} value" for name in ["\r\n::warning::in", *NAMES]]
    nodes = [
        helper.make_node("MatMul", [value, f"{name}w"], [after], name=name)
        for name, value, after in zip(NAMES, values, values[1:], strict=False)
    ]
    weights = {f"{name}w": np.eye(8, dtype=np.float32) for name in NAMES}
    inputs, outputs = [(values[0], TensorProto.FLOAT, ["\n::error::n", 8])], [(values[-1], TensorProto.FLOAT, None)]
    path = onnx_file(tmp_path_factory.mktemp("hostile") / "hostile.onnx", nodes, inputs, outputs, weights=weights)
    with path.with_suffix(".npz").open("wb"):
        np.savez(path.with_suffix(".npz"), **{values[0]: np.ones((2, 8), np.float32)})
    return path


def check_harmless(text: str) -> None:
    assert not OBEYED.search(text), OBEYED.search(text)
    assert all(line.isprintable() for line in text.split("\n"))


def test_no_name_acts_in_what_a_command_writes(hostile, cutset, tmp_path):
    out, baseline = tmp_path / "out", tmp_path / "baseline.json"
    ci = ("ci", hostile, "--baseline", baseline, "--target", "t4", "-o", tmp_path / "ci", "--repeats", "1", *QUICK)
    commands = {
        0: [
            ("inspect", hostile, "--no-costs", "--all"),
            ("partition", hostile, "-o", out, "--target", "t4", *QUICK),
            ("explain", out, "*"),
            ("explain", out, "--json"),
            (*ci, "--update"),
        ],
        2: [("explain", out, "none"), ("inspect", hostile, "--shape", "y=1"), ("inspect", hostile, "--shape", "y=1", "--json")],
    }
    for code, lines in commands.items():
        for words in lines:
            done = cutset(*words)
            assert done.code == code, done.err
            check_harmless(done.out + done.err)
    summary = tmp_path / "summary.md"
    done = cutset(*ci, "--again", "0", env={"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)})
    assert done.code in (0, 5), done.err
    for text in (done.out, done.err, summary.read_text("utf-8"), (tmp_path / "ci" / "summary.md").read_text("utf-8")):
        check_harmless(text)
