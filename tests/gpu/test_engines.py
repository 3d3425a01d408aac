"""Engines on a real GPU: what they compute, from the cache and after a rebuild, is what onnxruntime computes."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.runtime.backends.base import BackendOptions
from cutset.codegen.runtime.backends.engine_cache import EngineCache
from cutset.codegen.runtime.backends.tensorrt import TensorRtBackend
from cutset.codegen.runtime.config import StageConfig
from cutset.codegen.runtime.engine_config import EngineConfig, EngineInput
from cutset.profilers.session import open_session, run

SHAPES = {"x": ["n", 3, 16, 16], "y": ["n", 8, 1, 1]}
LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


@pytest.mark.parametrize("backend", LIBRARIES)
def test_an_engine_computes_what_onnxruntime_does(backend, needs, tmp_path):
    needs("nvidia-driver")
    if importlib.util.find_spec(LIBRARIES[backend]) is None:
        pytest.skip(f"{backend} is not installed")
    model = tmp_path / "m.onnx"
    weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["y"], name="pool"),
    ]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in SHAPES.items()]
    graph = helper.make_graph(nodes, "g", *sides, [numpy_helper.from_array(weight, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    session = open_session(model)
    sizes = (3, 16, 16)
    engine = EngineConfig(
        backend=backend,
        model=model,
        folder=tmp_path / "engines",
        precision="fp32",
        inputs=(EngineInput(name="x", shapes=((1, *sizes), (2, *sizes), (8, *sizes))),),
    )
    stage = StageConfig(
        index=0, device="gpu", backend=backend, model=model, inputs=("x",), outputs=("y",), service_s=0.0,
        engine=engine,
    )  # fmt: skip
    for _ in range(2):  # built, then from the cache
        loaded = TensorRtBackend.load(stage, BackendOptions(intra_op_threads=1, custom_ops=()))
        for rows in (1, 8, 3):
            feeds = {"x": np.random.default_rng(rows).random((rows, *sizes), np.float32)}
            expected = run(session, feeds, ["y"])["y"]
            assert np.allclose(loaded.run(feeds)["y"], expected, rtol=1e-3, atol=1e-4)
        loaded.close()
    assert len(EngineCache(engine.folder).entries()) == 1
