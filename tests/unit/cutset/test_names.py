"""Names for what rewrites add: never one that the model has, whatever the model calls its tensors."""

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from cutset.cascade.empty import padded
from cutset.codegen.engines.cleanup import clean
from cutset.codegen.precision.error import run_part
from cutset.codegen.precision.reduce import Original, compare_part, reduce_part
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.graph.extract import extract
from cutset.graph.load import load
from cutset.graph.names import FreshNames
from cutset.graph.rows import with_free_rows

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def node(op, inputs, outputs, name, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name, **attributes)


def test_a_name_is_made_once():
    names = FreshNames(["a", "a.2"])
    assert [names.make(wish) for wish in ("a", "a", "b", "b", "b.2")] == ["a.3", "a.4", "b", "b.2", "b.2.2"]


def test_names_of_bodies_weights_and_nodes_are_taken():
    inner = helper.make_graph(
        [node("Neg", "x", "deep", "inside")], "b", [], [helper.make_tensor_value_info("deep", FLOAT, [1])]
    )
    nodes = [node("If", "c", "y", "branch", then_branch=inner, else_branch=inner)]
    weights = [onnx.numpy_helper.from_array(np.float32(1), "w")]
    sides = [[helper.make_tensor_value_info("x", FLOAT, [1])], [helper.make_tensor_value_info("y", FLOAT, [1])]]
    graph = helper.make_graph(nodes, "g", *sides, weights)
    wishes = ["deep", "inside", "w", "x", "y", "branch"]
    for names in (FreshNames.beside(graph), FreshNames.beside_ir(ir.from_proto(graph))):
        assert [names.make(wish) for wish in wishes] == [f"{wish}.2" for wish in wishes]


def squatted(names):
    """The suffixes that rewrites use, each taken by a tensor of the model."""
    return [f"{name}{suffix}" for name, suffix in itertools.product(names, [
        ".fp16", ".bf16", ".tf32", ".tf32.wide", ".up", ".wide", ".exact", ".cast", ".largest", ".fp16.wide", ".fp16.exact",
        "_scale", "_zero_point", "_quantized", "_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output",
    ])] + ["tf32.factor", "zero", "infinity", "flat", "t", "t0_scale"]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "bf16", "tf32", "int8"])
def test_precisions_of_a_model_that_has_their_names(save_model, precision):
    """y = (x w) + the sum of tensors called as the rewrites would call theirs."""
    taken = squatted(["x", "w", "h"])
    nodes = [node("Neg", "x", name, f"make {name}") for name in taken]
    nodes += [
        node("MatMul", "x w", "h", "x.fp16.cast"),
        node("Relu", "h", "r", "h.up"),
        node("Sum", " ".join(taken), "s", "sum"),
    ]
    nodes += [node("Add", "r s", "y", "add")]
    weights = {"w": RNG.normal(size=(8, 8)).astype(np.float32)}
    path = save_model(nodes, [("x", FLOAT, ["n", 8])], [("y", FLOAT, ["n", 8])], weights)
    feeds = [{"x": RNG.normal(size=(4, 8)).astype(np.float32)}]
    found = reduce_part(path, precision, feeds, calibration=feeds, tolerance=0.2)
    assert "x.fp16.cast" in found.reduced
    assert found.errors[0].max_rel < 0.2
    if found.model is not None:
        onnx.checker.check_model(found.model, full_check=True)
    errors, _ = compare_part(Original(path), precision, run_part(path, feeds), feeds, feeds)
    assert errors[0].max_rel < 0.2


def test_free_rows_of_a_model_that_has_their_names(save_model):
    """A weight called as the freed shape would be, of another content."""
    weights = {"to": np.array([1, 6]), "to.rows": np.array([1, 3, 2])}
    nodes = [node("Reshape", "x to", "h", "first"), node("Reshape", "h to.rows", "y", "second")]
    path = save_model(nodes, [("x", FLOAT, [1, 2, 3])], [("y", FLOAT, [1, 3, 2])], weights)
    freed, _ = with_free_rows(onnx.load(path))
    x = RNG.normal(size=(4, 2, 3)).astype(np.float32)
    (found,) = run_part(freed, [{"x": x}])
    np.testing.assert_array_equal(found["y"], x.reshape(4, 3, 2))


def test_clean_ups_of_a_model_that_has_their_names(save_model):
    kind = TensorProto.UINT8
    nodes = [
        node("Transpose", "x", "t", "turn", perm=[1, 0]),
        node("Cast", "t", "f", "cast", to=FLOAT),
        node("Relu", "f", "f.raised0", "relu"),
        node("Unsqueeze", "f.raised0 at", "u", "more"),
        node("Squeeze", "u", "s", "less"),
        node("Add", "s s.axes", "y", "add"),
    ]
    weights = {"at": np.array([0]), "s.axes": np.float32(5)}
    path = save_model(nodes, [("x", kind, [2, 3])], [("y", FLOAT, [3, 2])], weights)
    feed = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    (expected,) = run_part(path, [feed])
    assert clean(path, [EngineInput(name="x", shapes=((2, 3),) * 3)]) == ("casts", "squeeze")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    (found,) = run_part(path, [feed])
    np.testing.assert_array_equal(found["y"], expected["y"])


def test_carriers_of_a_model_that_has_their_names(save_model):
    """Values and nodes called as the casts at a cut would be, within the part and elsewhere in the model."""
    nodes = [
        node("Cast", "x", "q", "down", to=TensorProto.INT4),
        node("Identity", "x", "q.narrow", "q.narrow.carry"),
        node("Cast", "q", "w", "wide", to=FLOAT),
        node("Add", "w q.narrow", "y", "q.carry"),
    ]
    path = save_model(nodes, [("x", FLOAT, [3])], [("y", FLOAT, [3])], opsets={"": 21})
    graph = load(path)
    x = np.array([-8, 3, 7], np.float32)
    first = extract(graph, ["x"], ["q", "q.narrow"], name="first")
    second = extract(graph, ["q", "q.narrow"], ["y"], name="second")
    assert len({one.name for part in (first, second) for one in part.graph.node} & set(graph.by_name)) == 4, "no name is lost"
    (made,) = run_part(first, [{"x": x}])
    (found,) = run_part(second, [made])
    np.testing.assert_array_equal(found["y"], 2 * x)


def test_a_padded_model_that_has_the_guards_names():
    sides = [[helper.make_tensor_value_info(name, FLOAT, ["n", 2])] for name in ("rows", "missing")]
    nodes = [node("Neg", "rows", "guard/one", "a"), node("Abs", "guard/one", "missing", "b")]
    model = helper.make_model(helper.make_graph(nodes, "g", *sides), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    guarded = padded(model, ["n"])
    onnx.checker.check_model(guarded, full_check=True)
    for rows in (0, 3):
        x = RNG.normal(size=(rows, 2)).astype(np.float32)
        (found,) = run_part(guarded, [{"rows": x}])
        np.testing.assert_array_equal(found["missing"], np.abs(x))
