"""The order of work on a real GPU: what runs at once, what stays there and what is recorded gives what the CPU gives."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.backends import load_stage
from cutset.codegen.runtime.backends.base import BackendError, BackendOptions
from cutset.codegen.runtime.backends.device import DeviceTensor, Parts
from cutset.codegen.runtime.backends.gpu import SLOTS, GpuExecutor, open_gpu
from cutset.codegen.runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Way, open_way
from cutset.codegen.runtime.backends.tensorrt import TensorRtBackend
from cutset.codegen.runtime.config import StageConfig, Wanted
from cutset.codegen.runtime.engine_config import EngineConfig, EngineInput
from cutset.profilers.session import open_session, run
from tests.unit.codegen.runtime.conftest import Package
from tests.unit.codegen.runtime.gpu_pipeline import expected, three_stages

OPTIONS = BackendOptions(intra_op_threads=1, custom_ops=())
LIBRARIES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
SIZES = (3, 32, 32)
RUNS = 30


def network(folder: Path, rows: int | str, extra: list[NodeProto] | None = None, **stage) -> StageConfig:
    """Return a stage of two convolutions; `extra` nodes make `u` of its result `y`."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 10, name)
        for name, shape in (("v", (16, 3, 3, 3)), ("w", (8, 16, 3, 3)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["c"], name="first", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w"], ["y"], name="second", pads=[1] * 4),
        *(extra or []),
    ]
    shapes = {"x": [rows, *SIZES], "y": [rows, 8, 32, 32], "u": ["count"]}
    outputs = ["y", "u"] if extra else ["y"]
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in names] for names in (["x"], outputs)
    ]
    graph = helper.make_graph(nodes, "g", *sides, weights)
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    given = {"index": 0, "device": "gpu", "backend": "onnxruntime-cuda", "model": path, "inputs": ("x",), "service_s": 0.0}
    return StageConfig(**{**given, "outputs": tuple(outputs), **stage})


def image(seed: int, rows: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, *SIZES), np.float32)


def check(backend, session, seeds, rows=2) -> None:
    """Run from as many threads as the backend takes; every answer is that of the CPU."""

    def work(seed: int) -> None:
        feeds = {"x": image(seed, rows)}
        found, right = backend.run(feeds), run(session, feeds, ["y"])["y"]
        assert np.allclose(found["y"], right, rtol=1e-2, atol=2e-2)  # tf32, in places

    with ThreadPoolExecutor(backend.slots) as threads:
        list(threads.map(work, seeds))


@pytest.fixture
def gpu(needs) -> Iterator[GpuExecutor]:
    """Return the executor of the GPU, with a count of its allocations."""
    needs("nvidia-driver")
    executor = open_gpu()
    yield executor
    executor.close()


@pytest.fixture
def allocations(gpu, monkeypatch) -> list[int]:
    found: list[int] = []
    for memory in (gpu.memory, gpu.pinned):
        monkeypatch.setattr(memory, "_allocate", lambda size, real=memory._allocate: found.append(size) or real(size))
    return found


def check_memory_is_used_again(backend, session, allocations) -> None:
    warm = len(allocations)
    check(backend, session, range(RUNS, 2 * RUNS))
    assert len(allocations) - warm <= 4 * SLOTS, "memory is used again"
    backend.close()


@pytest.mark.parametrize("rows", [2, "n"], ids=["fixed", "any rows"])
@pytest.mark.parametrize("way", Way)
def test_every_way_of_the_cuda_provider(needs, gpu, allocations, tmp_path, way, rows):
    needs("onnxruntime-cuda")
    stage = network(tmp_path, rows)
    gpu.users += 1

    def only(wanted: Way):
        if list(Way).index(wanted) < list(Way).index(way):
            raise BackendError("not asked for")
        return open_way(stage, OPTIONS, gpu, None, wanted)

    backend = OnnxRuntimeCudaBackend(gpu, stage, only)
    assert backend.way is (Way.QUEUED if (way, rows) == (Way.GRAPH, "n") else way), backend.refused
    session = open_session(stage.model)
    check(backend, session, range(RUNS))
    check_memory_is_used_again(backend, session, allocations)


