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


def test_batch_and_workers_are_chosen(cutset, cnn_file):
    done = cutset("partition", cnn_file, *PLAN, "--batch", "auto", "--cpu-workers", "auto").json
    assert done["batch"] in {1, 2, 4, 8}
    assert done["tokens"] % done["batch"] == 0
    assert {point["batch"] for point in done["pareto"]} <= {1, 2, 4, 8}
    front = [(point["latency_s"], point["throughput_per_s"]) for point in done["pareto"]]
    assert front == sorted(front)
    assert done["batch_scaling"] == "measured"


def test_a_model_that_takes_no_batches_is_planned_without(cutset, mixed):
    done = cutset("partition", mixed, *PLAN, "--batch", "auto")
    assert done.json["batch"] == 1
    assert "planning without batches" in done.err


def test_a_latency_target(cutset, mixed):
    done = cutset("partition", mixed, *PLAN, "--slo-ms", "500").json
    assert 0 < done["prediction"]["loaded_latency_s"] <= 0.5
    late = cutset("partition", mixed, *PLAN, "--slo-ms", "0.001")
    assert late.code == 1
    assert late.error["what"].startswith("no plan answers within 0.001 ms")


def test_explain_and_capacity_of_an_emitted_plan(cutset, mixed, tmp_path):
    out = tmp_path / "out"
    pins = ("--pin", "dense=gpu", "--pin", "relu=cpu")
    assert cutset.partition(mixed, out, *pins).code == 0
    told = cutset("explain", out, "--json").json
    assert {node["node"] for node in told["nodes"]} == {"concat", "dense", "relu", "nms"}
    assert {(c["tensor"], c["direction"]) for c in told["crossings"]} == {("x", "h2d"), ("hidden", "d2h")}
    assert {entry["stage"] for entry in told["forced"]}
    assert all(entry["gain"] >= 1 - 1e-9 for entry in told["forced"])
    assert "2 CPU workers" in {entry["change"] for entry in told["what_if"]}
    one = cutset("explain", out, "nms")
    assert one.out.startswith("nms: CPU, stage ")
    assert cutset("explain", out, "nothing*").code == 2
    table = cutset("capacity", out, "--rate", "10", "--slo-ms", "1000", "--gpu-per-hour", "0.6", "--json").json
    assert table["source"] == "modelled"
    assert table["recommended"]["replicas"] == 1
    assert table["recommended"]["latency_p99_s"] <= 1
    assert table["recommended"]["cost_per_million"] > 0
    report = (out / "report.html").read_text("utf-8")
    assert "Capacity of a replica" in report
    for row in table["rows"]:
        assert f"{row['cpu_workers']} workers, batch {row['batch']}" in report
    assert "CPU worker(s)" in cutset("capacity", out).out
    assert "replica(s) at the rate" not in (out / "report.html").read_text("utf-8")
    assert cutset("capacity", mixed.parent).code == 2


def test_explain_a_model_that_is_planned_for_it(cutset, mixed):
    done = cutset("explain", mixed, "dense", "--target", "t4", *QUICK)
    assert done.code == 0, done.err
    assert done.out.startswith("dense: ")


def test_stages_are_measured_and_the_plan_says_how_far_off_it_is(cutset, mixed):
    done = cutset("partition", mixed, *PLAN, "--pin", "dense=gpu", "--pin", "relu=cpu", "--calibrate").json
    found = done["calibration"]
    assert found["devices"] == ["cpu"]
    assert found["state"] == ("calibrated" if found["worst_error"] <= 0.1 else "uncalibrated")
    assert found["rounds"][0]["what"] == "the whole model on one core"
    measured = [stage for stage in found["rounds"][-1]["stages"] if stage["device"] == "cpu"]
    assert len(measured) == sum(stage["device"] == "cpu" for stage in done["stages"])
    assert all(stage["measured_s"] > 0 for stage in measured)
    assert cutset("partition", mixed, *PLAN).json["calibration"] is None
