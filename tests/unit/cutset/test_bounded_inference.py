"""Symbolic inference ends soon on every model, and what it infers holds in a real run."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx_shape_inference import infer_symbolic_shapes

from cutset.graph import bounded_inference
from cutset.graph.bounded_inference import MAX_NAMED_EXPRESSION, infer_bounded, rounding_depth
from cutset.graph.load import load
from cutset.profilers.ort_cpu import observe_shapes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ANCHORS = 6


def anchor_heads(save_model, levels, heads=1):
    """Save what detectors do: strided convolutions, and on the last ones a head whose result is viewed a box an anchor."""
    rng = np.random.default_rng(0)
    weights = {
        "lead": np.array([1, -1, 4]), "flat": np.array([1, -1, 4]), "two": np.array([2]), "four": np.array([4]),
        "zero": np.zeros((4, 1), np.float32), "many": np.array([5]),
    }  # fmt: skip
    nodes, value, boxes = [], "image", []
    for level in range(levels):
        weights[f"w{level}"] = rng.normal(size=(4, 3 if level == 0 else 4, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{level}"], [f"c{level}"], strides=[2, 2], pads=[1] * 4))
        value = f"c{level}"
        if level < levels - heads:
            continue
        weights[f"h{level}"] = rng.normal(size=(4 * ANCHORS, 4, 1, 1)).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [value, f"h{level}"], [f"head{level}"]),
            helper.make_node("Shape", [f"head{level}"], [f"s{level}"]),
            helper.make_node("Slice", [f"s{level}", "two", "four"], [f"hw{level}"]),
            helper.make_node("Concat", ["lead", f"hw{level}"], [f"to{level}"], axis=0),
            helper.make_node("Reshape", [f"head{level}", f"to{level}"], [f"view{level}"]),
            helper.make_node("Transpose", [f"view{level}"], [f"t{level}"], perm=[0, 3, 4, 1, 2]),
            helper.make_node("Reshape", [f"t{level}", "flat"], [f"boxes{level}"]),
        ]
        boxes.append(f"boxes{level}")
    nodes += [
        helper.make_node("Concat", boxes, ["all"], axis=1),
        helper.make_node("MatMul", ["all", "zero"], ["scores"]),
        helper.make_node("TopK", ["scores", "many"], ["y", "at"], axis=1),
    ]
    outputs = [("y", FLOAT, [1, "n", 1]), ("at", INT64, [1, "n", 1])]
    return save_model(nodes, [("image", FLOAT, [1, 3, "h", "w"])], outputs, weights)


def assert_sizes_hold(graph, sizes):
    """Assert that every number is the size seen, and that one symbol is one size everywhere."""
    feeds = {"image": np.ones((1, 3, *sizes), np.float32)}
    seen, _ = observe_shapes(graph, feeds)
    meaning = {}
    for name, shape in seen.items():
        for dim, size in zip(graph.values[name].shape or (), shape, strict=bool(graph.values[name].shape)):
            if isinstance(dim, int):
                assert (name, dim) == (name, size)
            elif dim is not None:
                assert meaning.setdefault(dim, size) == size, (name, dim)


@pytest.mark.parametrize(("levels", "heads"), [(2, 1), (7, 1), (12, 5)])
def test_nested_roundings_end_soon_and_hold_in_a_real_run(save_model, levels, heads):
    graph = load(anchor_heads(save_model, levels, heads))
    assert_sizes_hold(graph, (129, 70))
    assert all(spec.shape is not None for spec in graph.values.values())


def test_sizes_with_names_are_short_and_equal_ones_share_a_name(save_model):
    graph = load(anchor_heads(save_model, 7, 3))
    dims = [dim for spec in graph.values.values() for dim in spec.shape if isinstance(dim, str)]
    assert max(map(len, dims)) <= MAX_NAMED_EXPRESSION
    assert graph.values["head6"].shape == (1, 4 * ANCHORS, *graph.values["c6"].shape[2:])
    assert graph.values["view6"].shape == (1, ANCHORS, 4, *graph.values["c6"].shape[2:])


def test_the_same_symbols_every_time(save_model):
    path = anchor_heads(save_model, 6, 2)
    assert load(path).values == load(path).values


def test_what_is_cheap_is_inferred_as_the_library_does(save_model):
    path = anchor_heads(save_model, 2)
    exact, bounded = (ir.from_proto(onnx.load(path)) for _ in range(2))
    infer_symbolic_shapes(exact, warn_on_missing=False)
    infer_bounded(bounded)
    assert [str(v.shape) for v in bounded_inference._values(bounded.graph)] == [
        str(v.shape) for v in bounded_inference._values(exact.graph)
    ]


@pytest.mark.parametrize("levels", [2, 12])
def test_declared_sizes_that_are_other_expressions_end_soon(save_model, levels):
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {"scales": np.array([1, 1, 4, 4], np.float32)}, "image"
    for level in range(levels):
        weights[f"w{level}"] = rng.normal(size=(4, 3 if level == 0 else 4, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{level}"], [f"c{level}"], strides=[2, 2], pads=[1] * 4))
        value = f"c{level}"
    nodes.append(helper.make_node("Resize", [value, "", "scales"], ["y"], mode="nearest"))
    output = ("y", FLOAT, [1, 4, "2*n", "2*m"])
    graph = load(save_model(nodes, [("image", FLOAT, [1, 3, "h", "w"])], [output], weights))
    assert graph.outputs[0].shape == tuple(output[2])
    assert_sizes_hold(graph, (129, 70))


def test_large_sizes_inside_a_body_get_names(save_model):
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {"shape": np.array([1, -1, 4])}, "image"
    for level in range(7):
        weights[f"w{level}"] = rng.normal(size=(4, 3 if level == 0 else 4, 3, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{level}"], [f"c{level}"], strides=[2, 2], pads=[1] * 4))
        value = f"c{level}"
    inner = [helper.make_node("Reshape", [value, "shape"], ["r"])]
    body = helper.make_graph(inner, "b", [], [helper.make_tensor_value_info("r", FLOAT, None)])
    nodes.append(helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body))
    inputs = [("image", FLOAT, [1, 3, "h", "w"]), ("flag", TensorProto.BOOL, [])]
    graph = load(save_model(nodes, inputs, [("y", FLOAT, [1, "n", 4])], weights))
    assert graph.values[value].shape[:2] == (1, 4)
    assert rounding_depth(str(graph.values[value].shape)) == 0


@pytest.mark.parametrize(
    ("text", "depth"),
    [("a + b", 0), ("(a + 1)*b", 0), ("floor(h/2)", 1), ("floor(floor(h/2 - 1/2)/2) + 1", 2), ("2*floor((a + 1)/2)", 1)],
)
def test_rounding_depth(text, depth):
    assert rounding_depth(text) == depth
