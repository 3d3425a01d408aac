"""The modelled costs obey the model they claim: one launch, the slower of arithmetic and traffic, borders only."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset.errors import UnknownShapeError, UsageError
from cutset.graph.load import load
from cutset.profilers import roofline
from cutset.profilers.datasheets import PRECISIONS, datasheet, datasheets
from cutset.profilers.roofline import model_group, transfer_times

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
T4 = datasheet("t4")


def build(tmp_path, nodes, inputs, outputs, weights):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return load(path)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory):
    """x[64,512] -> MatMul -> Add -> Relu -> MatMul -> y[64,256]."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Add", ["a", "b1"], ["b"], name="bias"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("MatMul", ["c", "w2"], ["y"], name="second"),
    ]
    weights = {
        "w1": np.zeros((512, 1024), np.float32),
        "b1": np.zeros(1024, np.float32),
        "w2": np.zeros((1024, 256), np.float32),
    }
    return build(tmp_path_factory.mktemp("m"), nodes, [("x", FLOAT, [64, 512])], [("y", FLOAT, [64, 256])], weights)


def test_a_group_counts_its_border_and_one_launch(mlp):
    got = model_group(mlp, ["first", "bias", "relu"], T4)
    assert got.bytes == 4 * (64 * 512 + 512 * 1024 + 1024 + 64 * 1024)
    assert got.flops == 2 * 64 * 512 * 1024 + 2 * 64 * 1024
    arithmetic = got.flops / (T4.fp32_flops * roofline.CORE_EFFICIENCY)
    traffic = got.bytes / (T4.memory_bytes_per_s * roofline.MEMORY_EFFICIENCY)
    assert got.latency_s == pytest.approx(T4.kernel_launch_s + max(arithmetic, traffic))
    assert (got.low_s, got.high_s) == pytest.approx((got.latency_s / 3, got.latency_s * 3))
    assert got.source == "modelled"


def test_fusing_never_costs_more_than_the_nodes_apart(mlp):
    names = [node.name for node in mlp.nodes]
    for sheet in datasheets().values():
        fused = model_group(mlp, names, sheet)
        apart = [model_group(mlp, [name], sheet) for name in names]
        assert fused.flops == sum(part.flops for part in apart)
        assert fused.bytes < sum(part.bytes for part in apart)
        assert fused.latency_s < sum(part.latency_s for part in apart)


@given(st.sampled_from([sheet for sheet in datasheets() if sheet != "t4"]))
def test_lower_precision_is_never_slower(mlp, name):
    times = [model_group(mlp, ["first"], datasheet(name), p).latency_s for p in ("fp32", "tf32", "fp16")]
    assert times == sorted(times, reverse=True)


def test_half_precision_halves_the_traffic(mlp):
    assert 2 * model_group(mlp, ["first"], T4, "fp16").bytes == model_group(mlp, ["first"], T4).bytes


def test_int8_without_quantisation_is_fp32(mlp):
    assert model_group(mlp, ["first"], T4, "int8") == model_group(mlp, ["first"], T4)


def test_int8_needs_a_quantised_operand(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dq"),
        helper.make_node("MatMul", ["d", "w"], ["y"], name="mm"),
    ]
    weights = {"s": np.float32(0.1), "z": np.int8(0), "w": np.zeros((2048, 2048), np.float32)}
    graph = build(tmp_path, nodes, [("x", FLOAT, [512, 2048])], [("y", FLOAT, [512, 2048])], weights)
    assert model_group(graph, ["mm"], T4, "int8").latency_s < model_group(graph, ["mm"], T4, "fp16").latency_s
    assert model_group(graph, ["mm"], T4, "int8").latency_s < model_group(graph, ["mm"], T4).latency_s / 3


def test_a_precision_that_the_hardware_lacks_is_refused(mlp):
    with pytest.raises(UsageError, match="bf16"):
        model_group(mlp, ["first"], T4, "bf16")


