"""The annotated model is the model, its session takes the settings, and a runtime that would ignore them is refused."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from cutset.codegen.export import open_session
from cutset.codegen.export.ort import KEY, check_ort, write_ort
from cutset.errors import UnavailableError
from tests.support import run_whole


@pytest.fixture
def written(make_source, cnn_path, tmp_path):
    sample = {"x": np.random.default_rng(0).random((2, 3, 16, 16), np.float32)}
    source = make_source(cnn_path, sample, {"dense": "gpu"})
    write_ort(source, tmp_path / "ort")
    return source, tmp_path / "ort"


def annotations(nodes):
    return {node.name: {entry.key: entry.value for entry in node.metadata_props}.get(KEY) for node in nodes}


def test_every_node_says_its_device(written):
    source, folder = written
    wanted = {name: f"cutset_{device}" for name, device in source.document["placement"].items()}
    assert annotations(onnx.load(folder / "annotated.onnx").graph.node) == wanted
    options = json.loads((folder / "session_options.json").read_text())
    assert options["nodes"] == {"cpu": 9, "gpu": 1}
    assert options["config"] == {"session.layer_assignment_settings": "gpu(cutset_gpu); cpu(cutset_cpu)"}


def test_bodies_are_where_their_node_is(make_source, save_model, tmp_path):
    branch = [
        helper.make_graph([helper.make_node(kind, ["x"], ["b"], name=kind)], kind, [], [_info("b")]) for kind in ("Neg", "Abs")
    ]
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch[0], else_branch=branch[1])
    path = save_model([node], [("c", TensorProto.BOOL, []), ("x", TensorProto.FLOAT, [2])], [("y", TensorProto.FLOAT, [2])])
    write_ort(make_source(path, {"c": np.array(True), "x": np.zeros(2, np.float32)}, {}), tmp_path / "ort")
    (found,) = onnx.load(tmp_path / "ort" / "annotated.onnx").graph.node
    bodies = [inner for attribute in found.attribute for inner in attribute.g.node]
    assert annotations([found, *bodies]) == dict.fromkeys(["if", "Neg", "Abs"], "cutset_cpu")


def test_the_session_of_a_model_that_draws_draws(make_source, save_model, tmp_path):
    weights = {"ratio": np.float32(0.5), "on": np.array(True)}
    nodes = [helper.make_node("Dropout", ["x", "ratio", "on"], ["d"], name="drop"), helper.make_node("Abs", ["d"], ["y"])]
    path = save_model(nodes, [("x", TensorProto.FLOAT, [99])], [("y", TensorProto.FLOAT, [99])], weights)
    sample = {"x": np.ones(99, np.float32)}
    write_ort(make_source(path, sample, {}), tmp_path / "ort")
    session = open_session.open_session(tmp_path / "ort")
    assert set(session.run(None, sample)[0].tolist()) == {0, 2}


def _info(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])


def test_the_session_answers_and_says_who_runs_what(written):
    source, folder = written
    session = open_session.open_session(folder)
    expected = run_whole(onnx.load(source.graph.path), source.sample)
    np.testing.assert_allclose(session.run(None, source.sample)[0], expected["y"], rtol=1e-5)
    found = open_session.assigned(session)
    assert found.keys() <= set(onnxruntime.get_available_providers())
    assert 0 < sum(found.values()) <= 10


def test_the_program_beside_the_model(written):
    _, folder = written
    done = subprocess.run([sys.executable, "open_session.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert "ExecutionProvider" in done.stdout


def test_a_runtime_that_ignores_annotations_is_refused(written, monkeypatch):
    """Older ones take any setting they do not know, as this one does under another name."""
    monkeypatch.setattr(open_session, "SETTING", "session.layer_assignment_settings_of_the_future")
    assert not open_session.heeds_annotations()
    with pytest.raises(RuntimeError, match="ignores placement annotations"):
        open_session.open_session(written[1])
    with pytest.raises(UnavailableError, match="does not heed placement annotations"):
        check_ort()
