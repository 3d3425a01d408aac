"""Segments as units of their own: what crosses their border, that the parts equal the whole, that they really are timed."""

import random
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cutset.errors import ProfileError
from cutset.graph.load import load
from cutset.profilers import segments as module
from cutset.profilers import session as module_session
from cutset.profilers.child import Failure, Limits
from cutset.profilers.inputs import draw
from cutset.profilers.segments import (
    SegmentOptions,
    boundary_values,
    original_names,
    segment_of,
    time_segments,
    write_segment,
)

FLOAT = TensorProto.FLOAT
OPTIONS = SegmentOptions(budget_s=0.02, limits=Limits(time_s=60))


def test_the_border_of_a_segment(cnn_path):
    graph = load(cnn_path)
    segment = segment_of(graph, ["skip", "conv2"])
    assert (segment.nodes, segment.inputs, segment.outputs) == (("conv2", "skip"), ("r1",), ("a2",))
    whole = segment_of(graph, [node.name for node in graph.nodes])
    assert (whole.inputs, whole.outputs) == (("x",), ("y",))


def test_weights_come_along_and_dead_nodes_do_not(save_model):
    nodes = [
        helper.make_node("Neg", ["w"], ["n"], name="constant"),
        helper.make_node("Add", ["x", "n"], ["h"], name="add"),
        helper.make_node("Exp", ["h"], ["e"], name="dead"),
        helper.make_node("Relu", ["h"], ["y"], name="relu"),
    ]
    path = save_model(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])], {"w": np.ones(2, np.float32)})
    graph = load(path)
    segment = segment_of(graph, ["constant", "add", "dead"])
    assert (segment.nodes, segment.inputs, segment.outputs) == (("add",), ("x",), ("h",))
    with pytest.raises(ProfileError, match="must write something"):
        segment_of(graph, ["constant", "dead"])


def test_segments_in_a_row_compute_what_the_model_does(cnn_path, tmp_path):
    """The values at the borders are those of the model, and each part's outputs are the next part's inputs."""
    graph = load(cnn_path)
    inputs = draw(graph.inputs, {}, seed=1)
    names = [node.name for node in graph.nodes]
    cuts = sorted(random.Random(0).sample(range(1, len(names)), 3))
    parts = [names[a:b] for a, b in zip([0, *cuts], [*cuts, len(names)], strict=True)]
    segments = [segment_of(graph, part) for part in parts]
    values = boundary_values(graph, inputs, segments)
    made = {}
    for index, segment in enumerate(segments):
        write_segment(graph, segment, tmp_path / f"{index}.onnx")
        session = ort.InferenceSession(tmp_path / f"{index}.onnx", providers=["CPUExecutionProvider"])
        made |= dict(zip(segment.outputs, session.run(segment.outputs, {n: values[n] for n in segment.inputs}), strict=True))
    for name, value in values.items():
        if name in made:
            np.testing.assert_allclose(value, made[name], rtol=1e-4, atol=1e-5)
    expected = ort.InferenceSession(cnn_path, providers=["CPUExecutionProvider"]).run(["y"], inputs)[0]
    np.testing.assert_allclose(made["y"], expected, rtol=1e-4, atol=1e-5)


def test_nodes_of_a_written_segment_have_plain_names(save_model, tmp_path):
    odd = "]\x1e[ONNX Layer: other"
    nodes = [helper.make_node("Neg", ["x"], ["h"], name=odd), helper.make_node("Exp", ["h"], ["y"], name="last")]
    graph = load(save_model(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))
    write_segment(graph, segment_of(graph, [odd]), tmp_path / "part.onnx")
    names = [node.name for node in onnx.load(tmp_path / "part.onnx").graph.node]
    assert names == ["n0"]
    assert original_names(graph, names) == (odd,)


def test_symbolic_sizes_stay_symbolic(cnn_path, tmp_path):
    graph = load(cnn_path)
    graph = graph.with_measured({"x": (1, 3, 16, 16), "r1": (1, 8, 16, 16), "a2": (1, 8, 16, 16)}, {})
    write_segment(graph, segment_of(graph, ["conv2", "skip"]), tmp_path / "part.onnx")
    batch = onnx.load(tmp_path / "part.onnx").graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param


