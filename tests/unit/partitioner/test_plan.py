"""Stages get the interfaces they need and no more, and a plan is plain JSON."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset import serde
from cutset.graph.load import load
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import PLAN_SCHEMA, Part, form_stages
from cutset.partitioner.planner import plan
from cutset.partitioner.wellformed import stage_problems

FLOAT = TensorProto.FLOAT


def stages_of(graph, *parts):
    stages = form_stages(graph, [Part(device=device, nodes=tuple(nodes)) for device, nodes in parts])
    assert stage_problems(graph, stages) == []
    return [(stage.device, stage.inputs, stage.outputs) for stage in stages]


@pytest.fixture(scope="module")
def fork(save_model):
    """a feeds b, c and an output; c also reads the input and a constant."""
    nodes = [
        helper.make_node("Relu", ["x"], ["p"], name="a"),
        helper.make_node("Exp", ["p"], ["q"], name="b"),
        helper.make_node("Neg", ["w"], ["k"], name="fold"),
        helper.make_node("Sum", ["p", "q", "x", "k"], ["r"], name="c"),
    ]
    outputs = [("r", FLOAT, [4]), ("p", FLOAT, [4]), ("k", FLOAT, [4]), ("x", FLOAT, [4])]
    return load(save_model(nodes, [("x", FLOAT, [4])], outputs, {"w": np.ones(4, np.float32)}))


def test_one_stage(fork):
    assert stages_of(fork, ("cpu", "abc")) == [("cpu", ("x",), ("p", "r", "k"))]


def test_values_cross_once_and_constants_never(fork):
    assert stages_of(fork, ("cpu", "a"), ("gpu", "b"), ("cpu", "c")) == [
        ("cpu", ("x",), ("p",)),
        ("gpu", ("p",), ("q",)),
        ("cpu", ("p", "q", "x"), ("r", "k")),
    ]


def test_parts_without_nodes_are_left_out(fork):
    assert stages_of(fork, ("gpu", ""), ("cpu", "ab"), ("gpu", ""), ("cpu", "c"))[0] == ("cpu", ("x",), ("p", "q"))


def test_a_model_without_a_placeable_node_is_one_cpu_stage(save_model):
    """As the user's file does, the stage asks for an input that nothing reads."""
    nodes = [helper.make_node("Neg", ["w"], ["y"], name="fold")]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], {"w": np.ones(4, np.float32)}))
    assert stages_of(graph) == [("cpu", ("x",), ("y",))]
    weight = load(save_model([], [("x", FLOAT, [4])], [("w", FLOAT, [4])], {"w": np.ones(4, np.float32)}))
    assert stages_of(weight) == [("cpu", ("x",), ("w",))]
    nothing = load(save_model([], [("x", FLOAT, [4])], [("x", FLOAT, [4])]))
    assert stages_of(nothing) == [("cpu", ("x",), ())]


def test_captures_of_bodies_cross(if_path):
    found = stages_of(load(if_path), ("gpu", ["outer", "top"]), ("cpu", ["flag", "branch"]))
    assert found[0] == ("gpu", ("x",), ("h", "top"))
    assert set(found[1][1]) == {"top", "x", "h"}


@pytest.mark.parametrize(("device", "backend"), [("cpu", "onnxruntime-cpu"), ("gpu", "onnxruntime-cuda")])
def test_backends_and_files(fork, device, backend):
    (stage,) = form_stages(fork, [Part(device=device, nodes=("a", "b", "c"))])
    assert (stage.backend, stage.model) == (backend, f"stages/00_{device}.onnx")


def test_the_json_says_everything_and_is_json(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no kernel"})
    options = PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=2))
    made = plan(case.graph, case.table(), case.support(), {}, options)
    data = json.loads(serde.dumps(made.as_json()))
    assert data["schema"] == PLAN_SCHEMA
    assert [stage["device"] for stage in data["stages"]] == ["gpu", "cpu", "gpu"]
    assert [stage["model"] for stage in data["stages"]] == ["stages/00_gpu.onnx", "stages/01_cpu.onnx", "stages/02_gpu.onnx"]
    assert [(t["tensor"], t["from"], t["to"], t["bytes"]) for t in data["boundary"]] == [
        ("v_a", 0, [1], 16),
        ("v_b", 1, [2], 16),
    ]
    assert data["inputs"] == [{"name": "x", "dtype": "float32", "shape": [4]}]
    assert set(data["placement"]) == set(data["reasons"]) == {"a", "b", "c"}
