"""What single operators do to rows: attributes, ranks and types for which a plausible yes would be wrong."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.rowwise import follow_rows
from tests.unit.cutset.rowwise.test_analysis import INT64, constants, op, reason

BYTES = np.arange(12, dtype=np.uint8).reshape(4, 3)
ROWS = [op("Shape", "x", "sizes"), op("Gather", "sizes i0", "rows", axis=0), op("Unsqueeze", "rows axis", "rows1")]
NUMBERS = [*ROWS, op("Range", "i0 rows i1", "numbers"), op("Unsqueeze", "numbers last", "column")]
COUNTS = constants(i0=0, i1=1, axis=[0], last=[1], minus=[-1], one=[1], two=[2], three=[3], four=[4])
PAIR = np.ones((2, 1, 8), np.float32)
IMAGE = ["n", 3, 4, 4]


def resize(inputs, **attributes):
    return helper.make_node("Resize", inputs, ["y"], name="y", mode="nearest", **attributes)


SIZED = resize(["x", "", "", "to"])


def refused(why, nodes, weights, shape, opset=17):
    return pytest.param(why, nodes, weights, shape, opset, id=f"{nodes[-1].op_type}: {why}")


@pytest.mark.parametrize(
    ("why", "nodes", "weights", "shape", "opset"),
    [
        refused(
            "resizes by the rows",
            [*ROWS, op("Mul", "rows1 four", "h"), op("Concat", "rows1 three h four", "to", axis=0), SIZED],
            COUNTS, IMAGE,
        ),
        refused(
            "resizes by the rows",
            [*ROWS, op("Concat", "rows1 four", "to", axis=0), resize(["x", "", "", "to"], axes=[2, 3])], COUNTS, IMAGE, 18,
        ),
        refused(
            "resizes the dimension",
            [
                *ROWS, op("Concat", "rows1 three eight eight", "to", axis=0),
                resize(["x", "", "", "to"], keep_aspect_ratio_policy="not_smaller"),
            ],
            COUNTS | constants(eight=[8]), IMAGE, 18,
        ),
        refused(
            "coordinates may shift",
            [resize(["x", "", "s"], coordinate_transformation_mode="tf_half_pixel_for_nn", nearest_mode="ceil")],
            {"s": np.float32([1, 1, 2, 2])}, IMAGE,
        ),
        refused(  # the first column is the row's number, the second the same for each row
            "may pick another's",
            [
                *NUMBERS, op("Concat", "rows1 one", "to", axis=0), op("Expand", "zero to", "other"),
                op("Concat", "column other", "places", axis=1), op("Gather", "x places", "y"),
            ],
            COUNTS | {"zero": np.zeros((1, 1), np.int64)}, ["n", 4],
        ),
        refused(  # row 256 would read row 0
            "computes with numbers of rows",
            [
                *NUMBERS[:4], op("Cast", "numbers", "small", to=TensorProto.INT8), op("Cast", "small", "places", to=INT64),
                op("Gather", "x places", "y"),
            ],
            COUNTS, ["n", 4],
        ),
        refused(  # parts of one and three
            "does not say where the rows are",
            [op("Abs", "parts", "p"), op("Split", "x p", "u v", axis=1), op("Reshape", "v to", "y")],
            constants(parts=[1, 3], to=[-1, 2]), ["n", 4],
        ),
        refused(
            "does not say where the rows are",
            [op("Cast", "k", "small", to=TensorProto.UINT8), op("Cast", "small", "k4", to=INT64),
             op("Concat", "minus k4", "to", axis=0), op("Reshape", "x to", "y")],
            COUNTS | constants(k=[260]), ["n", 260],
        ),
        refused(
            "does not keep rows together",
            [*ROWS, op("Mul", "rows1 minus", "negative"), op("Concat", "negative four", "to", axis=0),
             op("Reshape", "x to", "y")],
            COUNTS, ["n", 4],
        ),
        refused("own where the rows lie", [op("LayerNormalization", "x w", "y")], {"w": PAIR}, ["n", 3, 8]),
        refused("own where the rows lie", [op("RMSNormalization", "x w", "y")], {"w": PAIR}, ["n", 3, 8], 23),
        refused("a scale for each place", [op("BatchNormalization", "x s s s s", "y")], {"s": np.float32([1])}, ["n"]),
        refused("a scale for each place", [op("BatchNormalization", "x s s s s", "y", spatial=0)], {"s": PAIR}, ["n", 4], 8),
        refused("old operator sets", [op("Add", "x b", "y", axis=0, broadcast=1)], {"b": np.float32([1])}, ["n", 4], 6),
        refused("draw at random", [op("Dropout", "c r t", "d"), op("Mul", "x d", "y")],
                {"c": PAIR, "r": np.float32(0.5), "t": np.array(True)}, ["n", 4, 8]),
        refused("not what ONNX says", [op("Slice", "x a b c", "y")], constants(a=[0], b=[1, 2], c=[1, 2]), ["n", 4, 5]),
        refused("not what ONNX says", [op("Tile", "x a", "y")], constants(a=[1, 1]), ["n", 4, 5]),
        refused("explicit result", [op("Einsum", "x", "y", equation="a->a")], {}, ["n", 4]),
        refused("a length for each sequence",
                [helper.make_node("Attention", ["x", "x", "x", "", "", "", "l"], ["y"], q_num_heads=2, kv_num_heads=2)],
                constants(l=[2, 3]), ["n", 3, 8], 24),
    ],
)  # fmt: skip
def test_refusals(why, nodes, weights, shape, opset):
    assert why in reason(nodes, weights, opset=opset, x=shape)


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (op("MatMulInteger", "ix w z", "y"), {"w": BYTES, "z": np.uint8([1, 2])}),
        (op("QLinearMatMul", "ix one z w one z1 one z1", "y"), {"w": BYTES, "z": np.uint8([1, 2])}),
        (op("QGemm", "ix one z1 w one z1 c one z1", "y", domain="com.microsoft"),
         {"w": BYTES, "c": np.arange(6, dtype=np.int32).reshape(2, 3)}),
    ],
    ids=lambda value: value.op_type if hasattr(value, "op_type") else "",
)  # fmt: skip
def test_a_zero_point_or_bias_for_each_row_is_refused_and_one_for_all_is_not(node, weights):
    weights = {"one": np.float32(1), "z1": np.uint8(1)} | weights
    assert "where the others carry rows" in reason([node], weights, ix=["n", 4])
    single = {"z": np.uint8(1), "c": np.arange(3, dtype=np.int32)}
    assert reason([node], weights | {name: single[name] for name in single if name in weights}, ix=["n", 4]) == ""


def test_two_free_sizes_meet_in_a_broadcast():
    """Where one of them is one, the result has the other's size."""
    nodes = [
        op("Shape", "z", "wide"), op("Expand", "x wide", "e"), op("Shape", "x", "own"), op("Gather", "own last", "length"),
        op("Concat", "minus length", "to", axis=0), op("Reshape", "e to", "y"),
    ]  # fmt: skip
    assert "does not say" in reason(nodes, COUNTS, x=["n", "L"], z=["n", "M"])


