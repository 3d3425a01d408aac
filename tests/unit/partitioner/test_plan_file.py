"""A `plan.json` or `problem.json` that was changed by hand is refused in one error, or means what it says."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from cutset.errors import CutsetError
from cutset.partitioner.plan_file import read_plan
from cutset.partitioner.study import read_study

PLAN = {
    "schema": "cutset.plan/1",
    "name": "m",
    "model": {"file": "m.onnx", "sha256": "ab", "nodes": 1},
    "target": {"cpu": {}, "gpu": None, "source": "measured"},
    "objective": "throughput",
    "options": {},
    "decision": "unsplit-cpu",
    "verdict": "leave it whole",
    "cpu_workers": 1,
    "intra_op_threads": 1,
    "batch": 1,
    "tokens": 1,
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 4, None]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": None}],
    "stages": [
        {
            "index": 0, "device": "cpu", "model": "a", "nodes": ["n"], "inputs": ["x"], "outputs": ["y"], "service_s": 0.1,
            "source": "measured",
        }
    ],
    "boundary": [],
    "steps": [{"stage": 0, "resource": "cpu", "fixed_s": 0.0, "each_s": 0.1, "rows": 1}],
    "prediction": {
        "latency_s": 0.1, "throughput_per_s": 10.0, "bottleneck": "cpu", "utilisation": {"cpu": 1.0}, "lower_bound_s": 0.1,
        "gap": 0.0, "loaded_latency_s": 0.1,
    },
    "baselines": {"all_cpu": {"throughput_per_s": 10.0, "latency_s": 0.1, "stages": 1}},
    "robustness": {},
    "placement": {"n": "cpu"},
    "reasons": {"n": "because"},
    "pins": {},
}  # fmt: skip
PROBLEM = {
    "schema": "cutset.problem/1",
    "problem": {
        "names": ["n"], "cpu_s": [0.1], "gpu_s": [None], "tensors": [], "pseudo": [], "cpu_workers": 1, "gpu_count": 1,
        "cpu_stage_s": 0.0, "gpu_stage_s": 0.0, "min_gpu_ops": 0, "gpu_bytes": [0.0], "copies_overlap": True, "unit": "s",
        "whole_cpu_s": None, "whole_cores": 1,
    },
    "placement": [0], "nodes": [["n"]], "reasons": [""], "sizes": [], "copy_fixed_s": {"h2d": 0.0, "d2h": 0.0},
    "objective": "throughput", "max_stages": 5, "batch": 1, "prices": {}, "latency_limit_s": None, "gpu_bytes_limit": None,
}  # fmt: skip
FILES = {"plan.json": (PLAN, read_plan), "problem.json": (PROBLEM, read_study)}
WRONG = [{}, [[]], "../../x", 10**30, -(10**30)]
TEXTS = ["", "{}", "[]", "9" * 5000, '{"schema": ' + "9" * 5000 + "}", "[" * 100_000, "\xff", "NaN", '{"schema": NaN}']


def places(value, path=()):
    """Yield the path of every value in a document."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def changed(document, path, value):
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return document


@pytest.mark.parametrize("name", FILES)
def test_a_file_as_it_was_written_is_read(name, tmp_path):
    document, read = FILES[name]
    (tmp_path / name).write_text(json.dumps(document))
    read(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
def test_every_change_of_a_field_is_refused_in_words_or_read(name, tmp_path):
    document, read = FILES[name]
    file = Path(tmp_path / name)
    refusals = []
    for path in list(places(document))[1:]:
        for value in WRONG:
            file.write_text(json.dumps(changed(document, path, value)))
            try:
                read(file)
            except CutsetError as error:
                refusals.append(error)
    assert {(str(file) in error.what, error.exit_code) for error in refusals} == {(True, 2)}
    assert len(refusals) > 3 * len(list(places(document))), "most of such changes are wrong"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_text_that_is_no_such_file(name, text, tmp_path):
    (tmp_path / name).write_text(text, "latin-1")
    with pytest.raises(CutsetError, match=name):
        FILES[name][1](tmp_path / name)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("plan.json", ("stages", 0, "index"), 1),
        ("plan.json", ("stages", 0, "nodes"), ["other"]),
        ("plan.json", ("placement",), {"n": "cpu", "more": "cpu"}),
        ("plan.json", ("steps", 0, "stage"), 7),
        ("plan.json", ("baselines",), {}),
        ("plan.json", ("batch",), 0),
        ("plan.json", ("prediction", "latency_s"), -1.0),
        ("problem.json", ("placement",), [0, 0]),
        ("problem.json", ("placement",), [2]),
        ("problem.json", ("sizes",), [1]),
        ("problem.json", ("problem", "cpu_s"), [-1.0]),
        ("problem.json", ("problem", "cpu_s"), [None]),
        ("problem.json", ("problem", "pseudo"), [3]),
    ],
)
def test_fields_that_contradict_each_other(name, path, value, tmp_path):
    document, read = FILES[name]
    (tmp_path / name).write_text(json.dumps(changed(document, path, value)))
    with pytest.raises(CutsetError, match="does not have the expected fields"):
        read(tmp_path / name)
