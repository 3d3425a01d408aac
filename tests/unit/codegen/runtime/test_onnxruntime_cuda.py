"""The CUDA provider's stage over the CPU provider on a device of host memory; and what the real library is told."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import ml_dtypes
import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from cutset.codegen.runtime import DegradedWarning, Pipeline, StageError
from cutset.codegen.runtime.backends import onnxruntime_cuda
from cutset.codegen.runtime.backends.base import BackendDied, BackendError
from cutset.codegen.runtime.backends.device import DeviceTensor, Parts, as_array
from cutset.codegen.runtime.backends.gpu import GRAPHS, GpuExecutor
from cutset.codegen.runtime.backends.onnxruntime import CPU, open_session
from cutset.codegen.runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Way
from cutset.codegen.runtime.backends.sized import SizedBackend
from cutset.codegen.runtime.config import Wanted
from cutset.codegen.runtime.schedule import places
from cutset.profilers.ort_child import CUDA_OPTIONS
from tests.unit.codegen.runtime.gpu_pipeline import OPTIONS, expected, on_host_memory, stand_in, three_stages
from tests.unit.codegen.runtime.host_device import HostDevice


@pytest.fixture(params=[None, 0], ids=["lazy", "paced"])
def gpu(request):
    device = HostDevice(request.param)
    executor = GpuExecutor(device)
    executor.users += 1  # the test's own, beside the backend's
    yield executor
    executor.close()
    device.stop()
    gc.collect()
    assert device.violations == []
    assert device.live() == 0, "everything was given back"


def double(package, dtype="float32", shape=("n", 2)):
    """A stage y = x + x, z = x."""
    tensors = {name: (dtype, list(shape)) for name in "xyz"}
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])]
    made = package(tensors, [("gpu", nodes, ["x"], ["y", "z"])], inputs=["x"], outputs=["y", "z"])
    return made.plan().stages[0]


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("shape", [(3, 2), ("n", 2)], ids=["fixed", "any rows"])
def test_the_strongest_way_that_works(package, gpu, way, shape):
    stage = double(package, shape=shape)
    refused = list(Way)[: list(Way).index(way)]
    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu, refuse=refused))
    expected = Way.QUEUED if way is Way.GRAPH and shape[0] == "n" else way
    assert (backend.way, backend.device, backend.slots) == (expected, "gpu", 3)
    assert list(backend.refused) == list(Way)[: list(Way).index(expected)]
    if expected is not way:
        assert backend.refused[Way.GRAPH] == "the shape of 'x' is not fixed"

    def work(seed):
        for value in range(10):
            x = np.full((3, 2), 10 * seed + value, np.float32)
            found = backend.run({"x": x})
            assert found["y"].tolist() == (2 * x).tolist()
            assert found["z"].tolist() == x.tolist()

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))
    backend.close()


def test_threads_that_come_and_go_do_not_take_all_memory(package, gpu):
    stage = double(package, shape=(1, 2))
    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))
    together = threading.Barrier(GRAPHS + 3)

    def work(number):
        together.wait(30)
        return [backend.run({"x": np.full((1, 2), number, np.float32)})["y"][0, 0] for _ in range(3)]

    with ThreadPoolExecutor(GRAPHS + 3) as threads:
        assert list(threads.map(work, range(GRAPHS + 3))) == [[2 * number] * 3 for number in range(GRAPHS + 3)]
    assert len(backend._slots) == GRAPHS
    backend.close()


@pytest.mark.parametrize("shape", [(1, 2), ("n", 2)], ids=["fixed", "any rows"])
def test_outputs_go_where_they_are_wanted(package, gpu, shape):
    stage = replace(double(package, shape=shape), wanted={"y": Wanted.DEVICE, "z": Wanted.HOST})
    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))
    kept = [backend.run({"x": np.full((1, 2), value, np.float32)}) for value in range(5)]
    again = [backend.run({"x": found["y"]}) for found in kept]
    assert all(isinstance(found["y"], DeviceTensor) for found in kept)
    assert [found["y"].numpy().tolist() for found in kept] == [[[2.0 * value] * 2] for value in range(5)]
    assert [found["y"].numpy().tolist() for found in again] == [[[4.0 * value] * 2] for value in range(5)]
    assert [found["z"].tolist() for found in again] == [[[2.0 * value] * 2] for value in range(5)]
    del kept, again
    backend.close()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", "bool"])
def test_element_types(package, gpu, dtype):
    tensors = {name: (dtype, ["n"]) for name in "xy"}
    stage = package(
        tensors, [("gpu", [helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"])], inputs=["x"], outputs=["y"]
    ).plan().stages[0]  # fmt: skip
    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))
    values = np.array([0, 1, 2], ml_dtypes.bfloat16).view(np.uint16) if dtype == "bfloat16" else np.array([0, 1, 2], dtype)
    for x in (values, values[::-1], values[:0]):
        result = backend.run({"x": x})["y"]
        assert result.dtype == values.dtype
        np.testing.assert_array_equal(result, x)
    backend.close()


def test_a_size_that_depends_on_the_data(package, gpu):
    tensors = {"x": ("float32", ["n"]), "y": ("int64", [1, "k"])}
    stage = package(
        tensors, [("gpu", [helper.make_node("NonZero", ["x"], ["y"])], ["x"], ["y"])], inputs=["x"], outputs=["y"]
    ).plan().stages[0]  # fmt: skip
    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))
    for x in ([1, 0, 1], [0, 0], [2] * 5000, []):
        assert backend.run({"x": np.array(x, np.float32)})["y"].tolist() == [np.flatnonzero(x).tolist()]
    backend.close()


def test_the_parts_of_a_batch(package, gpu):
    stage = double(package)
    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))
    assert backend.joins
    found = backend.run({"x": Parts([np.ones((1, 2), np.float32), np.zeros((2, 2), np.float32)])})
    assert found["y"].tolist() == [[2, 2], [0, 0], [0, 0]]
    backend.close()


def test_failures_and_deaths_are_told_apart(package, gpu):
    stage = double(package, shape=(1, 2))
    failures = []

    def fail():
        if failures:
            raise failures.pop()

    backend = OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu, fail=fail))
    x = np.ones((1, 2), np.float32)
    failures.append(RuntimeError("CUDA failure 2: out of memory"))
    with pytest.raises(BackendError, match="out of memory") as caught:
        backend.run({"x": x})
    assert type(caught.value) is BackendError
    with pytest.raises(BackendError, match="shape"):
        backend.run({"x": np.ones((2, 2), np.float32)})
    assert backend.run({"x": x})["y"].tolist() == [[2, 2]]
    failures.append(RuntimeError("CUDA failure 700: an illegal memory access was encountered"))
    gpu.device.kill()
    with pytest.raises(BackendDied):
        backend.run({"x": x})
    assert gpu.lost
    gpu.device.dead = False  # for the fixture, which counts what is left
    for stream in gpu.device.streams.values():
        stream.queue.clear()
        stream.done = 0
    backend.close()


def test_text_stays_on_the_cpu(package, gpu):
    tensors = {"x": ("string", ["n"]), "y": ("string", ["n"])}
    stage = package(
        tensors, [("gpu", [helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"])], inputs=["x"], outputs=["y"]
    ).plan().stages[0]  # fmt: skip
    with pytest.raises(BackendError, match=r"'x' is of type tensor\(string\), which cannot lie on the GPU"):
        OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))
    gpu.close()


def test_what_onnxruntime_is_asked_for(package, gpu, monkeypatch):
    asked, sizes = [], []

    def remember(_stage, _options, providers, entries, rows):
        asked.append((providers, dict(entries)))
        sizes.append(rows)
        raise BackendError("not here")

    monkeypatch.setattr(onnxruntime_cuda, "open_session", remember)
    monkeypatch.setattr(onnxruntime_cuda, "open_gpu", lambda: gpu)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", CPU])
    stage = double(package)
    monkeypatch.setattr(onnxruntime_cuda.OnnxRuntimeBackend, "load", lambda stage, options, reason: reason)
    assert onnxruntime_cuda.load(stage, OPTIONS) == "the CUDA provider failed: not here"
    assert [providers[0][1].get("enable_cuda_graph") for providers, _ in asked] == ["1", None, None]
    assert [entries.get("session.disable_cpu_ep_fallback") for _, entries in asked] == ["1", "1", None]
    for providers, _ in asked:
        assert providers[0][0] == "CUDAExecutionProvider"
        assert providers[0][1]["user_compute_stream"] == str(gpu.computation)
        assert CUDA_OPTIONS.items() <= providers[0][1].items()  # deployed as it is profiled
    assert [providers[1:] for providers, _ in asked] == [[], [], [CPU]]
    assert set(sizes) == {None}
    sizes.clear()
    onnxruntime_cuda.load(replace(stage, batchable=True, rows_axis="n"), OPTIONS)
    assert set(sizes) == {1}, "the first of its sizes"


@pytest.mark.parametrize("wanted", [Wanted.HOST, Wanted.DEVICE], ids=["host", "device"])
def test_a_session_for_each_size_of_a_batch(package, gpu, wanted):
    stage = replace(double(package), batchable=True, rows_axis="n", wanted={"y": wanted, "z": Wanted.RESULT})

    def load(rows):
        gpu.users += 1
        return OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu, rows=rows))

    backend = SizedBackend(load, 6)
    assert [(rows, one.way) for rows, one in backend.sized.items()] == [(rows, Way.GRAPH) for rows in (1, 2, 4, 6)]
    gpu.users -= 1  # each of them is a user

    def work(seed):
        for rows in (1, 2, 3, 5, 6, 7):
            parts = [np.full((1, 2), 100 * seed + row, np.float32) for row in range(rows)]
            found = backend.run({"x": Parts(parts) if seed else np.concatenate(parts)})
            assert as_array(found["y"]).tolist() == [[2.0 * (100 * seed + row)] * 2 for row in range(rows)]
            assert found["z"].tolist() == [[100.0 * seed + row] * 2 for row in range(rows)]

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))
    assert backend.run({"x": np.zeros((0, 2), np.float32)})["z"].shape == (0, 2)
    backend.close()


def test_onnxruntime_takes_no_cpu_provider_beside_the_entry_that_forbids_it(package):
    stage = double(package)
    forbidden = {"session.disable_cpu_ep_fallback": "1"}
    with pytest.raises(BackendError, match="explicitly added the CPU EP"):
        open_session(stage, OPTIONS, [CPU], forbidden)
    with pytest.raises(BackendError, match="assigned to the default CPU EP"):
        open_session(stage, OPTIONS, [], forbidden)


def test_a_pipeline_keeps_what_only_the_gpu_reads_there(package):
    seen = []
    with on_host_memory() as (devices, loaded):
        pipeline = Pipeline.load(three_stages(package))
        run = loaded[1].run
        loaded[1].run = lambda feeds: seen.append({name: type(value) for name, value in feeds.items()}) or run(feeds)
        with pipeline:
            items = [{"x": np.full((1 + number % 3, 2), number, np.float32)} for number in range(40)]
            for item, found in zip(items, pipeline.map(items), strict=True):
                for name, value in expected(item["x"]).items():
                    assert found[name].tolist() == value.tolist()
            assert pipeline.stats().utilisation.keys() == {"cpu", "gpu"}
    assert {kinds["s"] for kinds in seen} <= {DeviceTensor, Parts}
    assert len(devices) == 1
    assert devices[0].violations == []
    del found
    gc.collect()
    assert devices[0].live() == 0


def test_where_the_outputs_of_a_stage_are_taken(package):
    with on_host_memory() as (_, loaded), Pipeline.load(three_stages(package)) as pipeline:
        wanted = [dict(phase.wanted) for phase in (loaded[0]._stage, loaded[1]._stage)]
        assert wanted[0] == {"a": Wanted.HOST | Wanted.RESULT, "s": Wanted.DEVICE}
        assert wanted[1] == {"y": Wanted.RESULT, "r": Wanted.RESULT}
        assert [places(pipeline.plan, stage) for stage in pipeline.plan.stages] == [wanted[0], {}, wanted[1]]


def test_a_pipeline_survives_the_loss_of_the_gpu(package):
    x = np.ones((1, 2), np.float32)
    with on_host_memory() as (devices, loaded), Pipeline.load(three_stages(package)) as pipeline:
        assert pipeline.run({"x": x})["a"].tolist() == [[2, 2]]
        real, lose = loaded[1].run, [True]

        def run(feeds):
            if lose:
                lose.clear()
                devices[0].kill()
            return real(feeds)

        loaded[1].run = run
        with pytest.raises(StageError, match="stage 2 failed on the gpu: the GPU that held a tensor was lost"):
            pipeline.run({"x": x})
        assert pipeline.run({"x": x})["y"].tolist() == [[-4, -4]]
        assert pipeline.ready
        assert [stage.replaced for stage in pipeline.stats().stages] == [1, 0, 1]
    assert len(devices) == 2
    assert devices[1].live() == 0


def test_a_gpu_stage_that_moved_to_the_cpu_fetches_what_the_gpu_kept(package):
    with on_host_memory(only=0) as (devices, _):
        with pytest.warns(DegradedWarning, match="stage 2"):
            pipeline = Pipeline.load(three_stages(package))
        with pipeline:
            for number in range(5):
                x = np.full((1, 2), number, np.float32)
                found = pipeline.run({"x": x})
                assert all(found[name].tolist() == value.tolist() for name, value in expected(x).items())
    assert devices[0].violations == []
    assert devices[0].live() == 0