@pytest.fixture(scope="module")
def shaped(tmp_path_factory):
    """y = reshape(relu(x), shape of x flattened by integer arithmetic); a token look-up beside it."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "zero"], ["n"], name="batch"),
        helper.make_node("Unsqueeze", ["n", "zeros"], ["n1"], name="unsqueeze"),
        helper.make_node("Concat", ["n1", "rest"], ["target"], name="concat", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["f"], name="flatten"),
        helper.make_node("Relu", ["f"], ["y"], name="relu"),
        helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
        helper.make_node("ArgMax", ["x"], ["best"], name="argmax", axis=0, keepdims=0),
    ]
    weights = {
        "zero": np.array(0),
        "zeros": np.array([0]),
        "rest": np.array([-1]),
        "table": np.zeros((5000, 8), np.float32),
    }
    inputs = [("x", FLOAT, [4, 6, 10]), ("ids", INT64, [1, 7])]
    outputs = [("y", FLOAT, [4, 60]), ("e", FLOAT, [1, 7, 8]), ("best", INT64, [6, 10])]
    return build(tmp_path_factory.mktemp("m"), nodes, inputs, outputs, weights)


def test_shape_arithmetic_is_recognised_and_free(shaped):
    found = {node.name for node in shaped.nodes if roofline.is_shape_arithmetic(shaped, node)}
    assert found == {"shape", "batch", "unsqueeze", "concat"}
    free = model_group(shaped, sorted(found), T4)
    assert (free.latency_s, free.high_s, free.flops, free.bytes) == (0, 0, 0, 0)


def test_a_view_alone_is_free_and_in_a_group_its_source_is_read(shaped):
    assert model_group(shaped, ["flatten"], T4).latency_s == 0
    assert model_group(shaped, ["flatten", "relu"], T4).bytes == 2 * 4 * 240 + 16
    assert model_group(shaped, ["relu"], T4).bytes == 2 * 4 * 240


def test_a_look_up_reads_rows_and_not_the_table(shaped):
    assert model_group(shaped, ["embed"], T4).bytes == 7 * 8 + 2 * 7 * 8 * 4


def test_a_large_integer_tensor_is_no_shape(tmp_path):
    nodes = [helper.make_node("Add", ["i", "i"], ["y"], name="n")]
    graph = build(tmp_path, nodes, [("i", INT64, [65])], [("y", INT64, [65])], {})
    assert not roofline.is_shape_arithmetic(graph, graph.nodes[0])
    assert model_group(graph, ["n"], T4).latency_s > T4.kernel_launch_s


def test_constant_nodes_cost_nothing(tmp_path):
    nodes = [
        helper.make_node("Relu", ["w"], ["v"], name="folded"),
        helper.make_node("MatMul", ["x", "v"], ["y"], name="mm"),
    ]
    graph = build(tmp_path, nodes, [("x", FLOAT, [2, 3])], [("y", FLOAT, [2, 4])], {"w": np.zeros((3, 4), np.float32)})
    both = model_group(graph, ["folded", "mm"], T4)
    assert both == model_group(graph, ["mm"], T4)
    assert both.bytes == 4 * (6 + 12 + 8)


def test_a_value_that_two_nodes_of_the_group_read_is_read_once(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Add", ["x", "r"], ["y"], name="add"),
    ]
    graph = build(tmp_path, nodes, [("x", FLOAT, [100])], [("y", FLOAT, [100])], {})
    assert model_group(graph, ["relu", "add"], T4).bytes == 2 * 400


def test_a_value_used_inside_and_outside_is_written_once(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Add", ["x", "r"], ["s"], name="add"),
        helper.make_node("Mul", ["r", "s"], ["y"], name="mul"),
    ]
    graph = build(tmp_path, nodes, [("x", FLOAT, [100])], [("y", FLOAT, [100])], {})
    assert model_group(graph, ["relu", "add"], T4).bytes == 3 * 400


def test_a_recurrent_operator_pays_two_launches_a_step(tmp_path):
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="n", hidden_size=4)
    weights = {"w": np.zeros((1, 16, 3), np.float32), "r": np.zeros((1, 16, 4), np.float32)}
    graph = build(tmp_path, [node], [("x", FLOAT, [50, 1, 3])], [("y", FLOAT, [50, 1, 1, 4])], weights)
    assert 101 * T4.kernel_launch_s < model_group(graph, ["n"], T4).latency_s < 102 * T4.kernel_launch_s


def test_an_unknown_shape_cannot_be_modelled(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="n")]
    graph = build(tmp_path, nodes, [("x", FLOAT, ["batch", 3])], [("y", FLOAT, ["batch", 3])], {})
    with pytest.raises(UnknownShapeError):
        model_group(graph, ["n"], T4)


@pytest.mark.parametrize("name", list(datasheets()))
def test_transfers_are_affine_and_marked(name):
    sheet = datasheet(name)
    up, down = transfer_times(sheet)
    assert (up.direction, down.direction) == ("h2d", "d2h")
    assert {up.source, down.source} == {"modelled"}
    assert up.seconds(0) == sheet.link.fixed_s
    assert up.seconds(10**9) == pytest.approx(sheet.link.fixed_s + 1e9 / sheet.link.h2d_bytes_per_s)


def test_precisions_are_those_of_the_command_line():
    assert PRECISIONS == ("fp32", "tf32", "fp16", "bf16", "int8")
