"""Where rows go: what exporters write, with sizes that stay free, and what only looks as if rows stayed apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.rowwise import follow_rows

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def op(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """Return a node; names are parted by spaces."""
    domain = attributes.pop("domain", "")
    return helper.make_node(
        kind, inputs.split(" "), outputs.split(" "), name=outputs.split(" ", maxsplit=1)[0], domain=domain, **attributes
    )


def reason(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, Any], *, opset: int = 17, out: str = "y", **inputs: Sequence[Any]
) -> str:
    """Return why rows may mix in a graph of float inputs; an input whose name begins with `i` is of integers."""
    graph = helper.make_graph(
        list(nodes), "g",
        [helper.make_tensor_value_info(n, INT64 if n.startswith("i") else FLOAT, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(out, FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("acme", 1)]
    return follow_rows(ir.from_proto(helper.make_model(graph, opset_imports=opsets)), {}, "n").reason


def constants(**values: Any) -> dict[str, Any]:
    """Return weights; integers are vectors, and numbers scalars."""
    return {name: np.array(value, np.int64) for name, value in values.items()}


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ([0, -1], ""),
        ([-1, 768], ""),  # n times L rows of features, each position alone
        ([0, 0, 12, 64], ""),
        ([-1, 64, 768], "does not say where the rows are"),  # two requests of length 32 would become one of 64
        ([64, -1, 768], "does not say where the rows are"),
        ([1, -1, 768], "does not have one entry a row"),
    ],
)
def test_reshapes_of_a_free_length(target, why):
    found = reason([op("Reshape", "x target", "y")], constants(target=target), x=["n", "length", 768])
    merged = target == [-1, 768]
    assert (why in found if why else not found) or (merged and "one entry a row" in found)


def test_positions_that_are_merged_and_parted_again():
    nodes = [
        op("Reshape", "x merged", "flat"),
        op("MatMul", "flat w", "made"),
        op("Shape", "x", "sizes"),
        op("Slice", "sizes zero two", "leading"),
        op("Concat", "leading width", "target", axis=0),
        op("Reshape", "made target", "y"),
    ]
    weights = constants(merged=[-1, 8], zero=[0], two=[2], width=[4]) | {"w": np.ones((8, 4), np.float32)}
    assert reason(nodes, weights, x=["n", "length", 8]) == ""
    nodes[4] = op("Concat", "minus fixed width", "target", axis=0)
    weights |= constants(minus=[-1], fixed=[16])
    assert "does not say where the rows are" in reason(nodes, weights, x=["n", "length", 8])


def test_heads_behind_the_rows_are_known_from_heads_in_front():
    """Attention over [steps, n, width]: heads are merged with the rows, the rows in front."""
    nodes = [
        op("Transpose", "x", "steps", perm=[1, 0, 2]),
        op("Reshape", "steps split", "heads"),  # [5, n * 2, 4]
        op("Transpose", "heads", "q", perm=[1, 0, 2]),
        op("Transpose", "heads", "k", perm=[1, 2, 0]),
        op("MatMul", "q k", "scores"),
        op("Softmax", "scores", "p", axis=-1),
        op("MatMul", "p q", "o"),
        op("Transpose", "o", "back", perm=[1, 0, 2]),
        op("Reshape", "back joined", "all"),
        op("Transpose", "all", "y", perm=[1, 0, 2]),
    ]
    assert reason(nodes, constants(split=[5, -1, 4], joined=[5, -1, 8]), x=["n", 5, 8]) == ""
    mask = [*nodes[:5], op("Add", "scores bias", "biased"), op("Softmax", "biased", "p", axis=-1), *nodes[6:]]
    weights = constants(split=[5, -1, 4], joined=[5, -1, 8])
    assert reason(mask, weights | {"bias": np.ones((1, 5, 5), np.float32)}, x=["n", 5, 8]) == ""
    assert "a size of its own" in reason(mask, weights | {"bias": np.ones((2, 5, 5), np.float32)}, x=["n", 5, 8])


def test_a_token_that_is_expanded_for_each_row():
    """As an exporter writes `token.expand(batch, -1, -1)`: where the size asked for is -1, the tensor's own is taken."""
    nodes = [
        op("Shape", "x", "sizes"),
        op("Gather", "sizes i0", "rows", axis=0),
        op("Unsqueeze", "rows axis", "rows1"),
        op("Concat", "rows1 minus minus", "asked", axis=0),
        op("ConstantOfShape", "rank", "ones", value=numpy_helper.from_array(np.array([1]), "v")),
        op("Mul", "ones minus", "all_minus"),
        op("Equal", "asked all_minus", "open"),
        op("Where", "open ones asked", "target"),
        op("Expand", "token target", "tokens"),
        op("Concat", "tokens x", "y", axis=1),
    ]
    weights = constants(i0=0, axis=[0], minus=[-1], rank=[3]) | {"token": np.ones((1, 1, 8), np.float32)}
    assert reason(nodes, weights, x=["n", 4, 8]) == ""
    weights["token"] = np.ones((3, 1, 8), np.float32)
    assert "a size of its own where the rows lie" in reason(nodes, weights, x=["n", 4, 8])


def test_a_table_of_positions_is_cut_by_the_length_and_not_by_the_rows():
    nodes = [
        op("Shape", "x", "sizes"),
        op("Slice", "sizes low high", "length"),
        op("Slice", "table zero length one", "places"),
        op("Add", "x places", "y"),
    ]
    weights = constants(low=[1], high=[2], zero=[0], one=[0]) | {"table": np.ones((512, 8), np.float32)}
    assert reason(nodes, weights, x=["n", "length", 8]) == ""
    nodes[2] = op("Slice", "table zero rows one", "places")
    nodes[1] = op("Slice", "sizes zero one1", "rows")
    nodes[3:] = [op("Unsqueeze", "places one1", "wide"), op("Add", "x wide", "y")]
    found = reason(nodes, weights | constants(one1=[1]), x=["n", "length", 8])
    assert "`places` (ai.onnx::Slice)" in found


