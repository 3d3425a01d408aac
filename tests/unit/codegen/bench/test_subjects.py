"""The unsplit model as one engine: what is asked of the library is what it builds, for a GPU that is not here."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.codegen.bench.subjects import whole_engine
from cutset.codegen.runtime.backends.engine_build import BuildJob, build_apart
from cutset.codegen.runtime.config import StageConfig

SAMPLE = {"x": np.ones((2, 6), np.float32), "to": np.array([3, 4])}


@pytest.fixture
def whole(tmp_path):
    """Return a model with an input that is a shape, as one stage."""
    path = tmp_path / "m.onnx"
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6]),
        helper.make_tensor_value_info("to", TensorProto.INT64, [2]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])]
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Reshape", ["r", "to"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return StageConfig(
        index=0, device="cpu", backend="onnxruntime-cpu", model=path, inputs=("x", "to"), outputs=("y",), service_s=0.0
    )


def test_an_engine_is_asked_for_the_sample_s_shapes(whole, tmp_path):
    x, to = whole_engine(whole, "tensorrt-rtx", tmp_path, SAMPLE | {"x": np.ones((2, 6), np.int32)}).inputs
    assert (x.shapes, x.values) == (((2, 6),) * 3, ((),) * 3)  # too many elements for a shape
    assert (to.shapes, to.values) == (((2,),) * 3, ((3, 4),) * 3)


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_library_builds_it(whole, tmp_path):
    engine = whole_engine(whole, "tensorrt-rtx", tmp_path, SAMPLE)
    target = tmp_path / "plan.engine"
    job = BuildJob(
        model=str(engine.model), engine=str(target), backend=engine.backend, inputs=engine.inputs, compute_capability="8.9"
    )
    assert build_apart(job).size_bytes == target.stat().st_size > 0
