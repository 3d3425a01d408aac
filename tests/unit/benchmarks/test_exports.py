"""The benchmark of exports: every failure becomes a row, and the table says what was seen."""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import exports
from benchmarks.exported import child
from benchmarks.exported.subject import OTHERS, batches, images, pictures

SUBJECT = {"family": "any", "name": "net", "size": "small", "exporter": "dynamo"}
ERROR = json.dumps({"error": {"what": "it differs", "where": "net.onnx", "cause": "too far", "hint": "no"}})
LIMITS = exports.Limits(seconds=60, memory_bytes=2**33)


def python(code):
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no kernel')", "ValueError: no kernel"),
        ("raise RuntimeError('no kernel\\n(and more above)')", "RuntimeError: no kernel"),
        ("raise RuntimeError('\\x1b[96mno\\x1b[0m kernel')", "RuntimeError: no kernel"),
        (f"import sys; print({ERROR!r}); sys.exit('a notice')", "it differs net.onnx too far"),
        ("import os; os.abort()", "signal 6: "),
        ("import sys; sys.exit(70)", ""),
    ],
)
def test_the_reason_of_a_failure_is_short(code, reason):
    ended = exports.run(python(code), LIMITS)
    assert ended.code != 0
    assert exports.reason_of(ended, LIMITS) == reason


def test_what_hangs_is_ended_with_its_children():
    limits = exports.Limits(seconds=1.0, memory_bytes=2**33)
    hang = f"import subprocess; subprocess.run({python('import time; time.sleep(600)')!r})"
    ended = exports.run(python(hang), limits)  # returns only when no process holds the pipes any more
    assert ended.code is None
    assert exports.reason_of(ended, limits) == "not done after 1 s"


def test_what_takes_too_much_memory_is_ended():
    limits = exports.Limits(seconds=60, memory_bytes=2**27)
    ended = exports.run(python("import time; time.sleep(0.5); x = bytearray(2**30)"), limits)
    assert (ended.code, exports.reason_of(ended, limits)) == (1, "MemoryError")


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Steps that answer from a table; returns the table and the options."""
    answers = {"export": ({}, ""), "load": ({"load_s": 0.5, "nodes": 3}, ""), "compare": (
        {"unequal": [], "max_abs": 0.25, "max_rel": 0.125, "types": ["float32"], "values": 9}, "")}  # fmt: skip
    monkeypatch.setattr(exports, "step", lambda words, _limits: answers[words[0]])
    plan = {"verdict": "all well", "stages": [{"device": "cpu", "nodes": ["a"]}, {"device": "gpu", "nodes": ["b", "c"]}]}
    ended = exports.Ended(code=0, stdout=json.dumps(plan), stderr="", seconds=7.0)
    monkeypatch.setattr(exports, "run", lambda _command, _limits: answers.get("partition", ended))
    folder = tmp_path / "net-dynamo"
    (folder / "out" / "serving" / "model_serving").mkdir(parents=True)
    return answers, argparse.Namespace(work=tmp_path, timeout=5.0, memory=1.0, target="t4", pin=[])


def test_a_model_that_goes_through_all_steps(steps):
    row = exports.row_of(SUBJECT, steps[1])
    assert (row.failed, row.equal, row.exit_code, row.stages, row.load_s) == ("", True, 0, ("cpu 1", "gpu 2"), 0.5)
    (line,) = [line for line in exports.markdown([row]).splitlines() if line.startswith("| net")]
    assert line == "| net | dynamo | 3 | 0.50 | 0 | 7 | cpu 1, gpu 2 | equal | 0.12 | all well |"
    assert (
        "1 of 1 exports could be made; 1 load, the slowest in 0.5 s; 1 end with exit code 0; 1 give equal"
        in exports.summary([row])
    )


BROKEN = {
    "export": (None, "torch cannot"),
    "load": (None, "not done after 5 s"),
    "partition": exports.Ended(code=4, stdout=ERROR, stderr="a notice", seconds=2.0),
    "compare": (None, "KeyError: 'y'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_first_step_that_fails_ends_the_row(steps, name):
    answers, options = steps
    answers[name] = BROKEN[name]
    row = exports.row_of(SUBJECT, options)
    assert (row.failed, row.equal) == (name, None)
    assert row.exit_code == {"partition": 4, "compare": 0}.get(name)
    assert f"**{name}**: {row.said}" in exports.markdown([row])


def test_answers_that_differ_are_a_failure(steps):
    answers, options = steps
    answers["compare"] = ({**answers["compare"][0], "unequal": ["inputs 2: y: 3 of 9 elements differ"]}, "")
    row = exports.row_of(SUBJECT, options)
    assert (row.failed, row.equal, row.said) == ("compare", False, "inputs 2: y: 3 of 9 elements differ")
    assert "**differ**" in exports.markdown([row])


def test_an_export_is_made_once(steps):
    answers, options = steps
    exports.row_of(SUBJECT, options)
    answers["export"] = (None, "made twice")
    assert exports.row_of(SUBJECT, options).failed == ""


def test_models_are_chosen_by_name_and_by_exporter():
    listed = [
        dict(SUBJECT, name=name, exporter=exporter) for name in ("bert", "bert-fp16") for exporter in ("dynamo", "torchscript")
    ]
    names = [(s["name"], s["exporter"]) for s in exports.chosen(listed, ["bert", "*-fp16-dynamo"])]
    assert names == [("bert", "dynamo"), ("bert", "torchscript"), ("bert-fp16", "dynamo")]
    assert exports.chosen(listed, None) == listed


@pytest.mark.parametrize("sizes", [batches((3, 32, 48)), pictures()])
def test_the_other_inputs_have_other_sizes_and_content(sizes):
    draw = images("x", sizes)
    drawn = [draw(index)["x"] for index in (0, *OTHERS)]
    assert len({array.shape for array in drawn}) == 4
    assert len({float(array.mean()) for array in drawn}) == 4
    assert all(array.dtype == np.float32 for array in drawn)
    assert np.array_equal(drawn[1], draw(OTHERS[0])["x"])


PACKAGE = """
import numpy as np
class Pipeline:
    load = classmethod(lambda cls: cls())
    __enter__ = lambda self: self
    __exit__ = lambda self, *_: None
    def run(self, inputs):
        return {"y": np.maximum(inputs["x"], 0) + np.float32(ADDED) * len(inputs["x"])}
"""


@pytest.mark.parametrize(("added", "unequal"), [(0.0, 0), (1.0, 3)])
def test_the_comparison_runs_the_other_inputs(tmp_path, monkeypatch, added, unequal):
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / child.MODEL)
    for index in OTHERS:
        np.savez(tmp_path / f"other_{index}.npz", x=np.arange(-index, index + 1, dtype=np.float32))
    package = tmp_path / f"added_{unequal}_{time.time_ns()}"
    package.mkdir()
    (package / "__init__.py").write_text(PACKAGE.replace("ADDED", str(added)))
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = child.compare(str(tmp_path), str(package))
    assert (len(found["unequal"]), found["values"], found["types"]) == (unequal, 3 + 5 + 7, ["float32"])
    assert (found["max_abs"] > 1) == bool(unequal)
