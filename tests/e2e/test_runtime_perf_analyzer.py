"""NVIDIA's own load generator against our server: it finds the model, its load is answered, and the answers are right."""

from __future__ import annotations

import csv
import json
import subprocess

import pytest

from cutset.codegen.runtime import Pipeline
from tests.e2e.exports import require
from tests.e2e.test_runtime_grpc import running
from tests.e2e.test_runtime_server import write_package
from tools import engines

CALLERS = 3
UNTIL_ANSWERED = ("--measurement-mode", "count_windows", "--measurement-request-count", "30", "-r", "3", "-s", "1000")
"""Windows of 30 answers, however long they take, and any three will do."""


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """x is doubled, one row at a time: answers can be checked where their shape is known."""
    require("perf-analyzer")
    folder = write_package(tmp_path_factory.mktemp("package") / "p", name="doubler")
    plan = json.loads((folder / "plan.json").read_text())
    plan |= {"stages": plan["stages"][:1], "inputs": plan["inputs"][:1], "outputs": plan["outputs"][:1]}
    for tensor in (*plan["inputs"], *plan["outputs"]):
        tensor["shape"] = [1, 4]
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


@pytest.mark.parametrize(
    ("protocol", "options"),
    [("http", []), ("http", ["--request-rate-range", "200"]), ("grpc", []), ("grpc", ["--async", "--streaming"])],
)
def test_its_load_is_answered_and_right(package, tmp_path, protocol, options):
    values = [[1.5, -2.0, 0.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    cases = {
        key: [{name: {"content": [scale * value for value in row], "shape": [1, 4]}} for row in values]
        for key, name, scale in (("data", "x", 1), ("validation_data", "doubled", 2))
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    with running(Pipeline.load(package)) as (grpc, http):
        load = options if "--request-rate-range" in options else ["--concurrency-range", str(CALLERS), *options]
        command, environment = engines.perf_analyzer(
            "-m", "doubler", "-u", http if protocol == "http" else grpc, "-i", protocol, *load,
            "--input-data", str(tmp_path / "cases.json"), "-f", str(tmp_path / "found.csv"),
            *UNTIL_ANSWERED,
        )  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "errors" not in done.stderr.lower()
    with (tmp_path / "found.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["Inferences/Second"]) > 0
    assert float(row["p50 latency"]) > 0


def test_it_tells_a_wrong_answer(package, tmp_path):
    """Or the test above would prove nothing."""
    case = {
        "data": [{"x": {"content": [1.0, 2.0, 3.0, 4.0], "shape": [1, 4]}}],
        "validation_data": [{"doubled": {"content": [2.0, 4.0, 6.0, 9.0], "shape": [1, 4]}}],
    }
    (tmp_path / "case.json").write_text(json.dumps(case))
    with running(Pipeline.load(package)) as (_, http):
        command, environment = engines.perf_analyzer(
            "-m", "doubler", "-u", http, "--input-data", str(tmp_path / "case.json"), *UNTIL_ANSWERED
        )
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "doesn't match expected output" in done.stdout + done.stderr
