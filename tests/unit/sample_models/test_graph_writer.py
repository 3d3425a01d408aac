from __future__ import annotations

import numpy as np
import onnx
import pytest

from cutset.sample_models.graph_writer import IR_VERSION, GraphWriter, value


def test_a_chain_is_named_after_its_nodes() -> None:
    writer = GraphWriter("g")
    one = writer.constant("one", 1, np.float32)
    writer.node("Relu", [writer.node("Add", ["x", one], "sum")], "y")
    model = writer.model([value("x", np.float32, ["n"])], [value("y", np.float32, ["n"])])
    assert [(node.name, list(node.output)) for node in model.graph.node] == [("sum", ["sum"]), ("y", ["y"])]
    assert model.ir_version == IR_VERSION
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "n"


def test_a_node_of_many_outputs_is_named_after_the_first() -> None:
    writer = GraphWriter("g")
    k = writer.constant("k", [1], np.int64)
    assert writer.nodes("TopK", ["x", k], ["best", "index"], axis=0) == ("best", "index")
    model = writer.model([value("x", np.float32, [4])], [value("index", np.int64, [1])])
    assert model.graph.node[0].name == "best"


def test_an_invalid_graph_is_refused() -> None:
    writer = GraphWriter("g")
    writer.node("Relu", ["nowhere"], "y")
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        writer.model([value("x", np.float32, [1])], [value("y", np.float32, [1])])
