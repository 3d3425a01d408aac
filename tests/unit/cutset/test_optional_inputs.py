"""An input with a default stays an input; weights that an exporter listed as inputs, too, become weights."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.extract import extract
from cutset.graph.load import load

FLOAT = TensorProto.FLOAT
KERNEL = np.ones((8, 3, 3, 3), np.float32)


def scaled_conv(save_model, listed, *, ir_version=8, weights=None, **more):
    """Save relu(conv(x, w) * gain), whose initializers `listed` are inputs as well."""
    weights = {"w": KERNEL, "gain": np.array([2], np.float32)} if weights is None else weights
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Mul", ["a", "gain"], ["b"], name="mul"),
        helper.make_node("Relu", ["b"], ["y"], name="relu"),
    ]
    kinds = {"w": (FLOAT, KERNEL.shape), "gain": (FLOAT, (1,))} | more
    inputs = [("x", FLOAT, ["n", 3, 4, 4]), *((name, *kinds[name]) for name in listed)]
    return save_model(nodes, inputs, [("y", FLOAT, None)], weights, opsets={"": 9}, ir_version=ir_version)


def test_a_chosen_input_keeps_its_default_and_is_no_constant(save_model):
    path = scaled_conv(save_model, ["gain"])
    graph = load(path)
    assert [(spec.name, None if spec.default is None else spec.default.tolist()) for spec in graph.inputs] == [
        ("x", None),
        ("gain", [2.0]),
    ]
    assert (graph.initializers, graph.frozen_inputs) == ({"w"}, ())
    part = extract(graph, ["x", "gain"], ["y"], name="part")
    feeds = {"x": np.ones((1, 3, 4, 4), np.float32), "gain": np.array([5], np.float32)}
    found, expected = (
        ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for model in (part.SerializeToString(), str(path))
    )
    assert np.array_equal(found, expected)
    assert found.max() == 27 * 5


@pytest.mark.parametrize(
    ("listed", "ir_version", "inputs", "frozen"),
    [
        ((), 8, ["x"], ()),
        (("w", "gain"), 8, ["x"], ("w", "gain")),
        (("w",), 8, ["x"], ("w",)),
        (("w", "gain"), 3, ["x"], ()),
        (("gain",), 4, ["x", "gain"], ()),
    ],
    ids=["none", "every one", "every weight", "before IR 4", "a chosen one"],
)
def test_listed_weights_are_frozen(save_model, listed, ir_version, inputs, frozen):
    graph = load(scaled_conv(save_model, listed, ir_version=ir_version))
    assert [spec.name for spec in graph.inputs] == inputs
    assert graph.frozen_inputs == frozen


def test_without_weights_every_listed_input_was_chosen(save_model):
    nodes = [helper.make_node("Mul", ["x", "gain"], ["y"])]
    inputs = [("x", FLOAT, [4]), ("gain", FLOAT, [1])]
    graph = load(save_model(nodes, inputs, [("y", FLOAT, [4])], {"gain": np.ones(1, np.float32)}))
    assert [spec.name for spec in graph.inputs] == ["x", "gain"]


def test_a_weight_among_others_that_are_not_listed_was_chosen(save_model):
    """As adapters are that a request brings along."""
    nodes = [helper.make_node("MatMul", ["x", "base"], ["a"]), helper.make_node("MatMul", ["a", "adapter"], ["y"])]
    inputs = [("x", FLOAT, [1, 16]), ("adapter", FLOAT, [16, 16])]
    weights = {"base": np.eye(16, dtype=np.float32), "adapter": np.eye(16, dtype=np.float32)}
    graph = load(save_model(nodes, inputs, [("y", FLOAT, [1, 16])], weights))
    assert [spec.name for spec in graph.inputs] == ["x", "adapter"]
    assert graph.initializers == {"base"}


def test_a_default_beside_the_model_is_read(save_model):
    path = scaled_conv(save_model, ["gain"])
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="m.data", size_threshold=0)
    graph = load(path)
    assert graph.inputs[1].default.tolist() == [2.0]
    assert path.with_name("m.data") in graph.files


def test_a_default_of_a_type_that_no_request_carries_is_frozen(save_model):
    model = onnx.load(scaled_conv(save_model, ["gain"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.complex64), "phase"))
    model.graph.input.append(helper.make_tensor_value_info("phase", TensorProto.COMPLEX64, [1]))
    path = scaled_conv(save_model, [])
    path.write_bytes(model.SerializeToString())
    graph = load(path)
    assert [spec.name for spec in graph.inputs] == ["x", "gain"]
    assert graph.frozen_inputs == ("phase",)


def test_metadata_is_in_every_part(save_model):
    path = scaled_conv(save_model, [])
    model = onnx.load(path)
    helper.set_model_props(model, {"names": "{0: 'cat'}", "</script>": "\x00é\n" * 3})
    path.write_bytes(model.SerializeToString())
    graph = load(path)
    assert graph.metadata == {"names": "{0: 'cat'}", "</script>": "\x00é\n" * 3}
    part = extract(graph, ["x"], ["a"], name="part")
    assert {entry.key: entry.value for entry in part.metadata_props} == graph.metadata
