"""Engines of parts: the parser and builder where TensorRT-RTX is installed, layer times and refusals everywhere."""

import ast
import importlib.util
import inspect
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.profilers import tensorrt, tensorrt_library
from cutset.profilers.child import Failure, Limits, run_in_child
from cutset.profilers.inputs import draw
from cutset.profilers.segments import boundary_values, segment_of, write_segment
from cutset.profilers.tensorrt import EngineJob, Layer, build_engine, group_layers, parse_layers, time_engine

FLOAT = TensorProto.FLOAT
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_bindings")
INSTALLED = [name for name in MODULES if importlib.util.find_spec(name) is not None]
LIMITS = Limits(time_s=60)

needs_rtx = pytest.mark.skipif("tensorrt_rtx" not in INSTALLED, reason="tensorrt-rtx is not installed")

CALLED = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        "create_execution_context", "create_engine_inspector", "num_io_tensors", "get_tensor_name", "get_tensor_mode",
        "get_tensor_dtype", "get_tensor_location",
    ],
    "DataType": ["itemsize"],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "get_max_output_size", "execute_async_v3", "profiler"],
    "EngineInspector": ["get_engine_information"],
    "IProfiler": ["report_layer_time"],
    "ILogger": ["log"],
}  # fmt: skip
SOURCE = inspect.getsource(tensorrt) + inspect.getsource(tensorrt_library)


def library_attributes():
    """Return the dotted names under `trt` that the source reads, such as ``ILogger.ERROR``."""
    found = set()
    for node in ast.walk(ast.parse(SOURCE)):
        chain, owner = [], node
        while isinstance(owner, ast.Attribute):
            chain.append(owner.attr)
            owner = owner.value
        if isinstance(owner, ast.Name) and owner.id == "trt" and chain:
            found.add(tuple(reversed(chain)))
    return found


def test_the_list_of_calls_is_that_of_the_source():
    source = {node.attr for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.Attribute)}
    defined = {node.name for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, ast.FunctionDef)}
    assert {name for names in CALLED.values() for name in names} <= source | defined
    assert ("ILogger", "ERROR") in library_attributes()


@pytest.mark.parametrize("name", MODULES)
def test_the_library_has_everything_that_is_called(name):
    if name not in INSTALLED:
        pytest.skip(f"{name} is not installed")
    missing = run_in_child(missing_attributes, name, limits=LIMITS)
    assert not isinstance(missing, Failure), missing
    assert missing == []


def missing_attributes(name):
    trt = importlib.import_module(name)
    found = [f"{owner}.{attr}" for owner, attrs in CALLED.items() for attr in attrs if not hasattr(getattr(trt, owner), attr)]
    for chain in library_attributes():
        value = trt
        for part in chain:
            value = getattr(value, part, None)
        if value is None:
            found.append(".".join(chain))
    return found