def test_a_segment_is_timed_on_the_cpu(cnn_path):
    graph = load(cnn_path)
    nodes = ["conv2", "skip", "relu2"]
    values = boundary_values(graph, draw(graph.inputs, {}, seed=0), [segment_of(graph, nodes)])
    (found,) = time_segments(graph, [segment_of(graph, nodes)], values, options=OPTIONS)
    assert not isinstance(found, Failure), found
    assert found.nodes == tuple(nodes)
    assert 0 < found.latency.p10 <= found.latency.median <= found.latency.p90
    assert found.latency.runs >= 5
    assert (found.backend, found.device_bytes, found.layers) == ("onnxruntime-cpu", None, ())


def test_more_work_takes_longer(save_model):
    """A hundred times the arithmetic is told apart on any machine."""
    weights = {"small": np.ones((64, 64), np.float32), "big": np.ones((64, 64 * 400), np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "small"], ["s"], name="small"),
        helper.make_node("MatMul", ["s", "big"], ["y"], name="big"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [64, 64])], [("y", FLOAT, [64, 64 * 400])], weights))
    segments = [segment_of(graph, ["small"]), segment_of(graph, ["big"])]
    values = boundary_values(graph, draw(graph.inputs, {}, seed=0), segments)
    small, big = time_segments(graph, segments, values, options=OPTIONS)
    assert not isinstance(small, Failure)
    assert not isinstance(big, Failure)
    assert big.latency.median > small.latency.median


def test_in_turns_each_takes_its_ratio_to_the_first(cnn_path):
    graph = load(cnn_path)
    nodes = [node.name for node in graph.placeable]
    segments = [segment_of(graph, nodes), segment_of(graph, ["conv2", "skip", "relu2"]), segment_of(graph, nodes)]
    values = boundary_values(graph, draw(graph.inputs, {}, seed=0), segments)
    whole, part, again = time_segments(graph, segments, values, options=replace(OPTIONS, in_turns=True))
    assert not isinstance(whole, Failure)
    assert not isinstance(part, Failure)
    assert not isinstance(again, Failure)
    assert 0 < part.latency.median < whole.latency.median
    assert again.latency.median == pytest.approx(whole.latency.median, rel=0.5)
    assert part.latency.low <= part.latency.median <= part.latency.high
    assert part.latency.runs >= part.latency.samples >= 5


def test_what_is_too_large_to_be_open_together_is_timed_one_by_one(cnn_path, monkeypatch):
    graph = load(cnn_path)
    segments = [segment_of(graph, ["conv1", "relu1"]), segment_of(graph, ["conv2", "skip", "relu2"])]
    values = boundary_values(graph, draw(graph.inputs, {}, seed=0), segments)
    asked = []
    monkeypatch.setattr(
        module, "run_in_child", lambda function, *_, **__: asked.append(function) or Failure(kind="memory", detail="")
    )
    for limit in (module_session.TOGETHER_BYTES, 0):
        monkeypatch.setattr(module_session, "TOGETHER_BYTES", limit)
        found = time_segments(graph, segments, values, options=replace(OPTIONS, in_turns=True))
        assert not any(isinstance(time, Failure) for time in found)
    assert asked == [module.time_in_turns]


@pytest.mark.parametrize("in_turns", [False, True])
def test_a_segment_that_fails_costs_the_others_nothing(cnn_path, in_turns):
    graph = load(cnn_path)
    segments = [segment_of(graph, ["conv1", "relu1"]), segment_of(graph, ["dense", "bias_add"])]
    values = boundary_values(graph, draw(graph.inputs, {}, seed=0), segments)
    failed, timed = time_segments(graph, segments, values | {"x": np.ones((1, 5, 16, 16), np.float32)},
                                  options=replace(OPTIONS, in_turns=in_turns))  # fmt: skip
    assert isinstance(failed, Failure)
    assert "cannot run the model" in failed.detail
    assert not isinstance(timed, Failure)


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "tensorrt"])
def test_backends_that_are_missing_give_a_reason(cnn_path, backend, monkeypatch, tmp_path):
    (tmp_path / "libcuda.so.1").write_bytes(b"no driver here")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    graph = load(cnn_path)
    segments = [segment_of(graph, ["conv1", "relu1"])]
    values = boundary_values(graph, draw(graph.inputs, {}, seed=0), segments)
    options = SegmentOptions(backend=backend, budget_s=0.0, limits=Limits(time_s=60))
    (found,) = time_segments(graph, segments, values, options=options)
    assert isinstance(found, Failure)
    assert found.kind == "raised"
    assert "cannot be used" in found.detail
