"""Numbers that float16 does not hold: a mask that no sample masks with, constants, and what the samples show."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from cutset.codegen.precision.error import errors_of, run_narrowed, run_part
from cutset.codegen.precision.floats import Narrowed
from cutset.codegen.precision.ranges import LIMITS, MARGIN, magnitudes, spread
from cutset.codegen.precision.reduce import reduce_part
from cutset.graph.extract import write_part
from cutset.graph.load import load

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)
LOWEST = float(np.finfo(np.float32).min)


def node(op, inputs, outputs, name, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=name, **attributes)


def additive(low):
    """(1 - mask) low is added to the scores, as BERT's exports do."""
    nodes = [node("Cast", "mask", "m", "cast", to=FLOAT), node("Sub", "one m", "inv", "inverse"),
             node("Mul", "inv low", "add", "lowest"), node("Add", "s add", "masked", "apply")]  # fmt: skip
    return nodes, {"low": np.float32(low)}


def chosen(low):
    """Where(mask, scores, low), as torch's masked_fill does."""
    return [node("Cast", "mask", "m", "cast", to=TensorProto.BOOL), node("Where", "m s low", "masked", "apply")], {
        "low": np.float32(low)
    }


def filled(low):
    """The low value comes from a ConstantOfShape, is expanded and moved, and meets the scores in a Min."""
    value = onnx.numpy_helper.from_array(np.array([low], np.float32))
    nodes = [node("Shape", "mask", "size", "shape"), node("ConstantOfShape", "size", "full", "fill", value=value),
             node("Cast", "mask", "m", "cast", to=TensorProto.BOOL), node("Neg", "full", "high", "negative"),
             node("Where", "m high full", "cap", "cap"), node("Min", "s cap", "masked", "apply")]  # fmt: skip
    return nodes, {}


MASKS = {"additive": additive, "chosen": chosen, "filled": filled}


@pytest.fixture
def attention(save_model):
    """Self-attention over eight places of which a mask hides some."""

    def build(kind, low=LOWEST):
        masking, weights = MASKS[kind](low)
        weights |= {name: RNG.normal(0, 0.3, (16, 16)).astype(np.float32) for name in ("q", "k", "o")}
        weights |= {"one": np.float32(1)}
        nodes = [
            node("MatMul", "x q", "xq", "q"),
            node("MatMul", "x k", "xk", "k"),
            node("Transpose", "xk", "kt", "turn", perm=[0, 2, 1]),
            node("MatMul", "xq kt", "s", "scores"),
            *masking,
            node("Softmax", "masked", "p", "softmax", axis=-1),
            node("MatMul", "p x", "mixed", "mix"),
            node("MatMul", "mixed o", "y", "out"),
        ]
        inputs = [("x", FLOAT, ["n", 8, 16]), ("mask", INT64, ["n", 1, 8])]
        return save_model(nodes, inputs, [("y", FLOAT, ["n", 8, 16])], weights)

    return build


def feeds(*masks):
    return [{"x": RNG.normal(size=(2, 8, 16)).astype(np.float32), "mask": np.array(mask)} for mask in masks]


OPEN = np.ones((2, 1, 8), np.int64)
PARTLY = np.array([[[1, 0, 0, 1, 0, 0, 0, 1]], [[1, 1, 1, 1, 0, 0, 0, 0]]])
HIDDEN = np.zeros((2, 1, 8), np.int64)


def run_reduced(found, requests, kind):
    tensors = frozenset(name for one in found.model.graph.node for name in one.output if name.endswith(f".{kind}"))
    tensors |= {weight.name for weight in found.model.graph.initializer if weight.name.endswith(f".{kind}")}
    return run_narrowed(Narrowed(model=found.model, nodes=found.reduced, tensors=tensors), kind, requests)


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
@pytest.mark.parametrize("mask", MASKS)
def test_masks_that_no_sample_uses_stay_finite(attention, mask, kind):
    """The samples hide nothing; the requests hide some places, and all of them."""
    path = attention(mask)
    found = reduce_part(path, kind, feeds(OPEN))
    assert {"q", "k", "scores", "mix", "out"} <= set(found.reduced), "the products are what the type is for"
    assert "apply" in found.beyond
    requests = feeds(PARTLY, HIDDEN)
    expected = run_part(path, requests)
    assert all(np.isfinite(one["y"]).all() for one in expected)
    (error,) = errors_of(expected, run_reduced(found, requests, kind))
    assert error.max_rel <= found.tolerance


