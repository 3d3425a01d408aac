"""Parts in float16 and bfloat16: always valid models that compute the same up to rounding."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cutset.codegen.precision.error import errors_of, run_narrowed, run_part
from cutset.codegen.precision.floats import emulated, narrow
from cutset.codegen.precision.reduce import reduce_part
from cutset.graph.load import load

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def node(op, inputs, outputs, name, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name, **attributes)


@pytest.fixture
def attention(save_model):
    """A transformer's block: products, a softmax, a normalisation, a residual that is an output, too, and a gather."""
    weights = {name: RNG.normal(0, 0.3, (16, 16)).astype(np.float32) for name in ("q", "k", "v")}
    weights |= {"scale": np.float32(0.25), "g": np.ones(16, np.float32), "b": np.zeros(16, np.float32), "at": np.array([0])}
    nodes = [
        node("MatMul", "x q", "xq", "q"),
        node("MatMul", "x k", "xk", "k"),
        node("MatMul", "x v", "xv", "v"),
        node("Transpose", "xk", "kt", "turn", perm=[0, 2, 1]),
        node("MatMul", "xq kt", "logits", "scores"),
        node("Mul", "logits scale", "scaled", "scale"),
        node("Softmax", "scaled", "p", "softmax", axis=-1),
        node("MatMul", "p xv", "mixed", "mix"),
        node("Add", "mixed x", "sum", "residual"),
        node("LayerNormalization", "sum g b", "normal", "norm"),
        node("Gather", "normal at", "y", "first", axis=1),
    ]
    return save_model(nodes, [("x", FLOAT, ["n", 5, 16])], [("y", FLOAT, ["n", 1, 16]), ("sum", FLOAT, ["n", 5, 16])], weights)


def reduced(path, kind, keep=()):
    dtypes = {name: spec.dtype for name, spec in load(path).values.items()}
    return narrow(onnx.load(path), dtypes, kind, keep)


@pytest.mark.parametrize(("kind", "limit"), [("fp16", 2e-3), ("bf16", 2e-2)])
def test_a_block_of_attention(attention, kind, limit):
    found = reduced(attention, kind)
    onnx.checker.check_model(found.model, full_check=True)
    assert set(found.nodes) == {"q", "k", "v", "turn", "scores", "scale", "mix", "residual", "first"}
    feeds = [{"x": RNG.normal(size=(2, 5, 16)).astype(np.float32)}]
    errors = errors_of(run_part(attention, feeds), run_narrowed(found, kind, feeds))
    assert all(0 < error.max_rel < limit for error in errors)
    names = {value.name: value.type.tensor_type.elem_type for value in (*found.model.graph.input, *found.model.graph.output)}
    assert names == {"x": FLOAT, "y": FLOAT, "sum": FLOAT}


def test_nodes_that_are_kept_and_weights_that_do_not_fit_stay_in_float32(save_model):
    weights = {"large": np.array([1e5], np.float32), "small": np.array([2.0], np.float32)}
    nodes = [node("Mul", "x large", "h", "huge"), node("Mul", "h small", "i", "kept"), node("Relu", "i", "y", "relu")]
    path = save_model(nodes, [("x", FLOAT, [3])], [("y", FLOAT, [3])], weights)
    assert reduced(path, "fp16", keep=["kept"]).nodes == ("relu",)
    assert reduced(path, "bf16", keep=["kept"]).nodes == ("huge", "relu")
    nothing = reduced(path, "fp16", keep=["kept", "relu"]).model
    assert nothing.graph.node == onnx.load(path).graph.node


