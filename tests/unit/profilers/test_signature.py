"""A signature sees what is computed, and nothing else."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.load import load
from cutset.profilers.signature import sign

FLOAT, BOOL = TensorProto.FLOAT, TensorProto.BOOL


def block(save_model, *, prefix="", seed=0, nodes=None, dtype=FLOAT, size=8, outputs=("y",), **conv):
    """Return x -> Conv -> (Sigmoid, Relu) -> Sub -> y."""
    nodes = nodes or [
        helper.make_node("Conv", ["x", "w"], ["c"], name=f"{prefix}conv", **({"pads": [1, 1, 1, 1]} | conv)),
        helper.make_node("Sigmoid", ["c"], ["s"], name=f"{prefix}sigmoid"),
        helper.make_node("Relu", ["c"], ["r"], name=f"{prefix}relu"),
        helper.make_node("Sub", ["s", "r"], ["y"], name=f"{prefix}sub"),
    ]
    kind = np.float32 if dtype == FLOAT else np.float16
    weights = {"w": np.random.default_rng(seed).normal(size=(4, 4, 3, 3)).astype(kind)}
    made = [(name, dtype, [1, 4, size, size]) for name in outputs]
    return load(save_model(nodes, [("x", dtype, [1, 4, size, size])], made, weights))


def signed(graph, leave_out=()):
    return sign(graph, [node.name for node in graph.nodes if node.name not in leave_out])


@pytest.fixture(scope="module")
def plain(save_model):
    return signed(block(save_model))


def rebuilt(order):
    made = {
        "conv": helper.make_node("Conv", ["x", "w"], ["one"], name="a", pads=[1, 1, 1, 1]),
        "sigmoid": helper.make_node("Sigmoid", ["one"], ["two"], name="b"),
        "relu": helper.make_node("Relu", ["one"], ["three"], name="c"),
        "sub": helper.make_node("Sub", ["two", "three"], ["y"], name="d"),
    }
    return [made[name] for name in order]


@pytest.mark.parametrize("order", [("conv", "sigmoid", "relu", "sub"), ("conv", "relu", "sigmoid", "sub")])
def test_names_order_and_weights_do_not_count(save_model, plain, order):
    found = signed(block(save_model, nodes=rebuilt(order), seed=1))
    assert found.digest == plain.digest
    renamed = {"a": "conv", "b": "sigmoid", "c": "relu", "d": "sub"}
    assert tuple(renamed[name] for name in found.canonical) == plain.canonical


@pytest.mark.parametrize(
    "change",
    [
        {"size": 9},
        {"dtype": TensorProto.FLOAT16},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"nodes": [*rebuilt(["conv", "sigmoid", "relu"]), helper.make_node("Sub", ["three", "two"], ["y"], name="d")]},
        {"nodes": [*rebuilt(["conv", "sigmoid", "relu"]), helper.make_node("Add", ["two", "three"], ["y"], name="d")]},
        {"nodes": [*rebuilt(["conv", "sigmoid", "relu"]), helper.make_node("Sub", ["two", "two"], ["y"], name="d")]},
        {"nodes": rebuilt(["conv", "sigmoid", "relu", "sub"]), "outputs": ("y", "two")},
    ],
)
def test_what_is_computed_counts(save_model, plain, change):
    assert signed(block(save_model, **change)).digest != plain.digest


def test_a_value_read_twice_is_not_two_values(save_model):
    """The nodes are alike one by one; one kernel reads half the memory of the other."""

    def pair(second):
        nodes = [
            helper.make_node("Relu", ["x"], ["y"], name="one"),
            helper.make_node("Neg", [second], ["z"], name="two"),
        ]
        values = [(name, FLOAT, [4]) for name in ("x", "u", "y", "z")]
        return signed(load(save_model(nodes, values[:2], values[2:])))

    assert pair("x").digest != pair("u").digest


def test_a_folded_constant_is_a_weight(save_model):
    array = np.full((4,), 2, np.float32)
    add = helper.make_node("Add", ["x", "k"], ["y"], name="add")
    constant = helper.make_node("Constant", [], ["k"], name="k", value=numpy_helper.from_array(array))
    values = [("x", FLOAT, [4])], [("y", FLOAT, [4])]
    with_node = signed(load(save_model([constant, add], *values)))
    with_weight = signed(load(save_model([add], *values, {"k": array})))
    assert with_node == with_weight
    assert with_node.canonical == ("add",)


def test_an_output_that_nobody_reads_does_not_count(save_model):
    def pooled(outputs):
        node = helper.make_node("MaxPool", ["x"], outputs, name="pool", kernel_shape=[2, 2])
        return signed(load(save_model([node], [("x", FLOAT, [1, 1, 4, 4])], [("y", FLOAT, [1, 1, 3, 3])])))

    assert pooled(["y", "indices"]).digest == pooled(["y"]).digest


def test_an_unknown_size_has_no_signature(zipmap_path):
    graph = load(zipmap_path)
    assert sign(graph, ["zip"]).digest == ""
    assert sign(graph, ["zip"]).canonical == ("zip",)


def test_a_part_of_a_group_is_another_group(save_model, plain):
    assert signed(block(save_model), leave_out=("sub",)).digest != plain.digest


# Bodies


def branch(save_model, *, inner="Neg", prefix="", scale=2.0, output="v"):
    """Return a model with an If that reads two values of the main graph."""
    out = [helper.make_tensor_value_info(output, FLOAT, None)]
    weight = [numpy_helper.from_array(np.float32([scale]), f"{prefix}k")]
    then = helper.make_graph(
        [
            helper.make_node("Mul", ["x", f"{prefix}k"], [f"{prefix}t"], name=f"{prefix}mul"),
            helper.make_node(inner, [f"{prefix}t"], [output], name=f"{prefix}inner"),
        ],
        "then", [], out, weight,
    )  # fmt: skip
    otherwise = helper.make_graph([helper.make_node("Identity", ["x"], [output])], "else", [], out)
    nodes = [helper.make_node("If", ["flag"], ["y"], name=f"{prefix}if", then_branch=then, else_branch=otherwise)]
    return load(save_model(nodes, [("flag", BOOL, []), ("x", FLOAT, [4])], [("y", FLOAT, [4])]))


def test_a_body_counts_by_what_it_computes(save_model):
    plain = signed(branch(save_model)).digest
    assert plain
    assert signed(branch(save_model, prefix="p/", scale=3.0, output="w")).digest == plain
    assert signed(branch(save_model, inner="Abs")).digest != plain


def test_bodies_inside_bodies(if_path):
    graph = load(if_path)
    assert sign(graph, ["branch"]).digest == sign(load(if_path), ["branch"]).digest != ""
    assert sign(graph, ["outer", "branch"]).digest not in {"", sign(graph, ["branch"]).digest}
