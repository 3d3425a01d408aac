"""The whole road of a cascade: from the YAML to a package that serves it, rows counted at run time, Python in the graph."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.e2e.harness import ask, load_inputs, onnx_file, package_of

pytest.importorskip("onnxruntime_extensions")

TEXT = """\
inputs:
  x: {type: float32, shape: [rows, 64]}
stages:
  score: {model: score.onnx, inputs: {x: x}}
  line: {model: line.onnxtxt, inputs: {y: score.y}}
  good: {part: filter, inputs: {by: line.scores}, with: {above: 0, most: 8}}
  kept: {part: gather, inputs: {rows: x, indices: good.indices}}
  second: {model: second.onnx, inputs: {x: kept.gathered}}
  named:
    python: words:name
    inputs: {values: {from: second.y, type: float32}}
    outputs: {names: {type: string, shape: [n]}, best: {type: int64, shape: [n]}}
outputs: {names: named.names, best: named.best, values: second.y, dropped: good.dropped}
"""
LINE = """<ir_version: 8, opset_import: ["" : 18]>
line (float[rows, 1] y) => (float[rows] scores) <int64[1] flat = {-1}> { scores = Reshape (y, flat) }"""
WORDS = """
import numpy as np
def name(values):
    if len(values) == 7:
        raise ValueError("seven")
    return np.array([f"row {index}" for index in range(len(values))], object), values.argmax(axis=1)
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline")
    rng = np.random.default_rng(0)
    for name, width in {"score": 1, "second": 5}.items():
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")]
        sides = [("x", TensorProto.FLOAT, ["n", 64])], [("y", TensorProto.FLOAT, ["n", width])]
        onnx_file(folder / f"{name}.onnx", nodes, *sides, weights={"w": rng.normal(size=(64, width)).astype(np.float32)})
    (folder / "line.onnxtxt").write_text(LINE, "utf-8")
    (folder / "words.py").write_text(WORDS, "utf-8")
    (folder / "p.yaml").write_text(TEXT, "utf-8")
    np.savez(folder / "p.npz", x=rng.normal(size=(12, 64)).astype(np.float32))
    return folder / "p.yaml"


@pytest.fixture(scope="module")
def emitted(long_cutset, pipeline):
    pins = ("score/*=gpu", "line/*=cpu", "good/*=cpu", "kept/*=cpu", "second/*=gpu")
    words = [word for pin in pins for word in ("--pin", pin)]
    done = long_cutset.partition(pipeline, pipeline.parent / "out", *words)
    assert done.code == 0, done.err
    return done.json


def expected(x):
    weights = [np.random.default_rng(0)]
    one, two = (weights[0].normal(size=(64, width)).astype(np.float32) for width in (1, 5))
    passed = np.flatnonzero((x @ one).ravel() > 0)
    return x[passed[:8]] @ two, max(0, len(passed) - 8)


def test_the_function_is_for_the_cpu_and_says_why(emitted):
    assert emitted["placement"]["named/name"] == "cpu"
    assert "Python function" in emitted["reasons"]["named/name"]
    assert [stage["device"] for stage in emitted["stages"]] == ["gpu", "cpu", "gpu", "cpu"]
    assert emitted["verification"]["passed"]
    assert emitted["name"] == "p"


def test_the_second_model_is_batched_across_requests(emitted):
    (second,) = [stage for stage in emitted["stages"] if "second/dense" in stage["nodes"]]
    assert second["batching"]["proven"], second["batching"]


CALL = """
import importlib, json, sys, warnings
import numpy as np
module = importlib.import_module(sys.argv[1])
warnings.simplefilter("ignore", module.DegradedWarning)
def sure(rows):
    with np.load(sys.argv[2]) as sample:
        x = sample["x"][np.flatnonzero((sample["x"] @ np.load(sys.argv[3])).ravel() > 0)]
    return {"x": np.resize(x, (rows, 64))}
with module.Pipeline.load(cpu_workers=2) as pipeline:
    feeds = [sure(rows) for rows in (0, 1, 300, 5)]
    futures = [pipeline.submit(feed) for feed in (*feeds, sure(7), *feeds)]
    found = []
    for future in futures:
        try:
            answer = future.result(60)
            found.append([len(answer["names"]), int(answer["dropped"][0]), answer["values"].shape])
        except module.PipelineError as error:
            found.append(str(error))
print(json.dumps(found))
"""


def test_counts_of_none_one_and_many_and_an_error_that_stays_alone(emitted, pipeline, alone, tmp_path):
    np.save(tmp_path / "w.npy", np.random.default_rng(0).normal(size=(64, 1)).astype(np.float32))
    serving = pipeline.parent / "out" / "serving"
    done = alone.python(serving, CALL, package_of(serving).name, pipeline.with_suffix(".npz"), tmp_path / "w.npy")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    good = [[0, 0, [0, 5]], [1, 0, [1, 5]], [8, 292, [8, 5]], [5, 0, [5, 5]]]
    assert found[:4] == good
    assert found[5:] == good
    assert "hook words:name failed: ValueError: seven" in found[4]


def test_the_server_gives_what_numpy_gives(emitted, pipeline, alone):
    sample = load_inputs(pipeline)
    values, dropped = expected(sample["x"])
    with alone.served(pipeline.parent / "out" / "serving") as (_, url):
        answer = ask(url, sample)
    np.testing.assert_allclose(answer["values"], values, rtol=1e-4, atol=1e-4)
    assert answer["dropped"].tolist() == [dropped]
    assert answer["names"].tolist() == [f"row {index}" for index in range(len(values))]
    assert answer["best"].tolist() == values.argmax(axis=1).tolist()


def test_compose_check_writes_nothing_and_the_composed_model_is_one_like_any_other(cutset, pipeline, tmp_path):
    before = sorted(pipeline.parent.iterdir())
    checked = cutset("compose", pipeline, "--check", "--json")
    assert checked.code == 0, checked.err
    assert checked.json["model"] is None
    assert sorted(pipeline.parent.iterdir()) == before
    written = cutset("compose", pipeline, "-o", tmp_path / "whole.onnx", "--json")
    assert written.json["custom_ops"] == [str(tmp_path / "whole.pyz")]
    words = (
        "inspect",
        tmp_path / "whole.onnx",
        "--custom-ops",
        tmp_path / "whole.pyz",
        "--no-costs",
        "--shape",
        "x=4x64",
        "--json",
    )
    nodes = {node["name"]: node for node in cutset(*words).json["nodes"]}
    assert nodes["named/name"]["gpu"] is False
    refused = cutset("inspect", tmp_path / "whole.onnx", "--json")
    assert ".pyz" in refused.error["hint"]


def test_a_mistake_names_the_line(cutset, pipeline, tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TEXT.replace("{x: kept.gathered}", "{x: kept.rows}"), "utf-8")
    for name in ("score.onnx", "second.onnx", "line.onnxtxt", "words.py"):
        (tmp_path / name).write_bytes((pipeline.parent / name).read_bytes())
    for words in (("compose", wrong), ("partition", wrong, "-o", tmp_path / "out", "--target", "cpu")):
        error = cutset(*words, "--json").error
        assert error["where"].endswith("wrong.yaml:8")
        assert "`kept.rows`" in error["what"]
    assert not (tmp_path / "out").exists()


def test_the_schema_is_printed(cutset):
    assert cutset("compose", "--schema").json["title"].startswith("PIPELINE.yaml")
