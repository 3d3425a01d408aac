"""Sparse weights are what onnxruntime makes of them, and a broken one is refused in one sentence."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.errors import ModelError
from cutset.graph.extract import extract
from cutset.graph.load import load

FLOAT = TensorProto.FLOAT


def sparse(values, indices, sizes, name="w"):
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.asarray(values), name), numpy_helper.from_array(np.asarray(indices, np.int64)), sizes
    )


def saved(path, tensor, *, held=""):
    """Save x + w with a sparse w: an initializer, of a body, or in a node."""
    add = helper.make_node("Add", ["x", "w"], ["y"], name="sum")
    x, y = (helper.make_tensor_value_info(name, FLOAT, [2, 3]) for name in "xy")
    if held == "node":
        nodes = [helper.make_node("Constant", [], ["w"], sparse_value=tensor, name="held"), add]
        graph = helper.make_graph(nodes, "g", [x], [y])
    elif held == "body":
        body = helper.make_graph([add], "b", [], [y], sparse_initializer=[tensor])
        flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
        node = helper.make_node("If", ["flag"], ["out"], then_branch=body, else_branch=body)
        graph = helper.make_graph([node], "g", [x, flag], [helper.make_tensor_value_info("out", FLOAT, [2, 3])])
    else:
        graph = helper.make_graph([add], "g", [x], [y], sparse_initializer=[tensor])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString())
    return path


@pytest.mark.parametrize("held", ["", "node", "body"])
@pytest.mark.parametrize("indices", [[1, 5], [[0, 1], [1, 2]]], ids=["flat", "by axis"])
def test_a_sparse_weight_is_the_dense_one(tmp_path, indices, held):
    path = saved(tmp_path / "m.onnx", sparse(np.array([3, 4], np.float32), indices, [2, 3]), held=held)
    graph = load(path)
    part = extract(graph, [s.name for s in graph.inputs], [s.name for s in graph.outputs], name="part")
    feeds = {"x": np.ones((2, 3), np.float32)} | ({"flag": np.array(True)} if held == "body" else {})
    (found,) = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert found.tolist() == [[1, 4, 1], [1, 1, 5]]
    (whole,) = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert np.array_equal(whole, found)


def test_a_sparse_weight_of_nothing_but_zeros(tmp_path):
    path = saved(tmp_path / "m.onnx", sparse(np.zeros(0, np.float32), np.zeros(0), [2, 3]))
    part = extract(load(path), ["x"], ["y"], name="part")
    assert not numpy_helper.to_array(part.graph.initializer[0]).any()


@pytest.mark.parametrize(
    ("values", "indices", "sizes", "cause"),
    [
        ([3, 4], [1, 6], [2, 3], "do not fit"),
        ([3, 4], [-1, 2], [2, 3], "do not fit"),
        ([3, 4], [1], [2, 3], "1 indices for 2 values"),
        ([3, 4], [[0, 1, 2], [0, 1, 2]], [2, 3], "its indices have the shape [2, 3]"),
        ([3], [[0, 7]], [2, 3], "invalid"),
        ([3], [0], [-2, 3], "negative"),
    ],
)
def test_a_broken_one_is_refused(tmp_path, values, indices, sizes, cause):
    path = saved(tmp_path / "m.onnx", sparse(np.array([3, 4], np.float32), [1, 5], [2, 3]))
    model = onnx.load(path)
    model.graph.sparse_initializer[0].CopyFrom(sparse(np.array(values, np.float32), indices, sizes))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="a sparse weight cannot be read") as caught:
        load(path)
    assert cause in caught.value.cause
    assert "initializer `w`" in caught.value.where


def test_a_huge_one_is_refused_before_it_is_made(tmp_path):
    path = saved(tmp_path / "m.onnx", sparse(np.array([3], np.float32), [1], [2**20, 2**20]))
    with pytest.raises(ModelError, match=r"4096\.0 GiB when dense"):
        load(path)