def test_what_a_body_reads_is_still_there(save_model):
    branches = [
        helper.make_graph([node(op, "h", f"{op}_y", op)], op, [], [helper.make_tensor_value_info(f"{op}_y", FLOAT, [3])])
        for op in ("Neg", "Abs")
    ]
    nodes = [
        node("Relu", "x", "h", "relu"),
        node("If", "c", "z", "if", then_branch=branches[0], else_branch=branches[1]),
        node("Add", "z h", "y", "add"),
    ]
    path = save_model(nodes, [("x", FLOAT, [3]), ("c", TensorProto.BOOL, [])], [("y", FLOAT, [3])])
    found = reduced(path, "fp16")
    onnx.checker.check_model(found.model)
    feeds = [{"x": np.array([-1, 0.5, 2], np.float32), "c": np.array(flag)} for flag in (True, False)]
    assert [one["y"].tolist() for one in run_narrowed(found, "fp16", feeds)] == [[0, 0, 0], [0, 1, 4]]
    assert found.nodes == ("relu", "add")


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_rounding_is_that_of_the_type(rows, columns, seed):
    """The emulated bfloat16 product is the float32 product of rounded numbers, rounded."""
    rng = np.random.default_rng(seed)
    x, w = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, 4), (4, columns)))
    graph = helper.make_graph(
        [node("MatMul", "x w", "y", "product")],
        "g",
        [helper.make_tensor_value_info("x", FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", FLOAT, [rows, columns])],
        [onnx.numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    found = narrow(model, {"x": "float32", "w": "float32", "y": "float32"}, "bf16")

    def rounded(array):
        return array.astype(ml_dtypes.bfloat16).astype(np.float32)

    (outputs,) = run_narrowed(found, "bf16", [{"x": x}])
    exact = rounded(x).astype(np.float64) @ rounded(w).astype(np.float64)
    assert np.allclose(outputs["y"], exact, rtol=2**-7, atol=1e-6)
    assert np.array_equal(outputs["y"], rounded(outputs["y"]))
    assert len(emulated(found, "bf16").graph.node) == 6  # x down and wide, w wide, product, y down and up


def test_bfloat16_of_an_old_model(save_model):
    """Before opset 13 ONNX could not cast to bfloat16."""
    weights = {"w": RNG.normal(size=(4, 4)).astype(np.float32)}
    nodes = [node("MatMul", "x w", "h", "product"), node("Squeeze", "h", "y", "squeeze", axes=[0])]
    path = save_model(nodes, [("x", FLOAT, [1, 3, 4])], [("y", FLOAT, [3, 4])], weights, opsets={"": 9}, ir_version=4)
    feeds = [{"x": RNG.normal(size=(1, 3, 4)).astype(np.float32)}]
    found = reduce_part(path, "bf16", feeds)
    onnx.checker.check_model(found.model, full_check=True)
    assert set(found.reduced) == {"product", "squeeze"}
    assert 0 < found.errors[0].max_rel < 0.02


@pytest.mark.parametrize("opset", [9, 11, 17, 22])
def test_a_convolution_in_bfloat16_is_a_valid_model(save_model, opset):
    """Below opset 22 no Conv takes bfloat16, though TensorRT builds it: the part is raised to it."""
    weights = {"w": RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)}
    nodes = [node("Conv", "x w", "h", "conv"), node("Relu", "h", "i", "relu"), node("GlobalAveragePool", "i", "y", "pool")]
    path = save_model(
        nodes, [("x", FLOAT, [1, 3, 8, 8])], [("y", FLOAT, [1, 4, 1, 1])], weights, opsets={"": opset}, ir_version=4
    )
    found = reduce_part(path, "bf16", [{"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}])
    onnx.checker.check_model(found.model, full_check=True)
    assert found.reduced == ("conv", "relu", "pool")
    assert 0 < found.errors[0].max_rel < 0.02


def test_what_cannot_be_raised_keeps_float32_where_bfloat16_is_not_allowed(save_model, monkeypatch):
    weights = {"w": RNG.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32), "v": RNG.normal(size=(6, 6)).astype(np.float32)}
    nodes = [node("Conv", "x w", "h", "conv"), node("MatMul", "h v", "y", "product")]
    path = save_model(nodes, [("x", FLOAT, [1, 3, 8, 8])], [("y", FLOAT, [1, 4, 6, 6])], weights, opsets={"": 12})
    real = onnx.version_converter.convert_version

    def convert(model, opset):
        if opset > 13:
            raise RuntimeError("no adapter")
        return real(model, opset)

    monkeypatch.setattr(onnx.version_converter, "convert_version", convert)
    found = reduce_part(path, "bf16", [{"x": RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)}])
    onnx.checker.check_model(found.model, full_check=True)
    assert found.reduced == ("product",)