def test_a_session_for_each_size_of_a_batch(needs, gpu, tmp_path):
    needs("onnxruntime-cuda")
    stage = network(tmp_path, "n", batchable=True, rows_axis="n")
    backend = load_stage(stage, OPTIONS)
    assert [(rows, one.way) for rows, one in backend.sized.items()] == [(rows, Way.GRAPH) for rows in (1, 2, 4, 8)]
    session = open_session(stage.model)
    for rows in (1, 3, 8, 5, 9):
        check(backend, session, range(RUNS), rows)
    backend.close()


def test_nodes_on_the_cpu_inside_a_gpu_stage(needs, gpu, tmp_path):
    needs("onnxruntime-cuda")
    extra = [helper.make_node("Round", ["y"], ["rounded"]), helper.make_node("Unique", ["rounded"], ["u"])]
    stage = network(tmp_path, "n", extra)
    backend = OnnxRuntimeCudaBackend.load(stage, OPTIONS)
    assert backend.way is Way.AWAITED
    assert set(backend.refused) == {Way.GRAPH, Way.QUEUED}
    for seed in range(3):
        feeds = {"x": image(seed)}
        found, right = backend.run(feeds), run(open_session(stage.model), feeds, ["y"])["y"]
        assert np.allclose(found["y"], right, rtol=1e-2, atol=2e-2)
        assert found["u"].tolist() == np.unique(np.round(found["y"])).tolist()
    backend.close()


@pytest.mark.parametrize("backend_name", LIBRARIES)
@pytest.mark.parametrize("most", [2, 8], ids=["fixed", "any rows"])
def test_engines_on_the_same_streams(gpu, allocations, tmp_path, backend_name, most):
    if importlib.util.find_spec(LIBRARIES[backend_name]) is None:
        pytest.skip(f"{backend_name} is not installed")
    given = EngineInput(name="x", shapes=((2, *SIZES), (2, *SIZES), (most, *SIZES)))
    stage = network(tmp_path, 2 if most == 2 else "n", backend=backend_name)
    engine = EngineConfig(
        backend=backend_name, model=stage.model, folder=tmp_path / "engines", precision="fp32", inputs=(given,)
    )
    backend = TensorRtBackend.load(network(tmp_path, 2 if most == 2 else "n", backend=backend_name, engine=engine), OPTIONS)
    session = open_session(stage.model)
    check(backend, session, range(RUNS))
    assert backend.no_graph is None
    assert 1 <= len(backend._graphs) <= SLOTS
    if most == 8:
        check(backend, session, range(4), rows=8)
    check_memory_is_used_again(backend, session, allocations)


def test_tensors_stay_on_the_gpu_and_batches_are_joined_there(needs, gpu, tmp_path):
    needs("onnxruntime-cuda")
    for number, rows in enumerate((2, "n")):
        folder = tmp_path / str(number)
        folder.mkdir()
        stage = network(folder, rows, wanted={"y": Wanted.DEVICE})
        backend = OnnxRuntimeCudaBackend.load(stage, OPTIONS)
        session = open_session(stage.model)
        kept = [backend.run({"x": Parts([image(seed, 1), image(seed + 1, 1)])})["y"] for seed in range(8)]
        for seed, tensor in enumerate(kept):
            assert isinstance(tensor, DeviceTensor)
            feeds = {"x": np.concatenate([image(seed, 1), image(seed + 1, 1)])}
            assert np.allclose(tensor.numpy(), run(session, feeds, ["y"])["y"], rtol=1e-2, atol=2e-2)
            assert np.array_equal(tensor[1:].numpy(), tensor.numpy()[1:])
        backend.close()


@pytest.mark.parametrize("rows", [1, "n"], ids=["fixed", "any rows"])
def test_a_pipeline_over_gpu_cpu_and_gpu(needs, tmp_path, rows):
    needs("onnxruntime-cuda")
    folder = three_stages(partial(Package, tmp_path / "package"), rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every stage is where it was planned
        pipeline = Pipeline.load(folder, tokens=6, cpu_workers=2)
    with pipeline:
        items = [{"x": np.full((1, 2), number, np.float32)} for number in range(300)]
        for item, found in zip(items, pipeline.map(items), strict=True):
            for name, value in expected(item["x"]).items():
                assert found[name].tolist() == value.tolist()
        assert [stage.replaced for stage in pipeline.stats().stages] == [0, 0, 0]
