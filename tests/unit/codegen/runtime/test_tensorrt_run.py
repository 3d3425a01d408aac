"""Runs of an engine on a device of host memory: recorded as graphs where shapes are fixed, and otherwise not."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cutset.codegen.runtime.backends.base import BackendError
from cutset.codegen.runtime.backends.device import DeviceTensor, Parts, array_over
from cutset.codegen.runtime.backends.gpu import GRAPHS, GpuExecutor
from cutset.codegen.runtime.backends.tensorrt import TensorRtBackend
from cutset.codegen.runtime.config import StageConfig, Wanted
from tests.unit.codegen.runtime.fake_library import IOutputAllocator, Logger, Place, Strategy
from tests.unit.codegen.runtime.host_device import HostDevice

F32 = np.dtype("<f4")
STAGE = StageConfig(
    index=0, device="gpu", backend="tensorrt", model=Path(), inputs=("x",), outputs=("y", "z"), service_s=0.0
)  # fmt: skip


class Context:
    """y = 2 x, z = x, queued on the device's stream with the addresses of the call."""

    def __init__(self, device, profile):
        self.device, self.profile, self.shape, self.addresses, self.runs, self.refuse = device, profile, None, {}, 0, False
        self.recorded = False

    def set_input_shape(self, name, shape):
        assert not self.recorded, "a context that was recorded is left alone"
        self.shape = tuple(shape)
        return all(low <= size <= high for low, size, high in zip(self.profile[0], shape, self.profile[2], strict=True))

    def set_device_memory(self, address, size):
        assert size >= 100_000

    def set_tensor_address(self, name, address):
        assert not self.recorded
        self.addresses[name] = address

    def get_tensor_shape(self, name):
        return self.shape

    def execute_async_v3(self, stream):
        if self.refuse:
            return False
        self.runs += 1
        shape, places = self.shape, dict(self.addresses)

        def compute():
            x = array_over(places["x"], shape, F32, None)
            for name, factor in (("y", 2), ("z", 1)):
                array_over(places[name], shape, F32, None)[...] = factor * x

        self.device.queue(stream, compute)
        self.recorded = self.device.capturing
        return True


class Engine:
    num_io_tensors = 3
    device_memory_size_v2 = 100_000

    def __init__(self, device, profile):
        self.device, self.profile, self.contexts, self.most = device, profile, [], 9

    def get_tensor_name(self, index):
        return "xyz"[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name="FLOAT")

    def get_tensor_location(self, name):
        return Place.DEVICE

    def get_tensor_profile_shape(self, name, index):
        return self.profile

    def create_execution_context(self, strategy):
        assert strategy is Strategy.USER_MANAGED
        if len(self.contexts) == self.most:
            return None
        self.contexts.append(Context(self.device, self.profile))
        return self.contexts[-1]


@pytest.fixture
def gpu():
    device = HostDevice()
    executor = GpuExecutor(device)
    yield executor
    gc.collect()
    assert device.violations == []
    assert device.live() == 0


def backend_with(gpu, profile, stage=STAGE):
    engine = Engine(gpu.device, profile)
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda plan: engine)
    library = SimpleNamespace(
        Logger=Logger, Runtime=lambda logger: runtime, IOutputAllocator=IOutputAllocator, TensorLocation=Place,
        ExecutionContextAllocationStrategy=Strategy,
    )  # fmt: skip
    return TensorRtBackend(library, gpu, b"plan", stage), engine


FIXED, ANY = ((2, 3),) * 3, ((1, 3), (2, 3), (8, 3))


def check(backend, seed=0, rows=2):
    for value in range(8):
        x = np.full((rows, 3), 10 * seed + value, F32)
        found = backend.run({"x": x})
        assert found["y"].tolist() == (2 * x).tolist()
        assert found["z"].tolist() == x.tolist()


def test_fixed_shapes_are_recorded_once_a_thread(gpu):
    backend, engine = backend_with(gpu, FIXED)
    assert backend.no_graph is None
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda seed: check(backend, seed), range(3)))
    used = len(engine.contexts) - 1
    assert 1 <= used <= 3
    assert gpu.device.captures == used
    assert gpu.device.launches == 24 - used, "the first run of each thread is an ordinary one"
    with pytest.raises(BackendError, match=r"takes .x. of shape \(2, 3\) to \(2, 3\), not \(3, 3\)"):
        backend.run({"x": np.zeros((3, 3), F32)})
    check(backend)
    backend.close()


def test_threads_that_come_and_go_do_not_take_all_memory(gpu):
    backend, engine = backend_with(gpu, FIXED)
    together = threading.Barrier(GRAPHS + 3)
    with ThreadPoolExecutor(GRAPHS + 3) as threads:
        list(threads.map(lambda seed: together.wait(30) is None or check(backend, seed), range(GRAPHS + 3)))
    assert len(engine.contexts) == GRAPHS + 1
    backend.close()


def test_a_recorded_run_joins_keeps_and_drops(gpu):
    stage = replace(STAGE, wanted={"y": Wanted.DEVICE, "z": Wanted(0)})
    backend, _ = backend_with(gpu, FIXED, stage)
    kept = [backend.run({"x": Parts([np.full((1, 3), value, F32), np.ones((1, 3), F32)])}) for value in range(4)]
    assert all(set(found) == {"y"} and isinstance(found["y"], DeviceTensor) for found in kept)
    chained = [backend.run({"x": found["y"]}) for found in kept]
    assert [found["y"].numpy()[0, 0] for found in kept] == [0, 2, 4, 6]
    assert [found["y"].numpy()[0, 0] for found in chained] == [0, 4, 8, 12]
    del kept, chained
    backend.close()


def test_where_recording_does_not_work_the_reason_is_kept(gpu):
    backend, engine = backend_with(gpu, FIXED)
    gpu.device.refuse_capture = True
    check(backend)
    assert backend.no_graph == "the stream cannot be captured"
    assert (gpu.device.captures, gpu.device.launches, engine.contexts[0].runs > 5) == (0, 0, True)
    backend.close()


def test_where_another_context_does_not_fit_runs_are_not_recorded(gpu):
    backend, engine = backend_with(gpu, FIXED)
    engine.most = 2
    check(backend)
    with ThreadPoolExecutor(1) as threads:
        threads.submit(check, backend, 1).result()
    assert "does not fit" in backend.no_graph
    backend.close()


def test_other_shapes_than_the_usual_one_are_not_recorded(gpu):
    backend, engine = backend_with(gpu, ANY)
    for rows in (1, 8, 3):
        check(backend, rows=rows)
    assert (len(engine.contexts), gpu.device.captures) == (1, 0)
    for rows in (2, 5, 2):
        check(backend, rows=rows)
    assert (len(engine.contexts), gpu.device.captures, gpu.device.launches) == (2, 1, 15)
    with pytest.raises(BackendError, match=r"takes 'x' of shape \(1, 3\) to \(8, 3\), not \(9, 3\)"):
        backend.run({"x": np.zeros((9, 3), F32)})
    engine.contexts[0].refuse = True
    with pytest.raises(BackendError, match="does not run"):
        backend.run({"x": np.zeros((1, 3), F32)})
    backend.close()
