"""Rules find what GPU compilers fuse, merge what runs alike, and never close a cycle."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.partitioner.fusion import merge_units
from cutset.sample_models.registry import write

FLOAT = TensorProto.FLOAT


def merged(graph, kinds=None, kept=()):
    """Merge a graph whose every node is a unit; return the merged sets of names that have more than one."""
    units = [(node.name,) for node in graph.placeable]
    groups = merge_units(graph, units, kinds or [0] * len(units), kept)
    assert sorted(index for group in groups for index in group) == list(range(len(units)))
    names = [[units[index][0] for index in group] for group in groups]
    assert_acyclic(graph, names)
    return [group for group in names if len(group) > 1]


def assert_acyclic(graph, groups):
    home = {name: number for number, group in enumerate(groups) for name in group}
    quotient = nx.DiGraph()
    quotient.add_edges_from(
        (home[graph.producer[value]], home[node.name])
        for node in graph.placeable
        for value in node.inputs
        if graph.producer.get(value) in home and home[graph.producer[value]] != home[node.name]
    )
    assert nx.is_directed_acyclic_graph(quotient)


@pytest.fixture(scope="module")
def build(save_model):
    """Return a function that makes a graph of one input `x` of shape [2, 4, 8, 8] unless told."""

    def make(*nodes, outputs=("y",), shape=(2, 4, 8, 8), weights=None, dtype=FLOAT):
        made = [helper.make_node(op, i.split(), o.split(), name=name, **attributes) for name, op, i, o, attributes in nodes]
        arrays = {"one": np.float32(1), "w": np.ones((4, 4, 1, 1), np.float32), "m": np.ones((8, 8), np.float32)}
        arrays |= weights or {}
        used = {value for node in made for value in node.input}
        return load(
            save_model(
                made, [("x", dtype, list(shape))], [(name, FLOAT, None) for name in outputs],
                {name: array for name, array in arrays.items() if name in used},
            )
        )  # fmt: skip

    return make


def test_convolution_with_its_bias_norm_and_activation(build):
    bn = dict.fromkeys(("s", "b", "mean", "var"), np.ones(4, np.float32))
    graph = build(
        ("conv", "Conv", "x w", "c", {}),
        ("bn", "BatchNormalization", "c s b mean var", "n", {}),
        ("sigmoid", "Sigmoid", "n", "g", {}),
        ("silu", "Mul", "n g", "a", {}),
        ("next", "GlobalAveragePool", "a", "y", {}),
        weights=bn,
    )
    assert merged(graph) == [["conv", "bn", "sigmoid", "silu"]]


def test_a_matrix_product_with_a_gelu_written_out(build):
    graph = build(
        ("dense", "MatMul", "x m", "d", {}),
        ("bias", "Add", "d one", "h", {}),
        ("div", "Div", "h one", "q", {}),
        ("erf", "Erf", "q", "e", {}),
        ("plus", "Add", "e one", "p", {}),
        ("times", "Mul", "h p", "t", {}),
        ("half", "Mul", "t one", "g", {}),
        ("next", "MatMul", "g m", "y", {}),
    )
    assert merged(graph) == [["dense", "bias", "div", "erf", "plus", "times", "half"]]


def test_a_region_ends_where_two_values_would_leave_it(build):
    graph = build(
        ("conv", "Conv", "x w", "c", {}),
        ("relu", "Relu", "c", "r", {}),
        ("tanh", "Tanh", "r", "y", {}),
        ("pool", "GlobalAveragePool", "r", "z", {}),
        outputs=("y", "z"),
    )
    assert merged(graph) == [["conv", "relu"]]


def test_layer_normalisation_written_out(build):
    graph = build(
        ("before", "Tanh", "x", "h", {}),
        ("mean", "ReduceMean", "h", "u", {}),
        ("sub", "Sub", "h u", "d", {}),
        ("square", "Pow", "d one", "q", {}),
        ("var", "ReduceMean", "q", "v", {}),
        ("eps", "Add", "v one", "e", {}),
        ("root", "Sqrt", "e", "s", {}),
        ("div", "Div", "d s", "n", {}),
        ("gamma", "Mul", "n one", "g", {}),
        ("beta", "Add", "g one", "b", {}),
        ("after", "Tanh", "b", "y", {}),
    )
    assert merged(graph) == [["mean", "sub", "square", "var", "eps", "root", "div", "gamma", "beta"]]


def test_attention_with_scale_and_mask(build):
    graph = build(
        ("q", "Tanh", "x", "Q", {}),
        ("k", "Sigmoid", "x", "K", {}),
        ("v", "Softsign", "x", "V", {}),
        ("scores", "MatMul", "Q K", "s", {}),
        ("scale", "Div", "s one", "c", {}),
        ("mask", "Add", "c x", "a", {}),
        ("softmax", "Softmax", "a", "p", {}),
        ("context", "MatMul", "p V", "y", {}),
    )
    assert merged(graph) == [["scores", "scale", "mask", "softmax", "context"]]


def test_a_quantised_operator_keeps_its_scales(build):
    scale = {"s": np.float32(0.1), "z": np.int8(0)}
    graph = build(
        ("quantize", "QuantizeLinear", "x s z", "q", {}),
        ("dequantize", "DequantizeLinear", "q s z", "d", {}),
        ("conv", "Conv", "d w", "c", {}),
        ("relu", "Relu", "c", "r", {}),
        ("quantize2", "QuantizeLinear", "r s z", "q2", {}),
        ("dequantize2", "DequantizeLinear", "q2 s z", "d2", {}),
        ("pool", "GlobalAveragePool", "d2", "y", {}),
        weights=scale,
    )
    assert merged(graph) == [["dequantize", "conv", "relu", "quantize2"], ["dequantize2", "pool"]]


def test_a_chain_that_computes_a_shape(build):
    graph = build(
        ("shape", "Shape", "x", "s", {}),
        ("batch", "Gather", "s zero", "n", {}),
        ("dims", "Concat", "n rest", "d", {"axis": 0}),
        ("flat", "Reshape", "x d", "y", {}),
        weights={"zero": np.array([0]), "rest": np.array([-1])},
    ).with_measured({"s": (4,), "n": (1,), "d": (2,), "y": (2, 256)}, {})
    assert merged(graph) == [["shape", "batch", "dims"]]


def test_units_that_run_on_different_devices_stay_apart(build):
    graph = build(("conv", "Conv", "x w", "c", {}), ("relu", "Relu", "c", "y", {}))
    assert merged(graph) == [["conv", "relu"]]
    assert merged(graph, kinds=["both", "cpu"]) == []


def test_units_that_hold_the_activation_before_them_do_not_chain(build):
    """The CPU runs an activation with the convolution behind it; the GPU with the one before."""
    graph = build(
        ("conv1", "Conv", "x w", "c1", {}),
        ("act1", "HardSwish", "c1", "a1", {}),
        ("conv2", "Conv", "a1 w", "c2", {}),
        ("act2", "HardSwish", "c2", "a2", {}),
        ("conv3", "Conv", "a2 w", "y", {}),
    )
    units = [("conv1",), ("act1", "conv2"), ("act2", "conv3")]
    assert merge_units(graph, units, [0, 0, 0]) == ((0,), (1,), (2,))


@pytest.fixture(scope="module")
def bypass(build):
    """A shape chain that reads before and after a convolution which needs it."""
    return build(
        ("first", "Shape", "x", "s1", {}),
        ("conv", "Conv", "x w", "c", {}),
        ("relu", "Relu", "c", "r", {}),
        ("early", "Reshape", "r s1", "h", {}),
        ("second", "Shape", "h", "s2", {}),
        ("sum", "Add", "s1 s2", "t", {}),
        ("late", "Expand", "h t", "y", {}),
    ).with_measured({"s1": (4,), "s2": (4,), "t": (4,)}, {})


def test_a_merge_that_closes_a_cycle_is_dropped_and_the_others_stay(bypass):
    assert merged(bypass) == [["conv", "relu"]]


def test_what_the_user_keeps_takes_along_what_lies_between(bypass):
    assert merged(bypass, kept=[["first", "second"]]) == [["first", "early", "second"], ["conv", "relu"]]
    assert merged(bypass, kept=[["conv", "second"]]) == [["conv", "relu", "early", "second"]]


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return load(write("detector", tmp_path_factory.mktemp("m") / "m.onnx").model)


def test_every_convolution_of_a_real_detector_keeps_its_activation(detector):
    graph = detector
    groups = merged(graph)
    home = {name: group for group in groups for name in group}
    silu = [node for node in graph.placeable if node.op.op_type == "Sigmoid" and node.name in home]
    assert len(silu) == 44
    for node in silu:
        kinds = [graph.by_name[name].op.op_type for name in home[node.name]]
        assert kinds == ["Conv", "Sigmoid", "Mul"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_no_merge_ever_closes_a_cycle(bypass, data):
    """Whatever is alike and whatever is kept."""
    names = [node.name for node in bypass.placeable]
    kinds = [data.draw(st.integers(0, 1)) for _ in names]
    kept = data.draw(st.lists(st.lists(st.sampled_from(names), min_size=2, max_size=3, unique=True), max_size=2))
    groups = merged(bypass, kinds, kept)
    for together in kept:
        assert any(set(together) <= set(group) for group in groups)
