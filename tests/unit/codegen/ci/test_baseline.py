"""A baseline holds an entry for each model on each machine; the one that fits is found, or what does not fit is said."""

import json
from dataclasses import replace

import pytest

from cutset.codegen.ci.baseline import Baseline, pick, read_baseline, updated, write_baseline
from cutset.errors import UsageError
from tests.ci_records import costs, record

HERE = record()
THERE = record(costs(cpu="Other CPU"))
OTHER = record(name="other")
OPTIONS = HERE.options


def filled():
    baseline = Baseline()
    for entry in (THERE, HERE, OTHER):
        baseline = updated(baseline, entry)
    return baseline


def test_a_baseline_survives_its_file(tmp_path):
    path = tmp_path / "baseline.json"
    write_baseline(path, filled())
    read = read_baseline(path)
    assert {entry.name for entry in read.entries} == {"m", "other"}
    again = tmp_path / "again.json"
    write_baseline(again, Baseline(entries=tuple(reversed(read.entries))))
    assert again.read_bytes() == path.read_bytes(), "the order of entries is their own"
    assert len(path.read_text().splitlines()) == 5, "a line an entry"


def test_an_update_replaces_the_entry_of_this_machine_alone():
    baseline = updated(filled(), replace(HERE, plan=replace(HERE.plan, batch=8)))
    assert len(baseline.entries) == 3
    assert pick(baseline, "m", OPTIONS, HERE.machine).plan.batch == 8
    assert pick(baseline, "m", OPTIONS, THERE.machine).plan.batch == 1


def test_the_entry_of_this_machine_comes_first():
    assert pick(filled(), "m", OPTIONS, HERE.machine).machine == HERE.machine
    assert pick(filled(), "m", OPTIONS, {"cpu": "Third", "cores": 2, "gpus": []}).name == "m"


def test_an_option_that_an_older_version_did_not_know_is_no_difference():
    newer = OPTIONS | {"brand_new": 3}
    assert pick(filled(), "m", newer, HERE.machine).machine == HERE.machine
    assert len(updated(filled(), replace(HERE, options=newer)).entries) == 3


def test_what_does_not_fit():
    with pytest.raises(UsageError, match="no entry of `x`") as caught:
        pick(filled(), "x", OPTIONS, HERE.machine)
    assert caught.value.where == "it holds m, other"
    with pytest.raises(UsageError, match="other options") as caught:
        pick(filled(), "m", {"target": "l4"}, HERE.machine)
    assert caught.value.where == "target 't4', not 'l4'"


@pytest.mark.parametrize(
    "text", ["", "{}", '{"schema": "cutset.baseline/0"}', '{"schema": "cutset.baseline/1", "entries": [{}]}']
)
def test_files_that_are_no_baseline(tmp_path, text):
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UsageError):
        read_baseline(tmp_path / "b.json")


def test_only_what_is_compared_is_kept(tmp_path):
    write_baseline(tmp_path / "b.json", filled())
    entry = json.loads((tmp_path / "b.json").read_text())["entries"][0]
    assert all(not group["unfused_s"] and not group["work"] for group in entry["repeats"]["table"]["groups"])


@pytest.mark.parametrize(
    ("field", "value"),
    [("packages", 3), ("gpus", 3), ("gpus", ["h100"]), ("cpu", None), ("usable_cores", "two"), ("usable_cores", [])],
)
def test_a_machine_that_was_edited_by_hand(tmp_path, field, value):
    path = write(tmp_path, field, value)
    with pytest.raises(UsageError, match="does not have the expected fields") as caught:
        read_baseline(path)
    assert f"environment.{field}" in caught.value.cause


def write(folder, field, value):
    """Write a baseline with another value in the environment of an entry."""
    path = folder / "baseline.json"
    write_baseline(path, filled())
    document = json.loads(path.read_text("utf-8"))
    document["entries"][0]["repeats"]["table"]["environment"][field] = value
    path.write_text(json.dumps(document), "utf-8")
    return path
