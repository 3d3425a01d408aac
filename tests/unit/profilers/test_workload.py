"""Work by class: what leads a kernel, what crosses its border, and that it adds up to what the roofline counts."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.graph import flops
from cutset.graph.load import load
from cutset.profilers.datasheets import datasheet
from cutset.profilers.roofline import model_group
from cutset.profilers.table import ClassWork
from cutset.profilers.workload import _CLASS_OF, CLASSES, class_of, work_of

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.fixture(scope="module")
def cnn(cnn_path):
    graph = load(cnn_path)
    free = {name: spec.shape for name, spec in graph.values.items() if name not in graph.initializers}
    return graph.with_measured({name: (1, *shape[1:]) for name, shape in free.items()}, {})


def conv(save_model, weight, *, data=(1, 4, 8, 8), op="Conv", out=None, **attributes):
    out = out or (data[0], weight[0], *(d - k + 1 for d, k in zip(data[2:], weight[2:], strict=True)))
    node = helper.make_node(op, ["x", "w"], ["y"], name="conv", **attributes)
    graph = load(save_model([node], [("x", FLOAT, data)], [("y", FLOAT, out)], {"w": np.zeros(weight, np.float32)}))
    return work_of(graph, ["conv"])["conv"]


def test_the_conv_leads_its_kernel(cnn):
    work = work_of(cnn, ["conv1", "relu1"])
    assert work["conv"].launches == 1
    assert work["elementwise"].launches == 0
    assert work["conv"].bytes == 4 * (3 * 16 * 16 + 8 * 3 * 9 + 8)
    assert work["elementwise"].bytes == 4 * 8 * 16 * 16


@pytest.mark.parametrize("nodes", [["conv1"], ["conv1", "relu1"], ["pool", "flat", "dense"], ["conv2", "skip", "relu2"]])
def test_it_adds_up_to_the_roofline(cnn, nodes):
    whole, work = model_group(cnn, nodes, datasheet("t4")), work_of(cnn, nodes)
    assert sum(amount.flops for amount in work.values()) == whole.flops
    assert sum(amount.bytes for amount in work.values()) == whole.bytes
    assert sum(amount.launches for amount in work.values()) == 1


def test_views_cost_a_launch_alone(cnn):
    assert work_of(cnn, ["flat"]) == {"view": ClassWork(launches=1, flops=0, bytes=0)}
    assert work_of(cnn, []) == {}


def test_what_cannot_be_counted_is_empty(zipmap_path):
    assert work_of(load(zipmap_path), ["zip"]) == {}


def test_recurrent_operators_launch_in_every_step(save_model):
    node = helper.make_node("GRU", ["x", "w", "r"], ["y"], name="gru", hidden_size=3)
    weights = {"w": np.zeros((1, 9, 5), np.float32), "r": np.zeros((1, 9, 3), np.float32)}
    graph = load(save_model([node], [("x", FLOAT, [7, 1, 5])], [("y", FLOAT, [7, 1, 1, 3])], weights))
    assert work_of(graph, ["gru"])["recurrent"].launches == 15


def test_only_convolutions_without_a_blocked_layout_gather(save_model):
    assert conv(save_model, (16, 4, 3, 3)).gathered == 0
    assert conv(save_model, (2, 4, 3, 3)).gathered == 6 * 6 * 4 * 9
    assert conv(save_model, (16, 4, 3), data=(1, 4, 8)).gathered == 6 * 4 * 3
    assert conv(save_model, (4, 1, 3, 3), group=4).gathered == 6 * 6 * 4 * 9
    transposed = conv(save_model, (4, 16, 2, 2), op="ConvTranspose", out=(1, 16, 9, 9))
    assert transposed.gathered == 8 * 8 * 16 * 4


def test_eight_bit_products_are_one_class(save_model):
    weights = {"s": np.float32(0.1), "z": np.uint8(0), "w": np.zeros((4, 4), np.uint8), "f": np.zeros((4, 4), np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="dq"),
        helper.make_node("MatMul", ["d", "f"], ["m"], name="qdq"),
        helper.make_node("MatMulInteger", ["q", "w"], ["i"], name="integer"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wf"], name="stored"),
        helper.make_node("MatMul", ["x", "wf"], ["n"], name="stored_product"),
    ]
    outputs = [("m", FLOAT, [2, 4]), ("i", TensorProto.INT32, [2, 4]), ("n", FLOAT, [2, 4])]
    graph = load(save_model(nodes, [("x", FLOAT, [2, 4])], outputs, weights))
    found = {name: class_of(graph, graph.by_name[name]) for name in ("q", "qdq", "integer", "stored_product")}
    assert found == {"q": "elementwise", "qdq": "quantised", "integer": "quantised", "stored_product": "matmul"}


def test_arithmetic_on_shapes_is_a_view(save_model):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Add", ["s", "one"], ["t"], name="add"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [2, 4])], [("t", INT64, [2])], {"one": np.ones(2, np.int64)}))
    assert class_of(graph, graph.by_name["add"]) == "view"


def test_a_foreign_operator_is_other(zipmap_path):
    graph = load(zipmap_path)
    assert class_of(graph, graph.by_name["linear"]) == "other"


def test_every_class_is_listed_once():
    assert len(set(CLASSES)) == len(CLASSES)
    assert {"quantised", "view", "other"} < set(CLASSES)


def test_no_matrix_operator_is_forgotten():
    assert {_CLASS_OF[op] for op in flops.MATRIX_OPS} == {"conv", "matmul", "recurrent"}
