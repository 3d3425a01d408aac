"""What exporters write, small: each kind loads, is partitioned for a T4, and no split changes its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from tests.e2e.exported_kinds import KINDS
from tests.e2e.in_process import call
from tests.support import as_planned, differences, load_pipeline, make_plan, random_placement, run_whole, save, write_package

OTHERS = (1, 2, 3)


@pytest.fixture(params=KINDS, scope="module")
def kind(request):
    return KINDS[request.param]


def test_inputs_of_other_sizes_have_other_answers(kind):
    answers = [run_whole(kind.model(), kind.inputs(index)) for index in (0, *OTHERS)]
    for name in answers[0]:
        assert len({str(answer[name]) for answer in answers}) > 1, name


@pytest.mark.parametrize("seed", [0, 1])
def test_any_split_equals_the_whole_at_other_sizes(kind, seed, tmp_path):
    model = kind.model()
    graph = as_planned(save(model, tmp_path), kind.inputs(0))
    write_package(graph, make_plan(graph, random_placement(graph, seed)), tmp_path)
    with load_pipeline(tmp_path) as pipeline:
        for index in OTHERS:
            inputs = kind.inputs(index)
            assert differences(run_whole(model, inputs), pipeline.run(inputs)) == [], index


def test_the_command_ends_well_and_the_package_equals_the_whole_at_other_sizes(kind, tmp_path):
    model = kind.model()
    path = save(model, tmp_path)
    np.savez(
        path.with_suffix(".npz"), **{name: a.astype(str) if a.dtype == object else a for name, a in kind.inputs(0).items()}
    )
    words = ["partition", str(path), "-o", "out", "--target", "t4", "--gpu-backend", "onnxruntime-cuda"]
    words += ["--profile-seconds", "0.05", "--cache", "none", "--quiet"]
    environment = {"TMPDIR": str(tmp_path), "HOME": str(tmp_path), "PATH": ""}
    code, out, error = call(words, folder=tmp_path, environment=environment)
    assert code == 0, out + error
    (package,) = (tmp_path / "out" / "serving").glob("*_serving")
    with load_pipeline(package) as pipeline:
        for index in OTHERS:
            inputs = kind.inputs(index)
            assert differences(run_whole(model, inputs), pipeline.run(inputs)) == [], index
