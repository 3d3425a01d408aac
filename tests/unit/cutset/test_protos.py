"""Models with more weights than a message holds; here a message holds next to nothing."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.engines.cleanup import clean
from cutset.codegen.precision.error import run_part
from cutset.codegen.precision.reduce import reduce_part
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.graph import protos

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


@pytest.fixture
def large():
    """Two products whose weights are over a KiB, a small weight, one that is given element by element, and a text."""
    weights = [numpy_helper.from_array(RNG.normal(0, 0.2, (32, 32)).astype(np.float32), name) for name in ("w0", "w1")]
    weights.append(numpy_helper.from_array(np.array([1, 32]), "small"))
    spelled = RNG.normal(0, 0.2, (1, 512)).astype(np.float32)
    weights.append(helper.make_tensor("spelled", FLOAT, spelled.shape, spelled.ravel().tolist()))
    weights.append(helper.make_tensor("text", TensorProto.STRING, [1], [b"t" * 2000]))
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="mm0"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], name="mm1"),
        helper.make_node("ReduceMax", ["spelled"], ["top"], name="top", keepdims=0),
        helper.make_node("Add", ["c", "top"], ["y"], name="add"),
        helper.make_node("Identity", ["text"], ["t"], name="said"),
    ]
    outputs = [
        helper.make_tensor_value_info("y", FLOAT, ["n", 32]),
        helper.make_tensor_value_info("t", TensorProto.STRING, [1]),
    ]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", FLOAT, ["n", 32])], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.metadata_props.add(key="k", value="v")
    return model


@pytest.fixture
def tiny_messages(monkeypatch):
    monkeypatch.setattr(protos, "MOST_INSIDE_BYTES", 100)


FEEDS = [{"x": RNG.normal(size=(3, 32)).astype(np.float32)}]


def test_a_copy_is_equal(large):
    assert protos.copy_model(large) == large
    assert not protos.shell(large).graph.initializer
    assert protos.shell(large).graph.node == large.graph.node


def test_what_inference_and_conversion_see(large):
    light = protos.without_large_weights(large)
    assert [weight.name for weight in light.graph.initializer] == ["small"]
    assert [value.name for value in light.graph.input] == ["x", "w0", "w1", "spelled", "text"]
    onnx.checker.check_model(light, full_check=True)
    again = protos.with_large_weights(light, large.graph.initializer)
    assert {weight.name: weight for weight in again.graph.initializer} == {w.name: w for w in large.graph.initializer}
    assert [value.name for value in again.graph.input] == ["x"]


def test_weights_beside_the_model(large, tmp_path, tiny_messages):
    before = protos.copy_model(large)
    protos.write_model(large, tmp_path / "m.onnx")
    assert large == before, "the model in memory keeps its weights"
    outside = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert [weight.name for weight in outside.graph.initializer if weight.external_data] == ["w0", "w1", "spelled"]
    assert (tmp_path / "m.onnx.data").stat().st_size == 2 * 32 * 32 * 4 + 512 * 4
    loaded = onnx.load(tmp_path / "m.onnx")
    for mine, theirs in zip(loaded.graph.initializer, large.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(mine), numpy_helper.to_array(theirs))
    assert loaded.metadata_props == large.metadata_props
    protos.write_model(large, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx.data").stat().st_size == 2 * 32 * 32 * 4 + 512 * 4, "written anew, not added to"


def test_a_small_model_leaves_no_old_weights_behind(large, tmp_path):
    (tmp_path / "m.onnx.data").write_bytes(b"old")
    protos.write_model(large, tmp_path / "m.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16", "int8"])
def test_every_precision_of_weights_beside_the_model(large, tmp_path, tiny_messages, precision):
    del large.graph.output[1], large.graph.node[-1], large.graph.initializer[-1]
    path = tmp_path / "m.onnx"
    protos.write_model(large, path)
    assert path.with_name("m.onnx.data").exists()
    found = reduce_part(path, precision, FEEDS, calibration=FEEDS, tolerance=0.2)
    assert {"mm0", "mm1"} <= set(found.reduced)
    assert 0 < found.errors[0].max_rel < 0.2
    if found.model is not None:
        protos.write_model(found.model, tmp_path / "reduced.onnx")
        assert (tmp_path / "reduced.onnx.data").exists()
        onnx.checker.check_model(str(tmp_path / "reduced.onnx"), full_check=True)


def test_cleaning_reads_only_the_weights_it_folds(large, tmp_path, tiny_messages, monkeypatch):
    """The products' weights are read by no constant node: they stay on disk."""
    del large.graph.output[1], large.graph.node[-1], large.graph.initializer[-1]
    path = tmp_path / "m.onnx"
    protos.write_model(large, path)
    (expected,) = run_part(path, FEEDS)
    read = []
    real = onnx.load_external_data_for_model
    monkeypatch.setattr(
        onnx, "load_external_data_for_model", lambda model, folder: (read.extend(model.graph.initializer), real(model, folder))
    )
    assert clean(path, [EngineInput.fixed("x", (3, 32))]) == ("constants",)
    assert [weight.name for weight in read] == ["spelled"]
    (found,) = run_part(path, FEEDS)
    np.testing.assert_array_equal(found["y"], expected["y"])
