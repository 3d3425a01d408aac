"""Inference goes as far as it can, whatever the names and whatever operator it meets, and refuses nothing."""

import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load

FLOAT = TensorProto.FLOAT


def relu_of(save_model, inputs):
    """Load a model that applies Relu to each of its inputs."""
    nodes = [helper.make_node("Relu", [name], [f"y{index}"]) for index, (name, _, _) in enumerate(inputs)]
    return load(save_model(nodes, inputs, [(f"y{index}", FLOAT, None) for index in range(len(inputs))]))


@pytest.mark.parametrize("name", ["/a/b:0", "[0]", "{}", "日本", "1", "a b", "%s", "'", "é", "..", "_"])
def test_unknown_sizes_of_oddly_named_inputs_are_carried(save_model, name):
    graph = relu_of(save_model, [(name, FLOAT, [None, 3])])
    (symbol, three) = graph.values["y0"].shape
    assert symbol == graph.inputs[0].shape[0]
    assert symbol.isidentifier()
    assert symbol.isascii()
    assert three == 3


def test_odd_symbols_stay_equal_and_apart(save_model):
    dims = ["a b", "a b", "a_b", "a/ b!", "batch"]
    graph = relu_of(save_model, [(f"x{index}", FLOAT, [dim]) for index, dim in enumerate(dims)])
    found = [graph.values[f"y{index}"].shape[0] for index in range(len(dims))]
    assert found[0] == found[1]
    assert found[2] == "a_b"
    assert found[4] == "batch"
    assert len(set(found)) == 4


@pytest.mark.parametrize("dim", ["past + 1", "2*n", "batch"])
def test_expressions_are_kept(save_model, dim):
    assert relu_of(save_model, [("x", FLOAT, [dim])]).inputs[0].shape == (dim,)


def test_types_behind_an_operator_that_symbolic_inference_cannot_follow(save_model):
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Identity", ["go"], ["still"])],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("a", FLOAT, None)],
        [value("still", TensorProto.BOOL, []), value("b", FLOAT, None)],
    )
    nodes = [
        helper.make_node("Loop", ["x", "", "y"], ["looped"], body=body),  # without a condition
        helper.make_node("SplitToSequence", ["y"], ["parts"], axis=0),
        helper.make_node("SequenceLength", ["parts"], ["length"]),
    ]
    inputs = [("x", TensorProto.INT64, []), ("y", FLOAT, [2, 3])]
    graph = load(save_model(nodes, inputs, [("looped", FLOAT, None), ("length", TensorProto.INT64, None)]))
    assert graph.values["parts"].dtype == "seq(float32)"
    assert graph.values["length"].dtype == "int64"


def test_a_map_that_no_one_declares_has_its_type(zipmap_path):
    graph = load(zipmap_path)
    maps = [spec for spec in graph.values.values() if "map(" in spec.dtype]
    assert maps
    assert {spec.name for spec in maps} == set(graph.opaque_types)
