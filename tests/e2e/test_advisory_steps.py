"""No advisory step ends the job: an exception is planted in each in turn, and the package still answers right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from cutset.cli import backend as cli_backend
from cutset.codegen.engines import cleanup, feedback
from cutset.codegen.engines.build import Culprit
from cutset.codegen.numerics import Tolerance, compare
from cutset.codegen.runtime.backends.engine_build import BuildReport
from cutset.profilers.capability import Oracle, Verdict
from cutset.profilers.child import Failure
from cutset.profilers.gpu_backend import GpuBackend
from tests.e2e.harness import load_inputs, package_of
from tests.support import load_pipeline, run_whole

PLANTED = "planted by a test"
CUDA = ("--gpu-backend", "onnxruntime-cuda")
FP16 = (*CUDA, "--precision", "fp16")
CALIBRATED = (*CUDA, "--calibrate", "--profile-seconds", "0.05")

STEPS = [
    ("cutset.profilers.cache.CostCache._read", CUDA),
    ("cutset.profilers.cache.CostCache._do", CUDA),
    ("cutset.profilers.cpu_runs.CpuRuns.loaded", (*CUDA, "--cache", "none", "--profile-seconds", "0.05")),
    ("cutset.profilers.cpu_runs.attribute", (*CUDA, "--cache", "none", "--profile-seconds", "0.05")),
    ("cutset.cli.backend.choose_backend", ()),
    ("cutset.cli.backend.ask", ("engines",)),
    ("cutset.profilers.capability.kind_of", ("asked",)),
    ("cutset.profilers.capability.extract", ("asked",)),
    ("cutset.cli.planning.with_pieces", CUDA),
    ("cutset.cli.planning.Planner._shared", CUDA),
    ("cutset.cli.planning.calibrate", CALIBRATED),
    ("cutset.cli.calibration.time_segments", CALIBRATED),
    ("cutset.cli.planning.Planner._with_batch_scaling", CUDA),
    ("cutset.codegen.engines.prepare.input_ranges", ("engines",)),
    ("cutset.codegen.engines.prepare.reduce_part", FP16),
    ("cutset.codegen.engines.prepare.modelled_gain", FP16),
    ("cutset.codegen.engines.compare.run_part", CUDA),
    ("cutset.codegen.engines.compare.compare_part", CUDA),
    ("cutset.codegen.engines.compare.modelled_gain", CUDA),
    ("cutset.codegen.engines.feedback.compare", CUDA),
    ("cutset.codegen.engines.feedback.build_parts", ("engines",)),
    ("cutset.codegen.engines.feedback.find_culprit", ("engines", "refusing")),
    ("cutset.codegen.engines.feedback.Neighbourhoods", ("engines", "refusing")),
    ("cutset.codegen.engines.deploy.EngineCache.add", ("engines",)),
    ("cutset.cli.proven.study_of", CUDA),
    ("cutset.cli.planning.held_back", CUDA),
    ("cutset.codegen.package.add_least_sizes", CUDA),
    ("cutset.codegen.package.prove_all", CUDA),
    ("cutset.codegen.batchability._prove", CUDA),
    ("cutset.codegen.package.executions", CUDA),
    ("cutset.codegen.package.full_load", CALIBRATED),
    ("cutset.codegen.project.encode_request", CUDA),
    ("cutset.codegen.package.topology_of", CUDA),
    ("cutset.codegen.package.write_report", CUDA),
    ("cutset.codegen.report.page.draw", CUDA),
]
"""What raises, and the words of the command; ``engines`` stands for a library that is played here."""


def raises(*_arguments: Any, **_options: Any) -> Any:
    raise RuntimeError(PLANTED)


def play_library(monkeypatch: pytest.MonkeyPatch, *, refusing: bool, asked: bool) -> None:
    """Play a library that builds everything, or refuses the first thing that it is to build."""
    oracle = Oracle(backend="tensorrt-rtx", version="1.7", compute_capability="8.9")
    monkeypatch.setattr(cli_backend, "choose_backend", lambda *_: GpuBackend(name="tensorrt-rtx", oracle=oracle))
    if asked:
        return
    taken = Verdict(ok=True, reason="", source="a library")
    monkeypatch.setattr(cli_backend, "ask", lambda _graph, _sample, nodes, *_: dict.fromkeys(nodes, taken))
    refusals = [Failure(kind="raised", detail="BackendError: the builder refuses: no")] * 2 if refusing else []

    def build_parts(parts, *_arguments, **_options):
        if refusals:
            return [refusals.pop()]
        parts[0].engine.write_bytes(b"engine")
        return [BuildReport(version="1.7", seconds=0.1, size_bytes=6)]

    monkeypatch.setattr(feedback, "build_parts", build_parts)
    monkeypatch.setattr(feedback, "find_culprit", lambda *_: Culprit(node="relu", reason="no"))


def check(done: Any, out: Path, model: Path, *, drawn: bool = True) -> None:
    """The job was done, the package answers right, and the reason is in the output, the plan and the report."""
    reason = f"RuntimeError: {PLANTED}"
    assert done.code == 0, done.err
    reduced = any(stage["precision"] == "fp16" for stage in done.json["engines"]["stages"])
    assert any(entry["reason"] == reason for entry in done.json["skipped"]), done.json["skipped"]
    assert reason in done.err
    report = (out / "report.html").read_text("utf-8")
    assert (PLANTED in report, "could not be drawn" not in report) == (True, drawn)
    inputs = load_inputs(model)
    with load_pipeline(package_of(out / "serving")) as pipeline:
        answers = pipeline.run(inputs)
    tolerance = Tolerance(rtol=0.1) if reduced else Tolerance()
    expected = run_whole(onnx.load(model), inputs)
    assert [reason for name in expected if (reason := compare(name, expected[name], answers[name], tolerance).reason)] == []


@pytest.mark.parametrize(("place", "words"), STEPS, ids=[place.removeprefix("cutset.") for place, _ in STEPS])
def test_a_step_that_fails_is_left_out(cutset, mixed, tmp_path, monkeypatch, place, words):
    pins = ["--pin", "dense=gpu"]
    if words[:1] in {("engines",), ("asked",)}:
        play_library(monkeypatch, refusing="refusing" in words, asked="asked" in words)
        words = ()
    monkeypatch.setattr(place, raises)
    done = cutset.partition(mixed, tmp_path / "out", "--target", "l4", *pins, *words)
    check(done, tmp_path / "out", mixed, drawn="report" not in place)


@pytest.mark.parametrize("name", cleanup.DEFAULT)
def test_a_clean_up_that_fails_leaves_the_stage_as_it_was(cutset, mixed, tmp_path, monkeypatch, name):
    monkeypatch.setattr(cleanup, "_PASSES", {**cleanup._PASSES, name: raises})
    check(cutset.partition(mixed, tmp_path / "out", "--pin", "dense=gpu", *CUDA), tmp_path / "out", mixed)


def test_one_node_whose_cost_cannot_be_modelled_stays_on_the_cpu(cutset, mixed, tmp_path, monkeypatch):
    from cutset.profilers import without_device  # noqa: PLC0415

    real = without_device.datasheet_group

    def fails_once(graph, group, **options):
        return raises() if "concat" in group.nodes else real(graph, group, **options)

    monkeypatch.setattr(without_device, "datasheet_group", fails_once)
    check(cutset.partition(mixed, tmp_path / "out", "--pin", "dense=gpu", *CUDA), tmp_path / "out", mixed)


def test_a_rule_that_fails_on_one_node_refuses_that_node(cutset, mixed, tmp_path, monkeypatch):
    from cutset.partitioner import support  # noqa: PLC0415

    real = support._policy
    monkeypatch.setattr(support, "_policy", lambda case, rules: raises() if case.node.name == "nms" else real(case, rules))
    done = cutset.partition(mixed, tmp_path / "out", "--pin", "dense=gpu", *CUDA)
    check(done, tmp_path / "out", mixed)
    assert PLANTED in done.json["reasons"]["nms"]


def failing_at(real: Callable[..., Any], batches: set[str]) -> Callable[..., Any]:
    return lambda self, batch: raises() if batch in batches else real(self, batch)


@pytest.mark.parametrize("batches", [{"8"}, {"2", "4"}])
def test_a_batch_that_cannot_be_measured_is_not_planned_for(cutset, cnn_file, tmp_path, monkeypatch, batches):
    from cutset.cli.planning import Planner  # noqa: PLC0415

    np.savez(tmp_path / "in.npz", x=np.ones((1, 3, 8, 8), np.float32))
    monkeypatch.setattr(Planner, "_measure_at", failing_at(Planner._measure_at, batches))
    done = cutset.partition(cnn_file, tmp_path / "out", "--batch", "auto", "--inputs", tmp_path / "in.npz", *CUDA)
    assert done.code == 0, done.err
    if "8" in batches:
        assert (done.json["batch"], done.json["skipped"][0]["step"]) == (1, "measuring a batch of 8")


def test_ctrl_c_still_ends_the_job(cutset, mixed, tmp_path, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("cutset.codegen.package.write_report", interrupt)
    assert cutset.partition(mixed, tmp_path / "out", "--pin", "dense=gpu", *CUDA).code == 130
    assert not (tmp_path / "out").exists()


def test_what_is_asked_of_a_plan_is_answered_but_for_the_question_that_fails(cutset, mixed, tmp_path, monkeypatch):
    assert cutset.partition(mixed, tmp_path / "out", "--pin", "dense=gpu", *CUDA).code == 0
    for question in ("forced_stages", "what_ifs", "trade_offs"):
        monkeypatch.setattr(f"cutset.cli.commands.explain.{question}", raises)
    done = cutset("explain", tmp_path / "out", "--json")
    assert (done.code, len(done.json["skipped"])) == (0, 3)
    assert done.json["nodes"]
    monkeypatch.setattr("cutset.cli.commands.capacity.write_report", raises)
    assert cutset("capacity", tmp_path / "out", "--json").code == 0


def test_the_output_says_what_was_left_out(cutset, mixed, tmp_path, monkeypatch):
    monkeypatch.setattr("cutset.codegen.package.executions", raises)
    done = cutset("partition", mixed, "-o", tmp_path / "out", "--target", "t4", "--pin", "dense=gpu", "-q", *CUDA)
    assert done.code == 0
    assert f"left out: looking for stages that hold Python's lock: RuntimeError: {PLANTED}" in done.out
