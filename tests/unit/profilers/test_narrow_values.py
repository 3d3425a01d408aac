"""Activations in 8-bit floats and 4-bit integers: what measures parts of a model, and the parts, take them across cuts."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.profilers import ort_cuda
from cutset.profilers.child import Failure
from cutset.profilers.inputs import draw
from cutset.profilers.ort_child import SessionJob
from cutset.profilers.segments import (
    SegmentOptions,
    boundary_values,
    original_names,
    segment_of,
    time_segments,
    write_segment,
)
from tests.support import as_planned, differences, load_pipeline, make_plan, run_whole, save, write_package

KINDS = ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "INT4", "UINT4"]


def quantised(kind, plain, folder, *, fused=False):
    """Q/DQ around the activation of a product, and around its weight unless `plain`.

    The narrow tensor has a second reader, or, if `fused`, what onnxruntime makes one group with it before it.
    """
    element = TensorProto.DataType.Value(kind)
    rng = np.random.default_rng(0)
    weights = [onnx.numpy_helper.from_array(np.float32(0.05), "s"), helper.make_tensor("z", element, [], [0])]
    weights.append(onnx.numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), "w"))
    # onnxruntime 1.32 drops a Relu before a signed QuantizeLinear below 8 bits, and then the whole model is what is wrong
    steps = [
        ("Relu" if fused else "Abs", "x", "a", "first"),
        ("QuantizeLinear", "a s z", "q", "q"),
        ("DequantizeLinear", "q s z", "d", "dq"),
    ]
    if not plain:
        steps += [("QuantizeLinear", "w s z", "wq", "wq"), ("DequantizeLinear", "wq s z", "wd", "wdq")]
    steps += [("MatMul", f"d {'w' if plain else 'wd'}", "m", "mm"), ("Tanh", "m", "t", "tanh")]
    last = (
        [("Tanh", "t", "y", "last")]
        if fused
        else [("DequantizeLinear", "q s z", "again", "q.carry"), ("Add", "t again", "y", "add")]
    )
    steps += last
    nodes = [helper.make_node(op, reads.split(), [written], name=name) for op, reads, written, name in steps]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 8])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *sides, weights)
    return save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder)


@pytest.mark.parametrize(("kind", "plain"), [("FLOAT8E5M2", False), ("UINT4", True)])
def test_every_node_can_be_a_segment(kind, plain, tmp_path):
    graph = load(quantised(kind, plain, tmp_path))
    segments = [segment_of(graph, [node.name]) for node in graph.placeable]
    values = boundary_values(graph, draw(graph.inputs, {"x": (2, 8)}, seed=0), segments)
    times = time_segments(graph, segments, values, options=SegmentOptions(budget_s=0.001))
    assert [time.nodes for time in times if not isinstance(time, Failure)] == [(node.name,) for node in graph.placeable], times


def test_casts_of_a_segment_have_names_of_their_own(tmp_path):
    graph = load(quantised("INT4", True, tmp_path))
    write_segment(graph, segment_of(graph, ["dq", "q.carry"]), tmp_path / "part.onnx")
    names = [node.name for node in onnx.load(tmp_path / "part.onnx").graph.node]
    assert sorted(name[0] for name in names) == ["c", "n", "n"]
    assert original_names(graph, names) == ("dq", "q.carry")


def test_a_session_around_a_node_that_fails(tmp_path):
    """What is left is measured with the narrow tensor as its input and its output."""
    graph = load(quantised("UINT4", True, tmp_path))
    feed = draw(graph.inputs, {"x": (2, 8)}, seed=0)
    job = SessionJob(model=None, feed=feed, budget_s=0.01)
    with ort_cuda.Children() as children:
        found = ort_cuda._measured(graph, job, children, {"dq": "refused"})
    assert not isinstance(found, Failure), found
    assert found.refused == {"dq": "refused"}
    assert {name for group in found.groups for name in group.nodes} == set(graph.by_name)


@pytest.mark.parametrize("kind", KINDS)
def test_packages_equal_the_whole_wherever_they_are_cut(kind, tmp_path):
    """With a weight in four bits, a product by itself is one that onnxruntime computes in four bits, and the whole is not."""
    path = quantised(kind, True, tmp_path)
    feeds = {"x": np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)}
    graph = as_planned(path, feeds)
    expected = run_whole(onnx.load(path), feeds)
    rng = random.Random(kind)
    for number in range(4):
        placement = {node.name: rng.choice(["cpu", "gpu"]) for node in graph.placeable}
        placement |= [{}, {"q": "gpu", "dq": "cpu"}, {"q": "cpu", "dq": "gpu"}, {"q.carry": "cpu", "mm": "gpu"}][number]
        folder = tmp_path / str(number)
        folder.mkdir()
        write_package(graph, make_plan(graph, placement), folder)
        with load_pipeline(folder) as pipeline:
            assert differences(expected, pipeline.run(feeds)) == []
