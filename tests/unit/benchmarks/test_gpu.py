"""The script for a real GPU: rehearsed on the CPU, and the parts that decide what its numbers say."""

from __future__ import annotations

import json
import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.gpu import batches, material, overlap, run, tables, unsplit
from benchmarks.gpu.costs import fit, profile_model
from benchmarks.gpu.job import Job
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.run import Step
from benchmarks.gpu.serving import serve
from benchmarks.gpu.unsplit import hand_split
from cutset.errors import UsageError
from cutset.graph.load import load
from cutset.profilers.availability import cuda_provider
from cutset.profilers.ort_child import SessionJob, open_job

FLOAT = TensorProto.FLOAT


def crash(job: Job) -> dict[str, str]:
    """Return nothing, because it does not get that far."""
    raise RuntimeError(f"{job.name} breaks")


def count(job: Job) -> dict[str, int]:
    """Return how often it was called for this name."""
    path = job.folder / f"{job.name}.count"
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    return {"calls": len(path.read_text())}


def template(folder: Path) -> Job:
    return Job(name="", folder=folder, device=None, seconds=0.0, measured_s=0.05, small=True)


def ahead() -> float:
    return time.monotonic() + 2000


def test_a_run_goes_on_after_a_failure_and_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    steps = [
        Step(section="profile", name="bad", seconds=20, measure=crash),
        Step(section="profile", name="good", seconds=20, measure=count),
        Step(section="fit", name="sum", seconds=20, measure=count, follows=True),
    ]
    journal = Journal(path, "cpu")
    run.run(journal, steps, time.monotonic() + 1, template(tmp_path))
    assert journal.document["sections"] == {}, "no step begins without time"
    run.run(journal, steps, ahead(), template(tmp_path))
    assert "bad breaks" in journal.document["sections"]["profile"]["bad"]["failure"]
    again = Journal(path, "cpu")
    assert not again.finished("profile", "bad")
    assert again.finished("profile", "good")
    run.run(again, steps, ahead(), template(tmp_path))
    assert (tmp_path / "good.count").read_text() == "x"
    assert (tmp_path / "sum.count").read_text() == "xx", "what follows from other steps is made anew"
    assert json.loads(path.read_text())["stand_in"] == "cpu"
    with pytest.raises(UsageError, match="in place of the GPU"):
        Journal(path, "")


def test_without_a_gpu_nothing_is_measured_and_the_way_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if cuda_provider().ready:
        pytest.skip("there is a GPU")
    assert run.main(["-o", str(tmp_path / "gpu.json")]) == 3
    said = capsys.readouterr().err
    assert "no GPU can be measured" in said
    assert "--stand-in cpu" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_script_is_rehearsed_with_the_cpu_in_place_of_the_gpu(tmp_path: Path) -> None:
    steps = [
        Step(section="pipeline", name="tagger", seconds=500, measure=serve),
        Step(section="profile", name="tagger", seconds=500, measure=profile_model),
        Step(section="fit", name="all", seconds=10, measure=fit),
    ]
    journal = Journal(tmp_path / "gpu.json", "cpu")
    journal.begin(run._environment(None))
    run.run(journal, steps, ahead(), template(tmp_path))
    pipeline = journal.document["sections"]["pipeline"]["tagger"]
    assert "failure" not in pipeline, pipeline
    rate = {row["name"]: row["per_s"] for row in pipeline["rows"]}
    assert {"pipeline", "one", "one_wide", "bound", "threads_2", "bound_threads", "sessions_2", "cpu"} <= set(rate)
    assert pipeline["over_one_at_a_time"] == pytest.approx(rate["pipeline"] / rate["one"])
    assert all(row["failed"] == 0 for row in pipeline["rows"])
    assert all(row["gpu"] is None for row in pipeline["rows"]), "there is no GPU to be busy"
    profile = journal.document["sections"]["profile"]["tagger"]
    assert {(row["batch"], row["precision"]) for row in profile["rows"]} >= {(1, "fp32"), (1, "fp16")}
    assert all("failure" not in row for row in profile["rows"]), profile
    assert "nothing to leave out" in journal.document["sections"]["fit"]["all"]["failure"]
    text = tables.markdown(journal.document)
    assert "A rehearsal: the CPU stands in for the GPU" in text
    assert "| tagger |" in text
    assert pipeline["unsplit_refused"] == {}
    pipeline["unsplit_refused"]["resize"] = "no such kernel"
    assert "- `resize` fails in the unsplit model (no such kernel)" in tables.markdown(journal.document)


