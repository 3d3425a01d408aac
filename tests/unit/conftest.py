"""Small ONNX files for the tests of every package."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


class SaveModel(Protocol):
    """Saves a model made of nodes in a folder of its own and returns its path.

    An input or output is ``(name, element type, shape)`` or a ready ValueInfoProto.
    """

    def __call__(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        weights: Mapping[str, Any] | None = None,
        *,
        opsets: Mapping[str, int] | None = None,
        ir_version: int = 10,
        functions: Sequence[onnx.FunctionProto] = (),
        name: str = "m",
    ) -> Path: ...


def _infos(values: Sequence[Any]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(*value) if isinstance(value, tuple) else value for value in values]


@pytest.fixture(scope="session")
def save_model(tmp_path_factory: pytest.TempPathFactory) -> SaveModel:
    """Return a function that saves a model."""

    def save(nodes, inputs, outputs, weights=None, *, opsets=None, ir_version=10, functions=(), name="m"):
        initializers = [numpy_helper.from_array(np.asarray(array), key) for key, array in (weights or {}).items()]
        graph = helper.make_graph(list(nodes), "g", _infos(inputs), _infos(outputs), initializers)
        imports = [helper.make_opsetid(domain, version) for domain, version in (opsets or {"": 20}).items()]
        model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=functions)
        path = tmp_path_factory.mktemp("model") / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return save


@pytest.fixture(scope="session")
def cnn_path(save_model: SaveModel) -> Path:
    """Return a small convolutional network with a free batch: two blocks that onnxruntime fuses, pooling and a classifier."""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.normal(0, 0.2, (8, 3, 3, 3)).astype(np.float32),
        "b1": rng.normal(0, 0.2, 8).astype(np.float32),
        "w2": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
        "fc": rng.normal(0, 0.2, (8, 5)).astype(np.float32),
        "bias": np.ones(5, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a2"], name="skip"),
        helper.make_node("Relu", ["a2"], ["r2"], name="relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "fc"], ["m"], name="dense"),
        helper.make_node("Add", ["m", "bias"], ["s"], name="bias_add"),
        helper.make_node("Softmax", ["s"], ["y"], name="softmax"),
    ]
    shape = ["N", 3, 16, 16]
    return save_model(nodes, [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, ["N", 5])], weights, name="cnn")


@pytest.fixture(scope="session")
def if_path(save_model: SaveModel) -> Path:
    """Return a model with an If inside an If, both of which read values of the main graph."""
    deep = helper.make_graph(
        [helper.make_node("Mul", ["h", "scale"], ["v0"], name="inner")],
        "deep",
        [],
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["v1"], name="inner")],
        "other",
        [],
        [helper.make_tensor_value_info("v1", TensorProto.FLOAT, None)],
    )
    then = helper.make_graph(
        [helper.make_node("If", ["flag"], ["v2"], then_branch=deep, else_branch=other)],
        "then",
        [],
        [helper.make_tensor_value_info("v2", TensorProto.FLOAT, None)],
    )
    other_wise = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["v3"], name="outer")],
        "else",
        [],
        [helper.make_tensor_value_info("v3", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["h"], name="outer"),
        helper.make_node("ReduceMax", ["x"], ["top"], name="top", keepdims=0),
        helper.make_node("Greater", ["top", "zero"], ["flag"], name="flag"),
        helper.make_node("If", ["flag"], ["y"], name="branch", then_branch=then, else_branch=other_wise),
    ]
    weights = {"zero": np.float32(0), "scale": np.float32(2)}
    return save_model(nodes, [("x", TensorProto.FLOAT, [2, 4])], [("y", TensorProto.FLOAT, [2, 4])], weights, name="branchy")


@pytest.fixture(scope="session")
def zipmap_path(save_model: SaveModel) -> Path:
    """Return a classifier as scikit-learn exporters write it: a label and a sequence of maps from class to probability."""
    maps = onnx.ValueInfoProto(name="probabilities")
    element = maps.type.sequence_type.elem_type.map_type
    element.key_type = TensorProto.INT64
    element.value_type.tensor_type.elem_type = TensorProto.FLOAT
    element.value_type.tensor_type.shape.SetInParent()
    nodes = [
        helper.make_node(
            "LinearClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", name="linear", classlabels_ints=[0, 1, 2],
            coefficients=[float(i % 5) - 2 for i in range(12)], intercepts=[0.1, 0.2, 0.3], post_transform="SOFTMAX",
        ),
        helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", name="zip", classlabels_int64s=[0, 1, 2]),
    ]  # fmt: skip
    outputs = [("label", TensorProto.INT64, [None]), maps]
    opsets = {"": 15, "ai.onnx.ml": 1}
    return save_model(nodes, [("x", TensorProto.FLOAT, [None, 4])], outputs, opsets=opsets, ir_version=8, name="iris")


@pytest.fixture(scope="session")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for LD_LIBRARY_PATH that holds a CUDA driver made of host memory, where there is a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for CUDA's driver with")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_cuda.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "libcuda.so.1", source], check=True)
    return folder