def test_halves_of_integers_and_of_floats_are_different_sizes():
    """With a length of three they are one and one and a half."""
    nodes = [
        *ROWS, op("Gather", "sizes last", "length"), op("Cast", "length", "f", to=TensorProto.FLOAT),
        op("Cast", "two", "f2", to=TensorProto.FLOAT), op("Div", "f f2", "fh"), op("Mul", "fh f2", "fw"),
        op("Cast", "fw", "whole", to=INT64), op("Div", "length two", "h"), op("Mul", "h two", "even"),
        op("Concat", "rows1 whole", "to", axis=0), op("Reshape", "x to", "same"),
        op("Concat", "minus even", "to2", axis=0), op("Reshape", "same to2", "y"),
    ]  # fmt: skip
    assert "does not say" in reason(nodes, COUNTS, x=["n", "L"])
    assert reason([*nodes[:-2], op("Relu", "same", "y")], COUNTS, x=["n", "L"]) == ""


def test_a_difference_may_be_minus_one():
    nodes = [
        op("Shape", "x", "sizes"), op("Gather", "sizes last", "length"), op("Sub", "length four", "d"),
        op("Equal", "d minus", "e"), op("Where", "e four two", "w"), op("Concat", "minus w", "to", axis=0),
        op("Reshape", "z to", "y"),
    ]  # fmt: skip
    assert "does not say" in reason(nodes, COUNTS, x=["n", "L"], z=["n", 2])