def save(path: Path, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], batch: int | str) -> Path:
    sides = [[helper.make_tensor_value_info(name, FLOAT, [batch, *shape])] for name, shape in (("x", [2, 4, 4]), ("y", [3]))]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", *sides, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def network(path: Path, *, mixes: bool = False, batch: int | str = 1) -> Path:
    """Write pixels -> conv -> reshape -> product -> softmax over the classes, or over the samples too."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["pixels"], name="pre"),
        helper.make_node("Conv", ["pixels", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Reshape", ["r", "shape"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "l"], ["m"], name="dense"),
        helper.make_node("Softmax", ["m"], ["y"], name="post", axis=0 if mixes else -1),
    ]
    weights = {
        "scale": np.float32(2).reshape(1), "w": rng.normal(size=(5, 2, 3, 3)).astype(np.float32),
        "shape": np.array([1, 80]), "l": rng.normal(size=(80, 3)).astype(np.float32),
    }  # fmt: skip
    return save(path, nodes, weights, batch)


def test_a_model_of_one_sample_is_freed_only_where_that_is_proven(tmp_path: Path) -> None:
    inputs = {"x": np.random.default_rng(1).random((1, 2, 4, 4), np.float32)}
    made = material.batched_file(network(tmp_path / "good.onnx"), inputs)
    assert made is not None
    assert load(made).inputs[0].shape == ("rows", 2, 4, 4)
    assert material.batched_file(network(tmp_path / "bad.onnx", mixes=True), inputs) is None
    ready = network(tmp_path / "ready.onnx", batch="n")
    assert material.batched_file(ready, inputs) == ready


def test_a_person_divides_before_and_behind_the_network(tmp_path: Path) -> None:
    parts = hand_split(load(network(tmp_path / "m.onnx")))
    assert [(part.device, part.nodes) for part in parts] == [
        ("cpu", ("pre",)), ("gpu", ("conv", "relu", "flat", "dense")), ("cpu", ("post",)),
    ]  # fmt: skip


def test_what_the_device_cannot_run_is_the_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what a GPU refuses: a ratio that onnxruntime refuses; the CPU has another, which changes no value."""
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["pixels"], name="pre"),
        helper.make_node("Dropout", ["pixels", "ratio"], ["d"], name="drop 'quoted'"),
        helper.make_node("Neg", ["d"], ["n"], name="neg"),
        helper.make_node("Exp", ["n"], ["e"], name="exp"),
        helper.make_node("Flatten", ["e"], ["f"], name="flat"),
        helper.make_node("Add", ["f", "f"], ["y"], name="add"),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"scale": np.ones(1, np.float32), "ratio": np.array(2, np.float32)}, 1)
    graph = load(path)
    feed = {"x": np.random.default_rng(1).random((1, 2, 4, 4), np.float32)}

    def opened(asked: SessionJob) -> ort.InferenceSession:
        if asked.cuda_device is None:
            proto = onnx.load(asked.model)
            for tensor in proto.graph.initializer:
                if tensor.name == "ratio":
                    tensor.CopyFrom(numpy_helper.from_array(np.array(0.5, np.float32), "ratio"))
            onnx.save(proto, asked.model)
        return open_job(replace(asked, cuda_device=None, level="none"))

    monkeypatch.setattr(unsplit, "open_job", opened)
    job = replace(template(tmp_path), device=0)
    whole = unsplit.whole_model(graph, feed, job, tmp_path / "whole")
    assert list(whole.refused) == ["drop 'quoted'"]
    assert "ratio" in whole.refused["drop 'quoted'"]
    assert [(stage.device, stage.nodes) for stage in whole.stages] == [
        ("cpu", ("pre", "drop 'quoted'")), ("gpu", ("neg", "exp", "flat", "add")),
    ]  # fmt: skip
    found = {one.name: one for one in unsplit.unsplit(replace(whole, job=template(tmp_path)))}
    assert found["one"].title == "one request at a time, in two sessions"
    assert "Dropout" not in found["cpu"].title
    want = 2 * np.exp(-feed["x"]).reshape(1, -1)
    for name in ("one", "bound", "sessions_2"):
        np.testing.assert_allclose(found[name].caller()()["y"], want, rtol=1e-6)


def test_overlaps_are_those_of_sets_of_moments() -> None:
    chooser = random.Random(0)
    for _ in range(200):
        sides = []
        for _ in range(2):
            starts = [chooser.randrange(40) for _ in range(chooser.randrange(6))]
            sides.append([(start, start + chooser.randrange(1, 9)) for start in starts])
        moments = [{m for begin, end in side for m in range(begin, end)} for side in sides]
        one, other = (overlap.merged(side) for side in sides)
        assert overlap.length(one) == len(moments[0])
        assert overlap.length(overlap.common(one, other)) == len(moments[0] & moments[1])


def test_a_device_trace_tells_copies_beside_kernels(tmp_path: Path) -> None:
    events = [
        {"cat": "kernel", "name": "conv", "ts": 0, "dur": 10, "args": {"stream": 7}},
        {"cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "ts": 5, "dur": 10, "args": {"stream": 13}},
        {"cat": "gpu_memcpy", "name": "Memcpy DtoH (Device -> Pageable)", "ts": 20, "dur": 4, "args": {"stream": 14}},
        {"cat": "cuda_runtime", "name": "cudaMemcpyAsync HtoD", "ts": 0, "dur": 99},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    found = overlap.device_overlap(path)
    assert (found["kernel_s"], found["h2d_s"], found["d2h_s"]) == pytest.approx((1e-5, 1e-5, 4e-6))
    assert found["copies_beside_kernels_s"] == pytest.approx(5e-6)
    assert (found["streams"], found["pageable"]) == (3, 1)


def test_what_batches_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {"x": np.random.default_rng(1).random((1, 2, 4, 4), np.float32)}
    made = material.Subject(path=network(tmp_path / "m.onnx"), inputs=inputs)
    monkeypatch.setattr(batches, "subject", lambda _name, _folder: made)
    monkeypatch.setattr(batches, "MEASURED_S", 0.01)
    found = batches.batches(replace(template(tmp_path), name="toy"))
    assert [(row["way"], row["rows"]) for row in found["rows"]] == [
        ("any size", 1), ("any size", 2), ("sizes in turns", [7, 8]), ("one size", 1), ("one size", 8),
    ]  # fmt: skip
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert "toy | sizes in turns | 7 and 8" in tables._batches({"toy": found})
    monkeypatch.setattr(batches, "subject", lambda _n, _f: replace(made, path=network(tmp_path / "bad.onnx", mixes=True)))
    with pytest.raises(RuntimeError, match="does not take batches"):
        batches.batches(replace(template(tmp_path), name="toy"))
