"""`cutset ci` on a real model: a baseline, the same again, and changes that have to be found and named.

Limits are far from what any machine varies by: how well small changes are told from noise is for the benchmark to show.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.e2e.harness import QUICK, onnx_file

LAYERS, CHANNELS = 6, 48
WIDE = ("--fail-on", "cost=60%,group=60%,throughput=60%,gpu-cost=60%")


def network(path: Path, layers: int = LAYERS) -> Path:
    """A chain of convolutions that a GPU is much better at, after a string operator that only a CPU takes."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [helper.make_node("StringConcat", ["text", "text"], ["label"], name="concat")], {}, "x"
    for index in range(layers):
        kind = index % LAYERS
        weights[f"w{index}"] = (np.random.default_rng(kind).normal(size=(CHANNELS, CHANNELS, 3, 3)) / 25).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1, 1, 1, 1]))
        value = f"c{index}"
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"], name="pool"))
    inputs = [("text", TensorProto.STRING, ["n"]), ("x", TensorProto.FLOAT, [1, CHANNELS, 40, 40])]
    outputs = [("label", TensorProto.STRING, ["n"]), ("y", TensorProto.FLOAT, [1, CHANNELS, 1, 1])]
    path.parent.mkdir(exist_ok=True)
    onnx_file(path, nodes, inputs, outputs, weights=weights)
    np.savez(path.with_suffix(".npz"), text=np.array(["a"]), x=rng.random((1, CHANNELS, 40, 40), np.float32))
    return path


def changed(path: Path, change) -> Path:
    """The network with a change, under the same name."""
    network(path)
    model = onnx.load(path)
    change(model.graph)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def baseline(tmp_path_factory, long_cutset) -> Path:
    folder = tmp_path_factory.mktemp("ci")
    file = folder / "baseline.json"
    words = ("--update", "--target", "t4", "--baseline", file, "-o", folder / "out", "--repeats", "2", "--bench", "1", *QUICK)
    done = long_cutset("ci", network(folder / "net.onnx"), *words)
    assert done.code == 0, done.err
    assert "taken as the baseline (measured 2 times)" in done.out
    return file


@pytest.fixture
def judge(cutset, baseline, tmp_path):
    """Run the command on a model against the baseline; return how it ended and what it found."""

    def run(model: Path, *words, env=None):
        done = cutset(
            "ci",
            model,
            "--target",
            "t4",
            "--baseline",
            baseline,
            "-o",
            tmp_path / "out",
            "--json",
            *QUICK,
            *WIDE,
            *words,
            env=env,
        )
        assert done.code in {0, 5}, done.err
        (found,) = done.json["models"]
        assert done.json == json.loads((tmp_path / "out" / "ci.json").read_text()) | {"directory": str(tmp_path / "out")}
        return done, {entry["check"]: entry for entry in found["findings"]}

    return run


def test_the_same_again(judge, baseline, tmp_path):
    summary, template = tmp_path / "step.md", tmp_path / "comment.md"
    summary.write_text("before\n")
    template.write_text("$title\n\n$summary")
    environment = {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_ACTIONS": "true"}
    words = ("--bench", "1", "--fail-on", "measured-gain=90%")
    done, found = judge(baseline.parent / "net.onnx", "--comment", template, *words, env=environment)
    assert done.code == 0
    assert {entry["verdict"] for entry in found.values()} <= {"same", "noise", "better"}
    assert found["error"]["now"] == 0
    assert "measured-gain" in found, done.err
    assert found["measured-gain"]["now"] > 0
    assert (tmp_path / "out" / "net" / "bench.json").is_file()
    assert "::error" not in done.err
    written = summary.read_text()
    assert written.startswith("before\n## ✅ Cutset: no regression")
    assert (tmp_path / "out" / "comment.md").read_text().startswith("✅ Cutset: no regression\n\n## ✅")
    assert ET.parse(tmp_path / "out" / "junit.xml").getroot()[0].get("failures") == "0"
    report = (tmp_path / "out" / "net" / "report.html").read_text()
    assert "Since the baseline" in report
    assert "No regression" in report


def test_more_work(judge, tmp_path):
    model = network(tmp_path / "more" / "net.onnx", 3 * LAYERS)
    done, found = judge(model, "--again", "1", env={"GITHUB_ACTIONS": "true"})
    assert done.code == 5
    assert {found[check]["verdict"] for check in ("cost", "gpu-cost", "kernels")} == {"worse"}
    assert any("is new" in cause for cause in found["cost"]["causes"])
    assert done.json["models"][0]["measured"] == 2, "what looks like a regression is measured again"
    assert "::error title=net%3A CPU cost::" in done.err
    report = (tmp_path / "out" / "net" / "report.html").read_text()
    assert "regressions: CPU cost" in report


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed, and CUDA takes it")
def test_an_operator_that_the_gpu_refuses(judge, tmp_path):
    def change(graph):
        (node,) = [node for node in graph.node if node.name == "conv3"]
        node.op_type, node.domain = "FusedConv", "com.microsoft"

    done, found = judge(changed(tmp_path / "other" / "net.onnx", change))
    assert done.code == 5
    assert found["placement"]["verdict"] == found["stages"]["verdict"] == "worse"
    assert found["placement"]["causes"][0].startswith("`conv3` from gpu to cpu: ")
    assert (found["error"]["verdict"], found["kernels"]["verdict"]) == ("same", "same")


def test_other_numbers(judge, tmp_path):
    def change(graph):
        (weight,) = [tensor for tensor in graph.initializer if tensor.name == "w0"]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), "w0"))

    done, found = judge(changed(tmp_path / "other" / "net.onnx", change))
    assert done.code == 5
    assert {check for check, entry in found.items() if entry["verdict"] == "worse"} == {"error"}
    assert found["error"]["causes"] == ["output `y`: 0.01 of its norm"]
