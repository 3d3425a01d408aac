"""Stages become files whose interfaces are the plan's and that together compute the whole model."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from cutset.codegen.split import write_stages
from cutset.errors import PlanError
from cutset.graph.load import load
from cutset.partitioner.plan import Part, form_stages
from cutset.profilers.session import open_session, run


def test_the_files_compute_the_whole(cnn_path, tmp_path):
    graph = load(cnn_path)
    names = [node.name for node in graph.placeable]
    parts = [
        Part(device="cpu", nodes=tuple(names[:3])),
        Part(device="gpu", nodes=tuple(names[3:8])),
        Part(device="cpu", nodes=tuple(names[8:])),
    ]
    stages = form_stages(graph, parts)
    files = write_stages(graph, stages, tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [stage.model for stage in stages]
    x = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    values = {"x": x}
    for stage, file in zip(stages, files, strict=True):
        proto = onnx.load(file)
        assert [value.name for value in proto.graph.input] == list(stage.inputs)
        assert [value.name for value in proto.graph.output] == list(stage.outputs)
        values |= run(open_session(file), {name: values[name] for name in stage.inputs})
    np.testing.assert_allclose(values["y"], run(open_session(cnn_path), {"x": x})["y"], rtol=1e-4, atol=1e-6)


def test_a_model_that_computes_nothing(save_model, tmp_path):
    graph = load(save_model([], [("x", TensorProto.FLOAT, [4])], [("x", TensorProto.FLOAT, [4])]))
    with pytest.raises(PlanError, match="computes nothing"):
        write_stages(graph, form_stages(graph, []), tmp_path)
