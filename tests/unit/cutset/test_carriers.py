"""Values of types that numpy lacks cross a cut as a wider type, and come back as they were: infinities and all."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cutset.graph.extract import extract
from cutset.graph.load import load

TYPES = ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "INT4", "UINT4"]
SPECIAL = np.array([0.0, -0.0, 1.5, -3.25, 2.0**-16, 57344.0, 7.0, 15.0, -8.0, np.inf, -np.inf, np.nan], np.float32)


def run(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


@pytest.fixture
def narrowed(tmp_path):
    """A model that casts its input to an element type, hands it on, and casts it back."""

    def build(kind):
        special = {"saturate": 0} if kind.startswith("FLOAT8") else {}
        nodes = [
            helper.make_node("Cast", ["x"], ["a"], to=TensorProto.DataType.Value(kind), **special),
            helper.make_node("Identity", ["a"], ["b"]),
            helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
        ]
        value = helper.make_tensor_value_info
        graph = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["n"])], [value("y", TensorProto.FLOAT, ["n"])])
        path = tmp_path / "m.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
        return path

    return build


@pytest.mark.parametrize("kind", TYPES)
def test_three_parts_equal_the_whole(narrowed, kind):
    path = narrowed(kind)
    graph = load(path)
    x = SPECIAL if kind.startswith("FLOAT8") else SPECIAL[np.isfinite(SPECIAL)]
    (expected,) = run(onnx.load(path), {"x": x})
    value = x
    for source, target in [("x", "a"), ("a", "b"), ("b", "y")]:
        part = extract(graph, [source], [target], name=target)
        assert [entry.name for entry in part.graph.input] == [source]
        assert [entry.name for entry in part.graph.output] == [target]
        (value,) = run(part, {source: value})
    np.testing.assert_array_equal(value, expected)


def test_the_carrier_keeps_symbolic_sizes(narrowed):
    part = extract(load(narrowed("FLOAT8E5M2")), ["a"], ["b"], name="b")
    for entry in (*part.graph.input, *part.graph.output):
        assert entry.type.tensor_type.elem_type == TensorProto.FLOAT16
        assert entry.type.tensor_type.shape.dim[0].dim_param == "n"


def test_types_of_the_whole_model_are_left_alone(tmp_path):
    value = helper.make_tensor_value_info
    kind = TensorProto.FLOAT8E5M2
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value("x", kind, [2])], [value("y", kind, [2])]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    part = extract(load(tmp_path / "m.onnx"), ["x"], ["y"], name="p")
    assert [entry.type.tensor_type.elem_type for entry in (*part.graph.input, *part.graph.output)] == [kind, kind]
    assert len(part.graph.node) == 1