def information(*layers):
    """Return what an engine inspector prints for layers of a name and the nodes it notes."""
    joined = [
        {"Name": name, "LayerType": "kgen", "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)}
        for name, *nodes in layers
    ]
    return json.dumps({"Layers": joined, "Bindings": ["x", "y"]})


def test_layers_name_their_nodes():
    layers = parse_layers(information(["n0 + n1", "n0", "n1", "n0"], ["Reformat"], ["n2", "n2"]))
    assert [layer.nodes for layer in layers] == [("n0", "n1"), (), ("n2",)]
    assert parse_layers(json.dumps({"Layers": ["n0 + n1"]})) == []
    assert parse_layers("{}") == []


def test_layers_without_nodes_belong_to_the_next():
    layers = parse_layers(information(["Reformat"], ["a", "n0", "n1"], ["b", "n1", "n2"], ["c", "n3"], ["Copy"]))
    groups = group_layers(layers, {"Reformat": 1.0, "a": 2.0, "b": 4.0, "c": 8.0, "Copy": 16.0})
    assert [(group.nodes, group.seconds) for group in groups] == [(("n0", "n1", "n2"), 7.0), (("n3",), 24.0)]


def test_an_engine_that_names_no_node_has_no_groups():
    assert group_layers([Layer(name="all", nodes=())], {"all": 1.0}) == ()
    assert group_layers([], {}) == ()


@given(st.lists(st.lists(st.integers(0, 6), max_size=3), max_size=8))
def test_no_time_is_lost_and_no_node_is_twice(nodes):
    layers = [Layer(name=f"l{i}", nodes=tuple(f"n{n}" for n in dict.fromkeys(own))) for i, own in enumerate(nodes)]
    groups = group_layers(layers, {layer.name: 2.0**i for i, layer in enumerate(layers)})
    covered = [name for group in groups for name in group.nodes]
    assert sorted(covered) == sorted({name for layer in layers for name in layer.nodes})
    assert sum(group.seconds for group in groups) == (2.0 ** len(layers) - 1 if covered else 0)


def job_of(path, folder, nodes=None, *, library="tensorrt_rtx", capability="8.9"):
    graph = load(path)
    inputs = draw(graph.inputs, {}, seed=0)
    segment = segment_of(graph, [node.name for node in graph.nodes] if nodes is None else nodes)
    write_segment(graph, segment, folder / "part.onnx")
    values = boundary_values(graph, inputs, [segment])
    return EngineJob(model=folder / "part.onnx", feed=values, library=library, compute_capability=capability, budget_s=0.0)


def test_a_missing_library_is_a_reason(cnn_path, tmp_path):
    if "tensorrt" in INSTALLED:
        pytest.skip("tensorrt is installed")
    failure = run_in_child(build_engine, job_of(cnn_path, tmp_path, library="tensorrt"), limits=LIMITS)
    assert isinstance(failure, Failure)
    assert "tensorrt cannot be used: No module named 'tensorrt'" in failure.detail


@needs_rtx
def test_a_segment_builds_without_a_gpu(cnn_path, tmp_path):
    nodes = ["conv1", "relu1", "conv2", "skip", "relu2"]
    built = run_in_child(build_engine, job_of(cnn_path, tmp_path, nodes), limits=LIMITS)
    assert not isinstance(built, Failure), built
    assert built.nodes == {"n0", "n1", "n2", "n3", "n4"}
    assert len(built.plan) > 1000
    assert built.version
    assert built.build_s > 0


@needs_rtx
def test_shapes_that_are_inputs_are_fixed(save_model, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="relu"),
        helper.make_node("Expand", ["h", "to"], ["e"], name="expand"),
        helper.make_node("Neg", ["e"], ["y"], name="neg"),
    ]
    inputs = [("x", FLOAT, [1, "n"]), ("to", TensorProto.INT64, [2])]
    path = save_model(nodes, inputs, [("y", FLOAT, ["a", "b"])])
    graph = load(path)
    segment = segment_of(graph, ["expand", "neg"])
    write_segment(graph, segment, tmp_path / "part.onnx")
    feed = {"h": np.ones((1, 3), np.float32), "to": np.array([4, 3])}
    job = EngineJob(model=tmp_path / "part.onnx", feed=feed, library="tensorrt_rtx", compute_capability="8.9")
    built = run_in_child(build_engine, job, limits=LIMITS)
    assert not isinstance(built, Failure), built
    assert built.nodes == {"n1", "n2"}


@needs_rtx
def test_refusals_are_in_the_words_of_the_library(save_model, tmp_path):
    unknown = [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Bernoulli", ["h"], ["y"])]
    path = save_model(unknown, [("x", FLOAT, [2])], [("y", FLOAT, [2])])
    failure = run_in_child(build_engine, job_of(path, tmp_path), limits=LIMITS)
    assert failure.kind == "raised"
    assert failure.detail.startswith("the parser refuses the part: Bernoulli")


@needs_rtx
def test_timing_needs_a_gpu_and_says_so(cnn_path, tmp_path):
    failure = run_in_child(time_engine, job_of(cnn_path, tmp_path), limits=LIMITS)
    if isinstance(failure, Failure):
        assert "CUDA" in failure.detail
    else:
        assert failure.latency.median > 0
