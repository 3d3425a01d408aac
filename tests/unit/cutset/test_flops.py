"""Counts against values worked out by hand from the operators' definitions."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset.errors import UnknownShapeError
from cutset.graph import flops
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from tests.support import needs_newest_onnx

FLOAT = TensorProto.FLOAT


def build(tmp_path, nodes, inputs, outputs, weights=None, opset=20) -> ModelGraph:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("my", 1)]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), path)
    return load(path)


def one(tmp_path, op, shapes, out, weights=None, *, names=None, domain="", **attributes) -> flops.OpCount:
    """Count a one-node model; `shapes` are float inputs, `weights` come after them."""
    inputs = [f"x{i}" for i in range(len(shapes))]
    operands = names if names is not None else [*inputs, *(weights or {})]
    node = helper.make_node(op, operands, ["y"], name="n", domain=domain, **attributes)
    graph = build(
        tmp_path,
        [node],
        [(name, FLOAT, shape) for name, shape in zip(inputs, shapes, strict=True)],
        [("y", FLOAT, out)],
        weights,
    )
    return flops.count(graph, graph.by_name["n"])


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def test_convolution_counts_two_a_tap_and_one_a_bias(tmp_path):
    weights = {"w": zeros(8, 3, 3, 3), "b": zeros(8)}
    got = one(tmp_path, "Conv", [[2, 3, 10, 10]], [2, 8, 8, 8], weights)
    outputs = 2 * 8 * 8 * 8
    assert got == flops.OpCount(
        flops=outputs * (2 * 27 + 1),
        read_bytes=4 * 2 * 3 * 100,
        written_bytes=4 * outputs,
        weight_bytes=4 * (8 * 27 + 8),
    )


def test_depthwise_convolution_counts_its_own_channel_only(tmp_path):
    got = one(tmp_path, "Conv", [[1, 16, 6, 6]], [1, 16, 4, 4], {"w": zeros(16, 1, 3, 3)}, group=16)
    assert got.flops == 16 * 16 * 2 * 9


def test_transposed_convolution_counts_every_input_element_once_a_tap(tmp_path):
    got = one(tmp_path, "ConvTranspose", [[1, 4, 5, 5]], [1, 6, 10, 10], {"w": zeros(4, 6, 2, 2)}, strides=[2, 2])
    assert got.flops == 2 * (4 * 25) * (6 * 4)


@pytest.mark.parametrize(("shape", "trans"), [([5, 7], 0), ([7, 5], 1)])
def test_gemm_finds_the_inner_dimension_on_either_side(tmp_path, shape, trans):
    got = one(tmp_path, "Gemm", [shape], [5, 3], {"w": zeros(7, 3), "c": zeros(3)}, transA=trans)
    assert got.flops == 5 * 3 * (2 * 7 + 1)


@given(b=st.integers(1, 3), m=st.integers(1, 5), k=st.integers(1, 6), n=st.integers(1, 5))
def test_matmul_and_the_same_einsum_agree(tmp_path_factory, b, m, k, n):
    shapes = [[b, m, k], [b, k, n]]
    folder = tmp_path_factory.mktemp("m")
    assert one(folder, "MatMul", shapes, [b, m, n]).flops == 2 * b * m * n * k
    assert one(folder, "Einsum", shapes, [b, m, n], equation="bmk,bkn->bmn").flops == 2 * b * m * n * k
    assert one(folder, "Einsum", shapes, [b, m, n], equation="...mk, ...kn -> ...mn").flops == 2 * b * m * n * k


def test_quantised_matmul_counts_like_a_plain_one(tmp_path):
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"], name="n")
    inputs = [("a", TensorProto.UINT8, [4, 6]), ("b", TensorProto.UINT8, [6, 5])]
    graph = build(tmp_path, [node], inputs, [("y", TensorProto.INT32, [4, 5])])
    got = flops.count(graph, graph.by_name["n"])
    assert (got.flops, got.read_bytes, got.written_bytes) == (2 * 4 * 5 * 6, 24 + 30, 80)


@pytest.mark.parametrize(("op", "gates", "layout"), [("LSTM", 4, 0), ("GRU", 3, 0), ("RNN", 1, 0), ("LSTM", 4, 1)])
def test_recurrent_operators_are_dominated_by_two_products_a_step(tmp_path, op, gates, layout):
    steps, batch, size, hidden = 7, 2, 30, 40
    weights = {"w": zeros(1, gates * hidden, size), "r": zeros(1, gates * hidden, hidden)}
    shape = [batch, steps, size] if layout else [steps, batch, size]
    node = helper.make_node(op, ["x", "w", "r"], ["", "h"], name="n", hidden_size=hidden, layout=layout)
    graph = build(tmp_path, [node], [("x", FLOAT, shape)], [("h", FLOAT, None)], weights)
    graph = graph.with_measured({"h": (1, batch, hidden)}, {})
    products = 2 * steps * batch * gates * hidden * (size + hidden)
    assert products < flops.count(graph, graph.by_name["n"]).flops < 1.5 * products
    assert flops.launches(graph, graph.by_name["n"]) == 1 + 2 * steps


def test_pooling_counts_taps_and_global_pooling_the_input(tmp_path):
    assert one(tmp_path, "MaxPool", [[1, 4, 8, 8]], [1, 4, 4, 4], kernel_shape=[2, 2], strides=[2, 2]).flops == 64 * 4
    assert one(tmp_path, "GlobalAveragePool", [[1, 4, 8, 8]], [1, 4, 1, 1]).flops == 256


def test_reductions_and_variadic_sums_count_their_inputs(tmp_path):
    assert one(tmp_path, "ReduceSum", [[3, 5]], [3, 1], {"axes": np.array([1])}).flops == 15
    assert one(tmp_path, "Sum", [[4], [4], [4]], [4]).flops == 8


def test_resize_counts_the_taps_of_the_scaled_axes_only(tmp_path):
    weights = {"scales": np.array([1, 1, 2, 2], np.float32)}
    names = ["x0", "", "scales"]
    linear = one(tmp_path, "Resize", [[1, 2, 4, 4]], [1, 2, 8, 8], weights, names=names, mode="linear")
    assert linear.flops == 2 * 128 * 4
    wide = {"scales": np.array([1, 1, 1, 2], np.float32)}
    assert one(tmp_path, "Resize", [[1, 2, 4, 4]], [1, 2, 4, 8], wide, names=names, mode="cubic").flops == 2 * 64 * 4
    assert one(tmp_path, "Resize", [[1, 2, 4, 4]], [1, 2, 8, 8], weights, names=names, mode="nearest").flops == 0


def test_attention_counts_both_products_for_three_and_four_dimensions(tmp_path):
    heads, queries, keys, size = 2, 5, 6, 8
    flat = [[1, queries, heads * size], [1, keys, heads * size], [1, keys, heads * size]]
    out = [1, queries, heads * size]
    split = [[1, heads, queries, size], [1, heads, keys, size], [1, heads, keys, size]]

    def attention(shapes, out, **attributes):
        nodes = [helper.make_node("Attention", ["x0", "x1", "x2"], ["y"], name="n", **attributes)]
        inputs = [(f"x{i}", FLOAT, shape) for i, shape in enumerate(shapes)]
        graph = build(tmp_path, nodes, inputs, [("y", FLOAT, out)], opset=23)
        return flops.count(graph, graph.by_name["n"]).flops

    products = 2 * 2 * heads * queries * keys * size
    softmax = heads * queries * keys * (flops.TRANSCENDENTAL + flops.DIVIDE + 3)
    assert attention(split, [1, heads, queries, size]) == products + softmax
    assert attention(flat, out, q_num_heads=heads, kv_num_heads=heads) == products + softmax


def test_views_move_nothing_and_movement_computes_nothing(tmp_path):
    reshape = one(tmp_path, "Reshape", [[2, 6]], [3, 4], {"shape": np.array([3, 4])})
    assert reshape == flops.OpCount(flops=0, read_bytes=0, written_bytes=0, weight_bytes=0)
    transpose = one(tmp_path, "Transpose", [[2, 6]], [6, 2])
    assert transpose == flops.OpCount(flops=0, read_bytes=48, written_bytes=48, weight_bytes=0)


def test_an_embedding_reads_the_rows_it_looks_up(tmp_path):
    node = helper.make_node("Gather", ["table", "ids"], ["y"], name="n")
    graph = build(tmp_path, [node], [("ids", TensorProto.INT64, [3])], [("y", FLOAT, [3, 16])], {"table": zeros(1000, 16)})
    got = flops.count(graph, graph.by_name["n"])
    assert (got.weight_bytes, got.read_bytes, got.written_bytes) == (3 * 16 * 4, 24, 3 * 16 * 4)


def test_an_unused_output_is_not_written(tmp_path):
    node = helper.make_node("MaxPool", ["x"], ["y", "indices"], name="n", kernel_shape=[2])
    graph = build(tmp_path, [node], [("x", FLOAT, [1, 1, 4])], [("y", FLOAT, [1, 1, 3])])
    assert flops.count(graph, graph.by_name["n"]).written_bytes == 12


def test_an_unknown_operator_counts_one_an_output_element(tmp_path):
    assert one(tmp_path, "Conv", [[2, 3]], [4, 5], domain="my").flops == 20


def branch(name, width):
    nodes = [helper.make_node("MatMul", ["x", f"w{name}"], [f"y{name}"])]
    weight = numpy_helper.from_array(zeros(4, width), f"w{name}")
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(f"y{name}", FLOAT, [2, width])], [weight])


def test_an_if_counts_its_dearer_branch_and_the_weights_of_both(tmp_path):
    node = helper.make_node("If", ["c"], ["y"], name="n", then_branch=branch("t", 8), else_branch=branch("e", 3))
    inputs = [("c", TensorProto.BOOL, []), ("x", FLOAT, [2, 4])]
    graph = build(tmp_path, [node], inputs, [("y", FLOAT, [2, "k"])]).with_measured({"y": (2, 8)}, {})
    got = flops.count(graph, graph.by_name["n"])
    assert got.flops == 2 * 2 * 4 * 8
    assert got.weight_bytes == 4 * 4 * (8 + 3)
    assert got.read_bytes == 1 + 32


def test_an_unknown_shape_is_named(tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"], name="n")
    graph = build(tmp_path, [node], [("x", FLOAT, ["batch", 4])], [("y", FLOAT, ["batch", 4])])
    with pytest.raises(UnknownShapeError, match="batch"):
        flops.count(graph, graph.by_name["n"])
    measured = graph.with_measured({"x": (3, 4), "y": (3, 4)}, {})
    assert flops.count(measured, measured.by_name["n"]).flops == 12


def test_a_shape_inside_a_body_that_nobody_knows_is_an_error(tmp_path):
    body = branch("t", 8)
    body.node[0].input[0] = "z"
    body.node.insert(0, helper.make_node("Compress", ["x", "mask"], ["z"], axis=0))
    node = helper.make_node("If", ["c"], ["y"], name="n", then_branch=body, else_branch=branch("e", 8))
    inputs = [("c", TensorProto.BOOL, []), ("x", FLOAT, [2, 4]), ("mask", TensorProto.BOOL, [2])]
    graph = build(tmp_path, [node], inputs, [("y", FLOAT, ["r", 8])])
    with pytest.raises(UnknownShapeError):
        flops.count(graph, graph.by_name["n"])


@needs_newest_onnx
def test_every_operator_of_the_tables_exists_in_onnx():
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    contrib = {
        "BiasGelu", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul",
        "MatMulIntegerToFloat", "QuickGelu", "SimplifiedLayerNormalization", "SkipLayerNormalization",
    }  # fmt: skip
    tabled = set(flops._RULES) | set(flops._PER_INPUT) | set(flops._PER_OUTPUT) | flops._MOVES | flops.MATRIX_OPS
    assert tabled - known <= contrib | set(flops._CONTRIBUTED)
    assert not set(flops._RULES) & set(flops._PER_INPUT)
    assert not set(flops._PER_INPUT) & set(flops._PER_OUTPUT)


def test_the_count_does_not_change_the_model(tmp_path):
    graph = build(tmp_path, [helper.make_node("Relu", ["x"], ["y"], name="n")], [("x", FLOAT, [2])], [("y", FLOAT, [2])])
    before = ir.to_proto(graph.source).SerializeToString()
    flops.count(graph, graph.by_name["n"])
    assert ir.to_proto(graph.source).SerializeToString() == before


def test_attention_of_onnxruntime_is_another_operator_than_that_of_onnx(tmp_path):
    """The same name, other operands: onnxruntime's projects its one input, ONNX's takes queries, keys and values."""
    softmax = flops.TRANSCENDENTAL + flops.DIVIDE + 3
    scores = 4 * (2 * 5) * 5 * 16 + softmax * (2 * 5) * 4 * 5
    projected = one(
        tmp_path, "Attention", [[2, 5, 16]], [2, 5, 16], {"w": zeros(16, 48), "b": zeros(48)},
        domain="com.microsoft", num_heads=4,
    )  # fmt: skip
    assert projected.flops == 2 * (2 * 5) * 16 * 48 + scores
    given = one(tmp_path, "MultiHeadAttention", [[2, 5, 16]] * 3, [2, 5, 16], domain="com.microsoft", num_heads=4)
    assert given.flops == scores


def test_a_custom_operator_counts_as_no_operator_of_onnx(tmp_path):
    for op in ("MatMul", "Shape", "Gather", "Identity"):
        got = one(tmp_path, op, [[4, 4], [4, 4]], [4, 4], domain="my")
        assert (got.flops, got.read_bytes, got.written_bytes) == (16, 2 * 64, 64), op