def test_an_infinite_mask_is_no_large_number(attention):
    assert reduce_part(attention("chosen", -np.inf), "fp16", feeds(PARTLY)).beyond == ()


def test_a_mask_that_fits_with_a_margin_is_narrow(attention):
    assert reduce_part(attention("additive", -1e4), "fp16", feeds(OPEN)).beyond == ()
    assert reduce_part(attention("additive", -6e4), "fp16", feeds(OPEN)).beyond == ("lowest", "apply")


def test_a_mask_that_another_stage_makes(attention, tmp_path):
    """The constant is in a stage on the CPU: what it can get into is found in the whole model."""
    graph = load(attention("additive"))
    write_part(graph, ["x", "add"], ["y"], tmp_path / "stage.onnx")
    samples = [{"x": feed["x"], "add": np.zeros((2, 1, 8), np.float32)} for feed in feeds(OPEN)]
    assert reduce_part(tmp_path / "stage.onnx", "fp16", samples).beyond == (), "the part alone cannot know"
    assert reduce_part(tmp_path / "stage.onnx", "fp16", samples, whole=graph).beyond == ("apply",)


@pytest.mark.parametrize("opset", [8, 13, 20])
def test_magnitudes_are_those_of_finite_numbers(save_model, opset):
    nodes = [node("Mul", "x w", "a", "mul"), node("Exp", "a", "b", "exp"), node("Log", "x", "y", "log")]
    path = save_model(
        nodes, [("x", FLOAT, ["n"])], [("b", FLOAT, ["n"]), ("y", FLOAT, ["n"])], {"w": np.array([-3], np.float32)},
        opsets={"": opset}, ir_version=8,
    )  # fmt: skip
    runs = [{"x": np.array(values, np.float32)} for values in ([2, -np.inf, 0], [], [-5, np.nan, 1])]
    found = magnitudes(onnx.load(path), dict.fromkeys(("x", "a", "b", "y"), "float32"), runs)
    assert found == {"x": 5, "a": 15, "b": pytest.approx(np.exp(15), rel=1e-5), "y": pytest.approx(np.log(2))}


def test_numbers_of_the_samples_count_with_a_margin(save_model):
    """Half of float16's range on the samples is too much, an eighth is not."""
    for size, expected in ((2, ("a", "b")), (8, ())):
        nodes = [node("Relu", "x", "h", "a"), node("Neg", "h", "i", "b"), node("Sigmoid", "i", "y", "c")]
        path = save_model(nodes, [("x", FLOAT, [1])], [("y", FLOAT, [1])])
        sample = {"x": np.array([65504 / size], np.float32)}
        found = reduce_part(path, "fp16", [sample])
        assert found.beyond == (("a", "b", "c") if expected else ())
    assert LIMITS["fp16"] * MARGIN == 65504
    assert LIMITS["bf16"] * MARGIN == float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Clip", "x low high", "y", "n")], ""),  # bounds make no number large
        ([node("Clip", "x low one", "y", "n"), node("Add", "y low", "z", "m"), node("Clip", "z one high", "w", "o")], "z-"),
        ([node("Pad", "x pads low", "y", "n"), node("MaxPool", "y", "z", "m", kernel_shape=[3])], "y-"),
        ([node("Add", "x low", "y", "n"), node("Exp", "y", "z", "m")], "y-"),
        ([node("Sub", "x low", "y", "n"), node("Exp", "y", "z", "m")], "y+ z+"),
        ([node("Mul", "x low", "y", "n"), node("Softmax", "y", "z", "m")], "y-+"),
        ([node("Mul", "x low", "y", "n"), node("MatMul", "y y", "z", "m")], "y-+"),
        ([node("Add", "x low", "y", "n"), node("Max", "y x", "z", "m"), node("Max", "y low", "w", "o")], "y- w-"),
        ([node("Add", "x low", "y", "n"), node("Cast", "y", "z", "m", to=INT64)], "y-"),
        ([node("Div", "x high", "y", "n")], ""),
        ([node("Frobnicate", "low", "y", "n", domain="acme")], "y-+"),
    ],
)
def test_where_large_constants_get_to(nodes, expected):
    weights = {"low": np.float32(-1e30), "high": np.float32(1e30), "one": np.float32(1), "pads": np.array([1, 1])}
    made = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [4])], [], made)
    found = spread(ir.from_proto(graph), 1e4)
    assert {name: signs for name, signs in found.items() if name not in weights} == {
        word.rstrip("-+"): frozenset(word.lstrip("xyzw")) for word in expected.split()
    }
