"""What a user can tell the planner, and what it tells the user."""

from __future__ import annotations

from tests.e2e.harness import QUICK

PLAN = ("--plan-only", "--json", "--target", "t4", *QUICK)


def test_written_pins_give_the_same_placement(cutset, mixed, tmp_path):
    """A placement that no cost would choose, so that only the file can have brought it back."""
    file = tmp_path / "pins.yaml"
    first = cutset("partition", mixed, *PLAN, "--pin", "dense=gpu", "--pin", "relu=cpu", "--write-pins", file).json
    assert (first["placement"]["dense"], first["placement"]["relu"]) == ("gpu", "cpu")
    again = cutset("partition", mixed, *PLAN, "--pins", file).json
    assert again["placement"] == first["placement"]
    assert again["pins"] == first["placement"]
    assert again["reasons"]["dense"].startswith(f"pinned by {file}:")
    rewritten = tmp_path / "again.yaml"
    assert cutset("partition", mixed, *PLAN, "--pins", file, "--write-pins", rewritten).code == 0
    assert rewritten.read_text() == file.read_text()


def test_nodes_that_are_kept_together_move_together(cutset, mixed, tmp_path):
    file = tmp_path / "pins.yaml"
    file.write_text("pins: {dense: gpu}\nkeep: [[dense, relu]]\n")
    done = cutset("partition", mixed, *PLAN, "--pins", file).json
    assert (done["placement"]["dense"], done["placement"]["relu"]) == ("gpu", "gpu")
    torn = cutset("partition", mixed, *PLAN, "--pins", file, "--pin", "relu=cpu")
    assert torn.code == 1
    assert "`dense` -> `relu`" in torn.error["cause"]
    assert f"{file}:2" in torn.error["where"]


def test_a_pins_file_with_a_mistake_is_refused_before_anything_is_measured(cutset, mixed, tmp_path):
    file = tmp_path / "pins.yaml"
    file.write_text("pins:\n  dense: fpga\n")
    done = cutset("partition", mixed, *PLAN, "--pins", file)
    assert done.code == 2
    assert done.error["where"] == f"{file}:2"
    assert "..." not in done.err