def test_a_dimension_that_is_called_as_the_rows_are_inside():
    nodes = [
        op("Shape", "z", "sizes"), op("Gather", "sizes last", "k"), op("Concat", "k four", "to", axis=0),
        op("Reshape", "x to", "y"),
    ]  # fmt: skip
    assert reason(nodes, COUNTS, x=["n", 4], z=["n", "\0rows"])


def test_the_standard_domain_has_two_names():
    nodes = [op("Slice", "x i0s two last", "y"), op("Softmax", "x", "y", axis=0)]
    for node, right in zip(nodes, (True, False), strict=True):
        for domain in ("", "ai.onnx"):
            graph = helper.make_graph(
                [node], "g", [helper.make_tensor_value_info("x", 1, ["n", 4])], [helper.make_tensor_value_info("y", 1, None)],
                [helper.make_tensor(name, INT64, [1], [value]) for name, value in (("i0s", 0), ("two", 2), ("last", 1))],
            )  # fmt: skip
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 17)])
            assert (follow_rows(ir.from_proto(model), {}, "n").reason == "") == right


def test_a_function_that_is_called_as_an_operator_hides_it():
    body = helper.make_function(
        "com.microsoft", "QuickGelu", ["a"], ["b"], [helper.make_node("Softmax", ["a"], ["b"], axis=0)],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    graph = helper.make_graph(
        [op("QuickGelu", "x", "y", domain="com.microsoft")], "g", [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 1, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[body])
    assert "functions of its own" in follow_rows(ir.from_proto(model), {}, "n").reason


def test_missing_values_of_each_feature_lie_on_the_last_of_two_dimensions():
    each = op("Imputer", "x", "y", domain="ai.onnx.ml", imputed_value_floats=[1.0, 2.0], replaced_value_float=0.0)
    assert reason([each], {}, x=["n", 2]) == ""
    assert "first of two dimensions" in reason([each], {}, x=["n"])


@pytest.mark.parametrize("step", [1, 2, -1, -3])
def test_the_elements_of_a_cut_shape_are_those_that_onnxruntime_takes(step):
    """Far below, at and far above both ends; the shape that is cut has the sizes 2, 3, 4, 5."""
    ends = [-(1 << 62), -9, -5, -4, -1, 0, 2, 4, 9, 1 << 62]
    for start, end in itertools.product(ends, ends):
        nodes = [op("Shape", "c", "s"), op("Slice", "s a b z step", "k")]
        weights = constants(a=[start], b=[end], z=[0], step=[step]) | {"c": np.ones((2, 3, 4, 5), np.float32)}
        graph = helper.make_graph(
            nodes, "g", [], [helper.make_tensor_value_info("k", INT64, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        data = follow_rows(ir.from_proto(model), {}).flows["k"].data
        (taken,) = ort.InferenceSession(model.SerializeToString()).run(None, {})
        assert [element.number for element in data or ()] == taken.tolist(), (start, end)


def test_what_a_pad_adds_in_two_columns():
    """As an exporter writes padding whose amounts it works out: pairs of each dimension, the last one first."""
    nodes = [
        op("Concat", "last_pads zeros", "all", axis=0), op("Reshape", "all pairs", "table"),
        op("Slice", "table minus lowest i0s minus", "turned"), op("Transpose", "turned", "ends", perm=[1, 0]),
        op("Reshape", "ends minus", "pads"), op("Pad", "x pads", "y"),
    ]  # fmt: skip
    fixed = COUNTS | constants(pairs=[-1, 2], lowest=[-(1 << 62)], i0s=[0], zeros=[0, 0, 0])
    assert reason(nodes, fixed | constants(last_pads=[0, 0, 3]), x=["n", 4, 5]) == ""
    fixed["zeros"] = np.array([0, 0, 1])
    assert "adds along the dimension" in reason(nodes, fixed | constants(last_pads=[0, 0, 3]), x=["n", 4, 5])


def test_positions_that_are_repeated_for_each_row():
    """As an exporter writes `arange(length)[None].repeat(batch, 1)`."""
    nodes = [
        *ROWS, op("Gather", "sizes i1", "length"), op("Range", "i0 length i1", "steps"), op("Unsqueeze", "steps axis", "line"),
        op("Expand", "line ones", "same"), op("Concat", "rows1 one", "times", axis=0), op("Tile", "same times", "places"),
        op("Gather", "weights places", "positions"), op("Add", "x positions", "y"),
    ]  # fmt: skip
    weights = COUNTS | constants(ones=[1, 1]) | {"weights": np.ones((99, 8), np.float32)}
    assert reason(nodes, weights, x=["n", "L", 8]) == ""
    assert "size of its own" in reason(nodes, weights | constants(ones=[2, 1]), x=["n", "L", 8])


def test_constants_keep_the_sizes_that_are_not_cut():
    """Token types as an exporter reads them from a buffer: a slice, elements of a constant, copied for each row."""
    nodes = [
        *ROWS, op("Gather", "sizes last", "length"), op("Slice", "buffer axis length last", "line"),
        op("Expand", "row wide", "types"), op("GatherElements", "types line", "found", axis=1),
        op("Concat", "rows1 length", "to", axis=0), op("Expand", "found to", "each"),
        op("Gather", "weights each", "words"), op("Add", "x words", "y"),
    ]  # fmt: skip
    weights = COUNTS | constants(buffer=[[0] * 9], row=[[1] * 9], wide=[1, 9]) | {"weights": np.ones((2, 8), np.float32)}
    assert reason(nodes, weights, x=["n", "L", 8]) == ""
    assert "size of its own" in reason(nodes, weights | constants(buffer=[[0] * 9] * 2, wide=[2, 9]), x=["n", "L", 8])


def test_constants_that_are_looked_up_have_the_sizes_of_their_places():
    nodes = [
        *ROWS, op("Gather", "sizes last", "length"), op("Slice", "buffer axis length last", "line"),
        op("Gather", "weights line", "words"), op("Add", "x words", "y"),
    ]  # fmt: skip
    weights = COUNTS | constants(buffer=[[0] * 9]) | {"weights": np.ones((2, 8), np.float32)}
    assert reason(nodes, weights, x=["n", "L", 8]) == ""
    assert "size of its own" in reason(nodes, weights | constants(buffer=[[0] * 9] * 2), x=["n", "L", 8])


def test_a_remainder_of_zero_stands_for_the_size_that_is_there():
    nodes = [
        *ROWS, op("Gather", "sizes last", "length"), op("Mod", "four length", "rest"), op("Unsqueeze", "x axis", "wide"),
        op("Concat", "rows1 rest minus", "to", axis=0), op("Reshape", "wide to", "y"),
    ]  # fmt: skip
    assert "may be zero" in reason(nodes, COUNTS, x=["n", "L"])
    assert reason([*nodes[:-1], op("Reshape", "x to", "y")], COUNTS, x=["n", "L"]) == ""
