"""What `cutset ci` refuses before anything is measured, and the files that `--init` writes."""

import json
from pathlib import Path

import pytest

from cutset.cli.main import run
from cutset.codegen.ci.baseline import Baseline, updated, write_baseline
from tests.ci_records import record


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a baseline of a model called `net`."""
    monkeypatch.chdir(tmp_path)
    write_baseline(Path("b.json"), updated(Baseline(), record(name="net")))
    Path("bad.md").write_text("$nothing")
    return tmp_path


def say(capsys, *words):
    code = run(["ci", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "no model was given"),
        (("net.onnx", "--baseline", "none.json"), "there is no baseline none.json"),
        (("net.onnx", "--baseline", "b.json"), "the baseline of `net` was taken with other options"),
        (("other.onnx", "--baseline", "b.json"), "the baseline holds no entry of `other`"),
        (("net.onnx", "a/net.onnx"), "two models are called 'net'"),
        (("a b.onnx", "a_b.onnx"), "two models are called 'a_b'"),
        (("net.onnx", "--baseline", "b.json", "--fail-on", "speed=1%"), "--fail-on 'speed=1%' names no check"),
        (("net.onnx", "--baseline", "b.json", "--calibrate"), "--calibrate measures at the speed of the moment"),
        (("net.onnx", "--baseline", "b.json", "--comment", "bad.md"), "bad.md is no template of a comment"),
        (("net.onnx", "--baseline", "b.json", "--comment", "none.md"), "the template of a comment none.md cannot be read"),
        (("net.onnx", "--baseline", "b.json", "-o", "b.json"), "b.json exists and is not a folder"),
    ],
)
def test_what_does_not_fit(capsys, folder, words, expected):
    code, found = say(capsys, *words)
    assert code == 2
    assert expected in found["error"]["what"]
    assert sorted(path.name for path in folder.iterdir()) == ["b.json", "bad.md"]


def test_init_writes_what_was_typed(capsys, folder):
    code, found = say(
        capsys, "--init", "a b.onnx", "--target", "t4", "--pin", "x=cpu", "--pin", "y=gpu", "--exact", "-o", "out"
    )
    assert code == 0
    assert found["written"] == [".github/workflows/cutset.yml", ".gitlab/cutset.gitlab-ci.yml", ".cutset/comment.md"]
    workflow = Path(found["written"][0]).read_text("utf-8")
    for words in ("--pin=x=cpu \\", "--pin=y=gpu \\", "--exact \\", "--output=out \\", "--target=t4 \\", "'a b.onnx'"):
        assert words in workflow
    on_gpu = workflow[workflow.index("cutset-gpu:") :]
    assert "--target=cuda:0 \\" in on_gpu
    assert "--target=t4" not in on_gpu


def test_init_replaces_nothing_unasked(capsys, folder):
    assert say(capsys, "--init", "a.onnx")[0] == 0
    code, found = say(capsys, "--init", "b.onnx")
    assert (code, found["error"]["what"]) == (2, ".github/workflows/cutset.yml exists")
    assert "b.onnx" not in Path(".github/workflows/cutset.yml").read_text("utf-8")
    assert say(capsys, "--init", "b.onnx", "--force")[0] == 0
    assert "b.onnx" in Path(".github/workflows/cutset.yml").read_text("utf-8")
    assert say(capsys, "--init", "--force")[0] == 2