@pytest.mark.parametrize(
    ("nodes", "weights", "why"),
    [
        ([op("Relu", "x", "y", domain="acme")], {}, "(acme::Relu): nobody described"),
        ([op("Squeeze", "x", "s"), op("Unsqueeze", "s axis", "y")], constants(axis=[0]), "that of a lone row too"),
        ([op("MaxPool", "x indices", "m y", kernel_shape=[1])], {}, ""),
        ([op("Transpose", "x", "y", perm=[1, 0, 2])], {}, "output `y` does not have one entry a row"),
        ([op("ReduceSum", "x axes", "y", keepdims=0)], constants(axes=[0]), "combines the elements along dimension 0"),
        ([op("Dropout", "x", "y")], {}, ""),
        ([op("Dropout", "x ratio on", "y")], {"ratio": np.float32(0.5), "on": np.array(True)}, "may draw at random"),
        ([op("RandomUniform", "", "r", shape=[1]), op("Add", "x r", "y")], {}, "may draw at random"),
        ([op("RandomUniformLike", "x", "y")], {}, "nobody described"),
        ([op("Shape", "x", "s"), op("Cast", "s", "y", to=FLOAT)], {}, "does not carry the rows"),
        ([op("NonZero", "x", "z"), op("Cast", "z", "y", to=FLOAT)], {}, "nobody described"),
        ([op("Gemm", "x w", "y")], {"w": np.ones((4, 4), np.float32)}, ""),
    ],
    ids=lambda value: value[-1].op_type if isinstance(value, list) else "",
)
def test_single_operators(nodes, weights, why):
    if nodes[0].op_type == "MaxPool":
        nodes = [op("MaxPool", "x", "m y", kernel_shape=[1])]
        why = "its positions count through all rows"
    shape = ["n", 4] if nodes[0].op_type == "Gemm" else ["n", 4, 5]
    found = reason(nodes, weights, x=shape)
    assert why in found if why else found == ""


def test_two_inputs_whose_rows_meet_only_by_chance():
    add = [op("Add", "x z", "y")]
    assert reason(add, {}, x=["n", 4], z=["n", 4]) == ""
    assert reason(add, {}, x=["n", 1, 4], z=["n", 1, 1]) == ""
    assert "on different dimensions" in reason(add, {}, x=["n", 1, 4], z=["n", 4])
    assert "each row of one input meets" in reason(
        [
            op("MatMul", "x t", "y"),
        ],
        {},
        x=["n", 4],
        t=["n", 4, 5],
    )


def test_each_rows_own_words_and_another_rows():
    look = [op("Gather", "table ids", "y")]
    assert reason(look, {"table": np.ones((9, 4), np.float32)}, ids=["n", "length"]) == ""
    assert "one row may pick another's" in reason([op("Gather", "x ids", "y")], {}, x=["n", 4], ids=["n"])
    own = [op("GatherND", "x ids", "y", batch_dims=1)]
    assert reason(own, {}, x=["n", 7, 4], ids=["n", 3, 1]) == ""
    assert "one row may pick another's" in reason([op("GatherND", "x ids", "y")], {}, x=["n", 7, 4], ids=["n", 3, 1])


def test_an_input_with_a_default_is_one_value_for_all():
    graph = helper.make_graph(
        [op("Mul", "x gain", "y")], "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 4]), helper.make_tensor_value_info("gain", FLOAT, [1])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 4])], [numpy_helper.from_array(np.ones(1, np.float32), "gain")],
    )  # fmt: skip
    found = follow_rows(ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])), {}, "n")
    assert "`gain` is one value for all rows" in found.reason


def test_row_numbers_may_be_an_index_and_nothing_else():
    """As exporters write `flat[batch * width + channel]`: channels stay below the width, the step is the width."""
    nodes = [
        op("Shape", "x", "sizes"), op("Gather", "sizes i0", "rows", axis=0), op("Range", "i0 rows i1", "numbers"),
        op("Mul", "numbers step", "starts"), op("Unsqueeze", "starts axis", "column"), op("Add", "column channels", "places"),
        op("Reshape", "x minus", "flat"), op("Gather", "flat places", "y"),
    ]  # fmt: skip
    weights = constants(i0=0, i1=1, step=4, axis=[1], minus=[-1], channels=[[3, 0, 1, 2]])
    assert reason(nodes, weights, x=["n", 4]) == ""
    for name, array in {"step": 3, "channels": [[3, 0, 1, 4]], "i1": 2, "minus": [-1]}.items():
        found = reason(nodes, weights | constants(**{name: array}), x=["n", 4])
        assert bool(found) == (name != "minus"), name
    assert "computes with numbers of rows" in reason(nodes, weights | constants(channels=[[3, 0, 1, -1]]), x=["n", 4])
    numbers = [*nodes[:3], op("Cast", "numbers", "y", to=FLOAT)]
    assert "computes with numbers of rows" in reason(numbers, weights, x=["n", 4])
    assert "`y` numbers the rows" in reason([*nodes[:3], op("Identity", "numbers", "y")], weights, x=["n", 4])
    table = [*nodes[:3], op("Gather", "table numbers", "y")]
    assert "`y`" in reason(table, weights | {"table": np.ones((9, 4), np.float32)}, x=["n", 4])
