"""`cutset bench` on an emitted package, and the report it draws again."""

from __future__ import annotations

import json

import pytest

from cutset.profilers.availability import cuda_provider

PINS = ("--pin", "dense=gpu", "--pin", "relu=cpu")


@pytest.fixture(scope="module")
def emitted(long_cutset, mixed, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "out"
    assert long_cutset.partition(mixed, out, *PINS).code == 0
    return out


def test_everything_is_measured_in_one_run_and_drawn(cutset, emitted):
    done = cutset("bench", emitted, "--seconds", "3", "--http", "--rate", "50", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert json.loads((emitted / "bench.json").read_text()) == found
    names = [row["name"] for row in found["rows"]]
    stages = found["pipeline"]["stages"]
    on_gpu = ["unsplit_cuda"] if cuda_provider().ready else []
    expected = ["pipeline", *(f"stage_{stage['index']}" for stage in stages), "unsplit_threads", "unsplit_replicas", *on_gpu]
    assert [name for name in names if not name.startswith("unsplit_tensorrt")] == [*expected, "http"]
    assert all(row["throughput_per_s"] > 0 and row["failed"] == 0 for row in found["rows"])
    assert found["stand_ins"] in ([], [stage["index"] for stage in stages if stage["device"] == "gpu"])
    slowest = min(found["resources"].values())
    assert 0 < found["efficiency"] < 10
    assert found["pipeline"]["throughput_per_s"] < 10 * slowest
    assert set(found["pipeline"]["utilisation"]) == {"cpu", "gpu"}
    assert found["prediction"]["here_per_s"] > 0
    assert found["memory"]["peak_bytes"] > 2**20
    (load,) = found["rates"]
    assert sum(load["counts"]) + load["refused"] + load["failed"] == load["offered"]
    report = (emitted / "report.html").read_text()
    assert "As measured by cutset bench" in report
    assert "Open loop: 50.0 requests a second" in report


def test_the_report_is_drawn_again_from_the_files_alone(cutset, emitted):
    report = emitted / "report.html"
    before = report.read_bytes()
    report.unlink()
    assert cutset("report", emitted).out.strip() == str(report)
    assert report.read_bytes() == before


def test_the_report_shows_plans_with_other_limits(cutset, emitted):
    assert cutset("report", emitted, "--explore").code == 0
    found = json.loads((emitted / "explored.json").read_text())
    rates = [point["throughput_per_s"] for point in found["stages"]]
    assert rates == sorted(rates)
    assert [point["at"] for point in found["link"]] == [0.25, 0.5, 1.0, 2.0, 4.0]
    report = (emitted / "report.html").read_text()
    assert "Stages, planned again" in report
    (emitted / "problem.json").unlink()
    assert cutset("report", emitted, "--explore").code == 2


def test_another_model_is_refused_and_a_lost_one_is_left_out(cutset, emitted, cnn_file):
    done = cutset("bench", emitted, "--model", cnn_file, "--json")
    assert done.code == 2
    assert "is not the model" in done.error["what"]
    manifest = emitted / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(text) | {"model_path": "/nowhere/model.onnx"}))
    done = cutset("bench", emitted, "--seconds", "1", "--json")
    manifest.write_text(text)
    assert done.code == 0, done.err
    assert "no longer where it was" in done.err
    assert not any(row["name"].startswith("unsplit") for row in done.json["rows"])


def test_a_folder_without_a_package_is_refused(cutset, tmp_path):
    for command in ("bench", "report"):
        assert cutset(command, tmp_path).code == 2
