"""`cutset profile --merge`, `--diff` and `--target FILE.json`: files in, words or JSON out, and errors that help."""

import json

import pytest

from cutset import serde
from cutset.cli.main import run
from tests.profile_tables import make_group, make_table

BEFORE = make_table(make_group("a", 1e-3), make_group("b", 2e-3), cpu="Old CPU")
AFTER = make_table(make_group("a", 1e-3), make_group("b", 4e-3), make_group("a", 1e-5, device="gpu"), cpu="New CPU")


@pytest.fixture
def files(tmp_path):
    """Two profiles and a third of another model."""
    found = {}
    for name, table in (("a", BEFORE), ("b", AFTER), ("other", make_table(make_group("z"), sha256="b" * 64))):
        found[name] = tmp_path / f"{name}.json"
        found[name].write_text(serde.dumps(table), "utf-8")
    return found


def say(capsys, *words):
    """Run the command line; return its exit code, and what it wrote to stdout and stderr."""
    code = run([str(word) for word in words])
    written = capsys.readouterr()
    return code, written.out, written.err


def test_a_merged_profile_is_written_and_read_by_machine(capsys, files, tmp_path):
    merged = tmp_path / "m.json"
    code, out, _ = say(capsys, "profile", "--merge", files["a"], files["b"], "-o", merged)
    assert code == 0
    assert f"profile: {merged}" in out
    devices = {group["device"] for group in json.loads(merged.read_text("utf-8"))["groups"]}
    assert devices == {"cpu:0", "cpu:1", "gpu:1"}
    code, out, _ = say(capsys, "profile", "--diff", f"{merged}#0", files["a"], "--json")
    assert code == 0
    assert {group["verdict"] for group in json.loads(out)["groups"]} == {"same"}


def test_a_difference_in_words(capsys, files):
    code, out, _ = say(capsys, "profile", "--diff", files["a"], files["b"])
    assert code == 0
    assert "not the same: cpu: Old CPU and New CPU" in out
    assert "cpu total: 3.00 ms measured, 5.00 ms measured: 1.67x, slower" in out
    assert "1 of 2 groups differ by more than noise" in out
    assert "1 groups are in the second profile alone, 10.0 us" in out


def test_a_difference_in_json(capsys, files):
    code, out, _ = say(capsys, "profile", "--diff", files["a"], files["b"], "--json")
    found = json.loads(out)
    assert (code, found["schema"], found["same_model"]) == (0, "cutset.profile-diff/1", True)
    assert [(group["what"], group["verdict"]) for group in found["groups"]] == [("b", "slower"), ("a", "same")]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--merge", "a"], "at least two profiles", "-o M.json"),
        (["--merge", "a", "other"], "different models", "--diff"),
        (["--diff", "a"], "two profiles, not 1", "--diff A.json B.json"),
        (["--diff", "a", "b", "-o", "x.json"], "writes no profile", "--json"),
        (["--diff", "a", "a#7"], "there is no number 7", "Old CPU"),
        (["--diff", "a", "README"], "is not the name of a profile", "FILE.json#1"),
        (["a", "b"], "one model at a time", "--merge or --diff"),
    ],
)
def test_what_cannot_be_done(capsys, files, words, message, hint):
    name, _, number = "", "", ""
    full = []
    for word in words:
        name, _, number = word.partition("#")
        full.append(f"{files[name]}{'#' + number if number else ''}" if name in files else word)
    code, out, err = say(capsys, "profile", *full)
    assert (code, out) == (2, "")
    assert message in err
    assert hint in err


def test_a_target_file_says_what_it_covers(capsys, files, cnn_path, tmp_path):
    quick = ("--cache", "none", "--profile-seconds", "0.05", "-o")
    first = tmp_path / "first.json"
    assert say(capsys, "profile", cnn_path, "--target", "t4", *quick, first)[0] == 0
    recorded = json.loads(first.read_text("utf-8"))
    for group in recorded["groups"]:
        group["source"] = "measured"
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(json.dumps(recorded), "utf-8")
    code, _, err = say(capsys, "profile", cnn_path, "--target", elsewhere, *quick, tmp_path / "second.json")
    groups = json.loads((tmp_path / "second.json").read_text("utf-8"))["groups"]
    count = sum(group["device"] == "gpu" for group in groups)
    assert code == 0
    assert f"{count} of {count} groups recorded (100.0% of the CPU time)" in err
    assert {group["source"] for group in groups if group["device"] == "gpu"} == {"recorded"}
