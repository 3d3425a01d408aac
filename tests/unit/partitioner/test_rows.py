"""Which nodes could share runs by their shapes, and what a stage that is shared costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan
from cutset.partitioner.rows import regions
from cutset.partitioner.simulate import enough_tokens, saturated
from cutset.partitioner.steps import Step, demand_of, interval_s
from cutset.profilers.ort_cpu import observe

FLOAT = TensorProto.FLOAT


def one_second(_name: str) -> float:
    return 1.0


@pytest.fixture
def picture(save_model):
    """A picture of three axes that becomes a row, a network, and a side path that is no row; nodes are named by their work."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "v": rng.normal(size=(512, 16)).astype(np.float32),
        "axes": np.array([0], np.int64), "flat": np.array([1, -1], np.int64), "loose": np.array([-1, 16], np.int64),
        "back": np.array([1, 16], np.int64),
    }  # fmt: skip
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["m"], name="square"),
        helper.make_node("Unsqueeze", ["m", "axes"], ["row"], name="row"),
        helper.make_node("Conv", ["row", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Reshape", ["c", "flat"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "v"], ["d"], name="dense"),
        helper.make_node("Reshape", ["d", "loose"], ["l"], name="loose"),
        helper.make_node("Relu", ["l"], ["a"], name="relu"),
        helper.make_node("Reshape", ["a", "back"], ["b"], name="back"),
        helper.make_node("Add", ["b", "scale"], ["y"], name="scaled"),
    ]
    path = save_model(nodes, [("x", FLOAT, [3, 8, 8]), ("scale", FLOAT, [16])], [("y", FLOAT, [1, 16])], weights)
    graph = load(path)
    inputs = {"x": rng.random((3, 8, 8), np.float32), "scale": np.ones(16, np.float32)}
    seen = observe(graph, inputs, threads=1)
    return graph.with_measured(seen.shapes, seen.dtypes)


def test_the_part_behind_the_row_and_before_what_is_none(picture):
    (region, *_) = regions(picture, [node.name for node in picture.placeable], one_second)
    assert region.nodes == ("conv", "flatten", "dense", "loose", "relu", "back")
    assert region.kept == (), "every value inside has one row"


def test_what_the_gpu_does_not_take_is_left_out(picture):
    (region, *_) = regions(picture, ["conv", "flatten", "dense", "scaled"], one_second)
    assert region.nodes == ("conv", "flatten", "dense")
    assert regions(picture, ["square", "row"], one_second) == []


def test_nodes_around_a_value_that_is_no_row_stay_together(save_model):
    nodes = [
        helper.make_node("Neg", ["x"], ["n"], name="neg"),
        helper.make_node("Reshape", ["n", "columns"], ["c"], name="columns"),
        helper.make_node("Exp", ["c"], ["e"], name="exp"),
        helper.make_node("Reshape", ["e", "row"], ["r"], name="rows"),
        helper.make_node("Abs", ["r"], ["y"], name="abs"),
    ]
    weights = {"columns": np.array([4, 2], np.int64), "row": np.array([1, 8], np.int64)}
    graph = load(save_model(nodes, [("x", FLOAT, [1, 8])], [("y", FLOAT, [1, 8])], weights))
    seen = observe(graph, {"x": np.ones((1, 8), np.float32)}, threads=1)
    (region, *_) = regions(graph.with_measured(seen.shapes, seen.dtypes), [n.name for n in graph.placeable], one_second)
    assert region.nodes == ("neg", "columns", "exp", "rows", "abs")
    assert [kept.nodes for kept in region.kept] == [("columns", "exp", "rows")]


def test_a_step_that_is_shared_is_simulated_in_full_runs():
    steps = [
        Step(stage=0, resource="cpu", fixed_s=0.0, each_s=4e-3),
        Step(stage=1, resource="gpu", fixed_s=6e-3, each_s=0.25e-3, rows=8),
    ]
    servers = {"cpu": 8}
    assert demand_of(steps, 1) == pytest.approx({"cpu": 4e-3, "gpu": 1e-3})
    assert interval_s(steps, servers, 1) == pytest.approx(1e-3)
    tokens, found = enough_tokens(steps, servers)
    assert found.throughput_per_s >= 0.97e3
    assert max(len(span.requests) for span in found.timeline if span.resource == "gpu") == 8
    assert max(len(span.requests) for span in found.timeline if span.resource == "cpu") == 1
    alone = saturated([steps[0], replace(steps[1], rows=1)], servers, tokens)
    assert alone.throughput_per_s == pytest.approx(1 / 6.25e-3, rel=0.02)


def test_a_plan_of_shared_runs_knows_a_lone_request_and_a_full_run(chain):
    """Alone the GPU takes 8 ms a request, as one of eight it takes 2: 16 ms for the eight of them."""
    case = chain([10, 20, 30], [None, 1, 1])
    table = case.table()
    groups = [
        replace(group, rows=8, alone_s=4 * group.latency_s) if group.device == "gpu" and group.latency_s else group
        for group in table.groups
    ]
    options = PlanOptions(name="m", machine=Machine(cpu_workers=2, cores=3))
    made = plan(case.graph, replace(table, groups=tuple(groups)), case.support(), {}, options)
    (step,) = [step for step in made.steps if step.resource == "gpu"]
    assert step.rows == 8
    assert step.seconds(1) == pytest.approx(8e-3, rel=0.01)
    assert step.seconds(8) == pytest.approx(16e-3, rel=0.01)
    assert made.prediction.throughput_per_s == pytest.approx(2 / 10.04e-3, rel=0.01)
    assert made.prediction.latency_s == pytest.approx(18e-3, rel=0.02)
    assert made.as_json()["steps"][-2 if made.steps[-1].resource == "d2h" else -1]["rows"] == 8
