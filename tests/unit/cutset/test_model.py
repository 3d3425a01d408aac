"""What the graph says of itself: who reads what, what is constant, what is dead, and which sizes are known."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from cutset.errors import UnknownShapeError
from cutset.graph.load import load
from cutset.graph.model import captures, iter_bodies

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def graph(save_model):
    """x -> relu -> y; w -> scaled (constant) -> read by y; noise is random; z and zz lead nowhere."""
    nodes = [
        helper.make_node("Mul", ["w", "w"], ["scaled"], name="scale"),
        helper.make_node("Shape", ["scaled"], ["size"], name="shape"),
        helper.make_node("RandomNormal", [], ["noise"], name="random", shape=[4]),
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Add", ["r", "scaled"], ["s"], name="add"),
        helper.make_node("Add", ["s", "noise"], ["y"], name="jitter"),
        helper.make_node("Exp", ["x"], ["z"], name="lost"),
        helper.make_node("Neg", ["z"], ["zz"], name="lost_too"),
    ]
    return load(save_model(nodes, [("x", FLOAT, ["N", 4])], [("y", FLOAT, ["N", 4])], {"w": np.ones(4, np.float32)}))


def test_producers_and_consumers(graph):
    assert graph.producer["s"] == "add"
    assert graph.consumers["x"] == ("relu", "lost")
    assert "y" not in graph.consumers
    assert set(graph.by_name) == {node.name for node in graph.nodes}


def test_constant_nodes_depend_on_weights_alone(graph):
    assert graph.constant_nodes == {"scale", "shape"}
    assert graph.constant_values == {"w", "scaled", "size"}


def test_dead_nodes_reach_no_output(graph):
    assert graph.dead_nodes == {"lost", "lost_too", "shape"}


def test_placeable_nodes_are_the_rest_in_order(graph):
    assert [node.name for node in graph.placeable] == ["random", "relu", "add", "jitter"]


def test_a_body_is_never_constant(if_path):
    graph = load(if_path)
    assert graph.by_name["branch"].has_body
    assert not graph.by_name["top"].has_body
    assert "branch" not in graph.constant_nodes


def test_captures_are_found_at_any_depth(if_path):
    graph = load(if_path)
    node = graph.ir_nodes["branch"]
    assert len(list(iter_bodies(node))) == 2
    assert set(captures(node, graph.source.graph)) == {"x", "h", "flag", "scale"}
    assert captures(graph.ir_nodes["top"], graph.source.graph) == []


def test_captures_of_a_loop(save_model):
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "step"], ["next"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", FLOAT, [4])],
    )
    nodes = [
        helper.make_node("Abs", ["x"], ["step"], name="abs"),
        helper.make_node("Loop", ["n", "", "x"], ["y"], body=body, name="loop"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], {"n": np.int64(3)}))
    assert graph.by_name["loop"].inputs == ("n", "x", "step")


def test_each_input_is_listed_once(save_model):
    path = save_model([helper.make_node("Add", ["x", "x"], ["y"], name="n")], [("x", FLOAT, [4])], [("y", FLOAT, [4])])
    assert load(path).by_name["n"].inputs == ("x",)


def test_measured_sizes_win_over_inferred_ones(graph):
    assert not graph.knows_shape("r")
    with pytest.raises(UnknownShapeError, match="`r`"):
        graph.nbytes("r")
    measured = graph.with_measured({"r": (3, 4), "w": (2, 2)}, {})
    assert measured.knows_shape("r")
    assert measured.nbytes("r") == 48
    assert measured.shape("w") == (2, 2)
    assert not graph.knows_shape("r")
    assert measured.with_measured({"s": (3, 4)}, {}).shape("r") == (3, 4)


def test_measured_types_fill_only_what_inference_left_open(save_model):
    nodes = [helper.make_node("Odd", ["x"], ["y"], domain="acme", name="odd")]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [onnx_value("y")], opsets={"": 20, "acme": 1}))
    assert graph.values["y"].dtype == "undefined"
    filled = graph.with_measured({}, {"y": "int64", "x": "int64"})
    assert (filled.values["y"].dtype, filled.values["x"].dtype) == ("int64", "float32")


def onnx_value(name):
    value = helper.make_tensor_value_info(name, FLOAT, [4])
    value.ClearField("type")
    return value


def test_the_source_is_an_onnx_ir_model(graph):
    assert isinstance(graph.source, ir.Model)
    assert set(graph.ir_nodes) == set(graph.by_name)


def dropout(*inputs):
    return helper.make_node("Dropout", list(inputs), ["d"], name="drop")


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (("x",), False),
        (("x", "ratio"), False),
        (("x", "ratio", ""), False),
        (("x", "ratio", "no"), False),
        (("x", "ratio", "yes"), True),
        (("x", "ratio", "held"), True),
        (("x", "ratio", "mode"), True),
        (("x", "ratio", "unknown"), True),
    ],
    ids=["alone", "with ratio", "left out", "false", "true", "true in a node", "from outside", "computed"],
)
@pytest.mark.parametrize("inside", [False, True], ids=["main graph", "body"])
def test_dropout_draws_unless_its_training_is_known_to_be_off(save_model, inputs, expected, inside):
    held = helper.make_node("Constant", [], ["held"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    nodes = [held, helper.make_node("Not", ["mode"], ["unknown"]), dropout(*inputs)]
    if inside:
        body = helper.make_graph([nodes.pop()], "b", [], [helper.make_tensor_value_info("d", FLOAT, [4])])
        nodes.append(helper.make_node("If", ["mode"], ["y"], name="drop", then_branch=body, else_branch=body))
    else:
        nodes.append(helper.make_node("Abs", ["d"], ["y"]))
    weights = {"ratio": np.float32(0.5), "no": np.array(False), "yes": np.array(True)}
    graph = load(save_model(nodes, [("x", FLOAT, [4]), ("mode", TensorProto.BOOL, [])], [("y", FLOAT, [4])], weights))
    assert (graph.by_name["drop"].random, graph.keeps_dropout) == (expected, expected)


def test_dropout_of_a_function_and_of_another_domain(save_model):
    function = helper.make_function(
        "local", "Noisy", ["a"], ["d"],
        [helper.make_node("Constant", [], ["r"], value_float=0.5),
         helper.make_node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
         helper.make_node("Dropout", ["a", "r", "t"], ["d"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Noisy", ["x"], ["n"], domain="local"),
        helper.make_node("Dropout", ["n", "n", "n"], ["y"], domain="acme", name="other"),
    ]
    opsets = {"": 20, "local": 1, "acme": 1}
    x, y = ("x", FLOAT, [4]), ("y", FLOAT, [4])
    graph = load(save_model(nodes, [x], [y], opsets=opsets, functions=[function]))
    assert [node.random for node in graph.nodes if node.op.op_type == "Dropout"] == [True, False]


def test_dropout_of_weights_is_no_constant(save_model):
    weights = {"w": np.ones(4, np.float32), "r": np.float32(0.5), "yes": np.array(True)}
    nodes = [helper.make_node("Dropout", ["w", "r", "yes"], ["d"], name="drop"), helper.make_node("Add", ["x", "d"], ["y"])]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], weights))
    assert "drop" not in graph.constant_nodes
