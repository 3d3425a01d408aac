"""Telling what holds the interpreter lock from what does not."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.codegen.gil import HELD_SHARE, executions, held_share
from cutset.codegen.split import write_stages
from cutset.graph.load import load
from cutset.profilers.inputs import collect
from tests.support import make_plan


def held():
    return sorted(range(200_000), key=float)


def free():
    time.sleep(0.001)


def test_what_holds_the_lock_shows():
    assert held_share(free) < HELD_SHARE < held_share(held)


def test_a_model_of_known_operators_stays_in_threads(cnn_path, tmp_path):
    graph = load(cnn_path)
    plan = make_plan(graph, {node.name: "cpu" for node in graph.placeable})
    found = executions(graph, plan.stages, tmp_path, collect(graph.inputs, model=cnn_path).samples[0])
    assert found == ["thread"]


def test_an_operator_in_python_goes_to_a_process(tmp_path):
    extensions = pytest.importorskip("onnxruntime_extensions", reason="its operators may be Python functions")
    tensor = extensions.PyCustomOpDef.dt_float

    @extensions.onnx_op(op_type="SortedInPython", inputs=[tensor], outputs=[tensor])
    def sorted_in_python(values):
        return np.array(sorted(values.tolist(), key=float), np.float32)

    kinds = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [200_000]) for name in "xyz"}
    nodes = [
        helper.make_node("SortedInPython", ["x"], ["y"], "sort", domain="ai.onnx.contrib"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    body = helper.make_graph(nodes, "sorted", [kinds["x"]], [kinds["z"]], value_info=[kinds["y"]])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.contrib", 1)]
    path = tmp_path / "sorted.onnx"
    onnx.save(helper.make_model(body, opset_imports=opsets, ir_version=8), path)
    graph = load(path, custom_ops=(extensions.get_library_path(),))
    plan = make_plan(graph, {"sort": "cpu", "relu": "gpu"})
    write_stages(graph, plan.stages, tmp_path / "package")
    sample = {"x": np.arange(200_000, dtype=np.float32)[::-1].copy()}
    assert executions(graph, plan.stages, tmp_path / "package", sample) == ["process", "thread"]
