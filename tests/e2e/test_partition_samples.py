"""The built samples from file to running server: decided as expected, proven equal, complete and repeatable."""

from __future__ import annotations

import filecmp
import hashlib
import importlib.util
import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from cutset.partitioner.judge import MIN_GAIN
from tests.e2e.harness import QUICK, ask, assert_equal, load_inputs, package_of, ready_url, stop, whole_model, write_model

ENGINES = importlib.util.find_spec("tensorrt_rtx") is not None
"""Whether TensorRT says what it takes; else onnxruntime's CUDA provider does, which takes more."""
CORES = len(os.sched_getaffinity(0))
ON_THE_CPU = {
    "detector": ("Resize", "NonMaxSuppression"),
    "encoder": ("LabelEncoder",),
    "orientation-jpeg": ("DecodeImage",),
}
HEAVY = {"encoder": "Erf"}
SMALL = ["classifier-quarter", "detector", "tagger", "encoder", pytest.param("orientation-jpeg", marks=pytest.mark.network)]
SAMPLES = [*SMALL, pytest.param("classifier", marks=pytest.mark.slow)]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sample, its output folder, and what the command wrote to stdout."""

    name: str
    model: Path
    folder: Path
    printed: dict[str, Any]

    @property
    def plan(self) -> dict[str, Any]:
        return json.loads((self.folder / "plan.json").read_text("utf-8"))

    @property
    def profile(self) -> dict[str, Any]:
        return json.loads((self.folder / "profile.json").read_text("utf-8"))

    @property
    def operators(self) -> dict[str, str]:
        """Operator type by node name."""
        return {node.name: node.op_type for node in onnx.load(self.model).graph.node}

    def devices_of(self, operator: str) -> set[str]:
        """Devices on which the nodes of one operator type are placed; there must be such a node."""
        placement, operators = self.plan["placement"], self.operators
        return {placement[name] for name, kind in operators.items() if kind == operator and name in placement}


@pytest.fixture(scope="module", params=SAMPLES)
def made(request, tmp_path_factory, long_cutset):
    model = write_model(request.param, tmp_path_factory.mktemp("sample"))
    folder = model.parent / "out"
    # All cores serve CPU stages: on two cores the one kept for the GPU would decide what is best, not the model.
    done = long_cutset.partition(model, folder, "--cpu-workers", str(CORES))
    assert done.code == 0, done.err
    assert long_cutset.left_in_tmp() == []
    return Made(name=request.param, model=model, folder=folder, printed=done.json)


def test_the_printed_plan_is_the_written_one_and_is_verified(made):
    printed = dict(made.printed)
    assert printed.pop("directory") == str(made.folder)
    written = made.plan
    assert written == json.loads((package_of(made.folder / "serving") / "plan.json").read_text())
    found = [(stage["batching"], stage["execution"]) for stage in written["stages"]]
    assert all(batching["proven"] or batching["reason"] for batching, _ in found)
    assert {execution for _, execution in found} <= {"thread", "process"}
    assert printed == written
    assert printed["verification"]["passed"] is True
    assert printed["verification"]["samples"] == 1
    assert printed["target"]["source"] == "modelled"
    assert "modelled" in printed["verdict"]


def test_the_decision_is_the_expected_one(made):
    if made.name == "tagger":
        assert made.plan["decision"] == "unsplit-cpu"
        assert [stage["device"] for stage in made.plan["stages"]] == ["cpu"]
        return
    placed = [made.plan["placement"][name] for name, kind in made.operators.items() if kind == HEAVY.get(made.name, "Conv")]
    assert placed.count("gpu") > len(placed) / 2, "idle cores may take some of the GPU's work, where it is the bottleneck"
    everything = made.plan["baselines"]["capability_first"]  # what is left to the cores must not cost anything
    assert made.plan["prediction"]["throughput_per_s"] >= (1 - MIN_GAIN) * everything["throughput_per_s"]
    if not ENGINES:  # onnxruntime's CUDA provider takes these operators too
        assert made.plan["decision"] in {"split", "unsplit-gpu"}
        return
    assert made.plan["decision"] == "split"
    assert {stage["device"] for stage in made.plan["stages"]} == {"cpu", "gpu"}
    for operator in ON_THE_CPU.get(made.name, ("Resize",)):
        assert "cpu" in made.devices_of(operator), operator
    best = max(b["throughput_per_s"] for n, b in made.plan["baselines"].items() if b and n in {"all_cpu", "all_gpu"})
    assert made.plan["prediction"]["throughput_per_s"] > best


def test_every_node_is_placed_once_with_a_reason(made):
    plan = made.plan
    staged = [node for stage in plan["stages"] for node in stage["nodes"]]
    copied = {node for node, reason in plan["reasons"].items() if reason.startswith("depends on weights alone")}
    assert sorted(staged) == sorted(set(plan["placement"]) - copied)
    assert set(plan["reasons"]) == set(plan["placement"])
    assert all(plan["placement"][node] == stage["device"] for stage in plan["stages"] for node in stage["nodes"])


def test_the_profile_covers_every_node_and_sums_to_the_session(made):
    profile = made.profile
    nodes = sorted(made.operators)
    (session,) = profile["sessions"]
    for device in ("cpu", "gpu"):
        assert sorted(n for g in profile["groups"] if g["device"] == device for n in g["nodes"]) == nodes, device
    total = sum(group["latency_s"] for group in profile["groups"] if group["device"] == "cpu")
    assert total == pytest.approx(session["latency_s"]["median"], rel=1e-6)
    assert {group["source"] for group in profile["groups"] if group["device"] == "gpu"} == {"modelled"}
    assert profile["model"]["sha256"] == hashlib.sha256(made.model.read_bytes()).hexdigest()


def test_the_manifest_lists_every_file_with_its_digest(made):
    manifest = json.loads((made.folder / "manifest.json").read_text())
    found = {
        path.relative_to(made.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in made.folder.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert manifest["files"] == found
    assert manifest["command"][1:3] == ["partition", str(made.model)]
    assert set(manifest["seconds"]) >= {"load", "profile", "plan"}


@pytest.mark.parametrize("made", SMALL, indirect=True)
def test_the_same_costs_give_the_same_folder(made, cutset, tmp_path):
    again = tmp_path / "again"
    done = cutset.partition(made.model, again, "--cpu-workers", str(CORES))
    assert done.code == 0, done.err
    assert "taking measured costs from the cache" in done.err
    names = {path.relative_to(made.folder) for path in made.folder.rglob("*") if path.is_file()}
    assert names == {path.relative_to(again) for path in again.rglob("*") if path.is_file()}
    differing = [str(name) for name in names if not filecmp.cmp(made.folder / name, again / name, shallow=False)]
    assert differing == ["manifest.json"]


def test_the_package_answers_as_the_whole_model_where_cutset_is_not_installed(made, alone):
    expected = whole_model(made.model, load_inputs(made.model))
    serving = made.folder / "serving"
    assert_equal(alone.answers(serving, made.model.with_suffix(".npz")), expected)
    assert_equal(alone.answers(serving, serving / "sample.npz"), expected)


def test_both_ways_to_serve_answer_tritons_client(made, alone, cutset):
    inputs = load_inputs(made.model)
    expected = whole_model(made.model, inputs)
    with alone.served(made.folder / "serving") as (process, url):
        assert_equal(ask(url, inputs), expected)
        code, errors = stop(process, signal.SIGTERM)
        assert code == 0, errors
        assert "Traceback" not in errors
    with cutset.started("serve", made.folder, "--port", "0") as process:
        assert_equal(ask(ready_url(process), inputs), expected)
        code, errors = stop(process, signal.SIGTERM)
        assert code == 0, errors
        assert "Traceback" not in errors


def test_a_forced_run_replaces_the_folder(cutset, tmp_path, mixed):
    target = tmp_path / "out"
    assert cutset.partition(mixed, target).code == 0
    (target / "stale").write_text("of the run before")
    assert cutset.partition(mixed, target, "--force", "--pin", "dense=gpu").code == 0
    assert not (target / "stale").exists()
    assert json.loads((target / "plan.json").read_text())["placement"]["dense"] == "gpu"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cutset", "out"]


def test_the_default_folder_name_and_drawn_inputs(cutset, cnn_file):
    done = cutset("partition", cnn_file, "--target", "t4", *QUICK)
    assert done.code == 0, done.err
    folder = cutset.folder / "cnn-cutset"
    assert (folder / "report.html").is_file()
    assert "drawn at random (seed 0)" in done.out
    assert str(folder.relative_to(cutset.folder)) in done.out
