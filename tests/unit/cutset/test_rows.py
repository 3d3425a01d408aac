"""A model of one sample gets rows; what that changes is nothing but sizes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.rows import with_fixed_rows, with_free_rows
from cutset.profilers.session import open_session, run


def reshaping(target: list[int], *, constant: bool = False, **attributes: int) -> onnx.ModelProto:
    """A model y = reshape(2 x), whose shape a `Constant` or a weight says; something else reads it too."""
    shape = numpy_helper.from_array(np.array(target, np.int64), "shape")
    nodes = [
        helper.make_node("Add", ["x", "x"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["y"], **attributes),
        helper.make_node("Neg", ["shape"], ["other"]),
    ]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["shape"], value=shape))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 6])
    inferred = [helper.make_tensor_value_info("d", TensorProto.FLOAT, [1, 2, 3])]
    graph = helper.make_graph(nodes, "g", [x], [y], [] if constant else [shape], value_info=inferred)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.mark.parametrize("constant", [False, True], ids=["weight", "constant"])
@pytest.mark.parametrize("target", [[1, 6], [1, -1], [-1, 6], [0, 6]])
def test_any_number_of_rows(tmp_path, target, constant):
    model = reshaping(target, constant=constant)
    before = model.SerializeToString()
    freed, axis = with_free_rows(model)
    assert model.SerializeToString() == before, "the model given stays as it is"
    onnx.checker.check_model(freed, full_check=True)
    for rows in (1, 3):
        for index, one in enumerate((freed, with_fixed_rows(freed, axis, rows))):
            onnx.save(one, str(tmp_path / f"{rows}-{index}.onnx"))
            session = open_session(tmp_path / f"{rows}-{index}.onnx")
            assert session.get_inputs()[0].shape == [rows if index else axis, 2, 3]
            x = np.arange(6 * rows, dtype=np.float32).reshape(rows, 2, 3)
            np.testing.assert_array_equal(run(session, {"x": x})["y"], 2 * x.reshape(rows, 6))


def test_zero_that_means_zero_is_not_written():
    freed, _ = with_free_rows(reshaping([1, 6], allowzero=1))
    assert next(node for node in freed.graph.node if node.op_type == "Reshape").input[1] == "shape"


def test_the_name_of_the_dimension_is_new():
    model = reshaping([1, 6])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "rows"
    assert with_free_rows(model)[1] == "rows_"
