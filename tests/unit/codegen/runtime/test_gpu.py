"""The order of work on a GPU, over a device that runs what is queued as late as it may: what waits for too little is wrong."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutset.codegen.runtime.backends import gpu as gpu_module
from cutset.codegen.runtime.backends.base import BackendDied, BackendError
from cutset.codegen.runtime.backends.device import DeviceTensor, Memory, Parts, array_over, as_array
from cutset.codegen.runtime.backends.gpu import Flight, GpuExecutor, open_gpu
from cutset.codegen.runtime.config import Wanted
from tests.unit.codegen.runtime.host_device import HostDevice

F32 = np.dtype("<f4")


@pytest.fixture
def gpu():
    device = HostDevice()
    executor = GpuExecutor(device)
    yield executor
    executor.close()
    gc.collect()
    assert device.violations == []
    assert device.live() == 0, "everything was given back"


def double(gpu, feeds, wanted=None, into=None):
    """Run y = 2 x as a backend does."""
    with Flight(gpu) as flight:
        given = flight.upload(feeds, F32, into)
        with flight.computing() as stream:
            result = flight.tensor(given.shape, F32)

            def compute():
                x = array_over(given.address, given.shape, F32, None)
                array_over(result.address, given.shape, F32, None)[...] = 2 * x

            gpu.device.queue(stream, compute)
        return flight.download({"y": result}, {} if wanted is None else {"y": wanted})


def fail(gpu, feeds):
    with Flight(gpu) as flight:
        flight.upload(feeds, F32)
        with flight.computing():
            raise ZeroDivisionError


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(3, 2).T, np.ones((0, 3)), np.float32(3.5), np.ones(3000)],
    ids=["plain", "strided", "empty", "scalar", "more than a page"],
)
def test_a_run_goes_there_and_back(gpu, array):
    result = double(gpu, np.asarray(array, F32))["y"]
    np.testing.assert_array_equal(result, 2 * np.asarray(array, F32))
    assert result.flags.owndata


def test_memory_is_used_again_and_not_while_somebody_reads_it(gpu):
    kept = double(gpu, np.full(4, 1, F32), Wanted.HOST)["y"]
    again = double(gpu, np.full(4, 2, F32), Wanted.HOST)["y"]
    allocated = gpu.device.allocations
    assert kept.tolist() == [2.0] * 4
    del again
    for value in range(20):
        assert double(gpu, np.full(4, value, F32), Wanted.HOST)["y"].tolist() == [2.0 * value] * 4
    assert gpu.device.allocations == allocated, "after the first runs nothing is allocated"


def test_a_tensor_stays_on_the_device_until_it_is_wanted_elsewhere(gpu):
    first = double(gpu, np.arange(4, dtype=F32).reshape(2, 2), Wanted.DEVICE)["y"]
    assert isinstance(first, DeviceTensor)
    assert (first.shape, first.ndim, first.nbytes) == ((2, 2), 2, 16)
    second = double(gpu, first, Wanted.DEVICE | Wanted.HOST)["y"]
    assert second.numpy() is second.numpy()
    assert second.numpy().tolist() == [[0, 4], [8, 12]]
    assert as_array(first).tolist() == [[0, 2], [4, 6]]
    row = second[1:2]
    assert (row.shape, row.numpy().tolist()) == ((1, 2), [[8, 12]])
    assert first[1:].numpy().tolist() == [[4, 6]]
    assert first[2:].numpy().shape == (0, 2)


def test_an_output_that_nobody_wants_is_not_fetched(gpu):
    assert double(gpu, np.ones(2, F32), Wanted(0)) == {}


def test_the_parts_of_a_batch_are_joined_on_their_way(gpu):
    on_device = double(gpu, np.full((2, 2), 3, F32), Wanted.DEVICE)["y"]
    parts = Parts([np.ones((1, 2), F32), on_device, np.zeros((0, 2), F32), np.full((1, 2), 5, F32)])
    assert double(gpu, parts)["y"].tolist() == [[2, 2], [12, 12], [12, 12], [10, 10]]
    assert as_array(parts).tolist() == [[1, 1], [6, 6], [6, 6], [5, 5]]
    assert double(gpu, Parts([on_device, on_device[:1]]))["y"].tolist() == [[12, 12]] * 3


def test_a_place_that_is_given_must_fit(gpu):
    place = gpu.tensor((2,), F32)
    assert double(gpu, np.full(2, 4, F32), into=place)["y"].tolist() == [8, 8]
    with pytest.raises(BackendError, match=r"shape \(3,\), and only \(2,\)"):
        double(gpu, np.zeros(3, F32), into=place)


def test_what_was_queued_before_a_failure_is_waited_for(gpu):
    for number in range(3):
        with pytest.raises(ZeroDivisionError):
            fail(gpu, np.full(4, number, F32))
        assert gpu.device.idle
        assert double(gpu, np.full(4, 7, F32))["y"].tolist() == [14] * 4


def test_what_a_run_uses_is_its_own_until_its_end(gpu):
    arrays = [np.full(4, value, F32) for value in range(6)]
    with Flight(gpu) as first, Flight(gpu) as second:
        given = [flight.upload(array, F32) for flight in (first, second) for array in arrays]
        staged = [flight.stage(array, F32) for flight in (first, second) for array in arrays]
        for flight in (first, second):
            with flight.computing():
                pass
        found = [
            flight.download({"x": tensor}, {})["x"] for flight, tensor in zip([first] * 6 + [second] * 6, given, strict=True)
        ]
        for results in (found, staged):
            assert [result.tolist() for result in results] == [array.tolist() for array in arrays * 2]


def test_runs_from_several_threads_do_not_mix(gpu):
    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(20):
            x = rng.random(rng.integers(1, 2000)).astype(F32)
            np.testing.assert_array_equal(double(gpu, x)["y"], 2 * x)

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))


def test_while_one_computes_the_next_one_is_copied_in_and_the_last_one_out():
    """On streams of their own: the computation of the second holds up neither copy."""
    device = HostDevice(pace=0)
    gpu = GpuExecutor(device)
    release, copied_out, copied_in = threading.Event(), threading.Event(), threading.Event()
    with Flight(gpu) as first, Flight(gpu) as second, Flight(gpu) as third:
        done = first.upload(np.ones(4, F32), F32)
        with first.computing():
            pass
        with second.computing() as stream:
            device.queue(stream, lambda: release.wait(10))
        third.upload(np.ones(4, F32), F32)
        device.queue(gpu.copies_in, copied_in.set)
        assert first.download({"x": done}, {})["x"].tolist() == [1] * 4
        device.queue(gpu.copies_out, copied_out.set)
        assert copied_in.wait(30)
        assert copied_out.wait(30)
        release.set()
    gpu.close()
    device.stop()
    assert device.violations == []


def test_memory_makes_room_when_the_device_is_full():
    class Full(HostDevice):
        def allocate(self, size):
            if sum(len(block) for block in self.blocks.values()) + size > 1 << 16:
                raise BackendError("out of memory")
            return super().allocate(size)

    device = Full()
    device.enter()
    memory = Memory(device, pinned=False)
    for size in (1 << 15, 1 << 14, 1 << 14):
        memory.take(size)  # let go at once
    held = memory.take(1 << 15)
    with pytest.raises(BackendError, match="out of memory"):
        memory.take(1 << 16)
    memory.close()
    assert device.live() == 1
    del held
    assert device.live() == 0


def test_an_array_outlives_the_pipeline_that_made_it():
    device = HostDevice()
    gpu = GpuExecutor(device)
    result = double(gpu, np.ones(3, F32), Wanted.HOST)["y"][1:]
    gpu.close()
    assert device.live() == 1
    assert result.tolist() == [2, 2]
    del result
    assert device.live() == 0


def test_a_lost_device_is_told_and_opened_anew(monkeypatch):
    devices = []
    monkeypatch.setattr(gpu_module, "Gpu", lambda index: devices.append(HostDevice()) or devices[-1])
    gpu = open_gpu()
    assert open_gpu() is gpu
    tensor = double(gpu, np.ones(2, F32), Wanted.DEVICE)["y"]
    devices[0].kill()
    with pytest.raises(BackendDied, match="lost"):
        double(gpu, np.ones(2, F32))
    with pytest.raises(BackendError, match="the GPU that held a tensor was lost") as caught:
        tensor.numpy()
    assert type(caught.value) is BackendError, "the stage that reads it has not died"
    another = open_gpu()
    assert another is not gpu
    with pytest.raises(BackendError, match="that held a tensor"):
        double(another, tensor)
    assert double(another, np.ones(2, F32))["y"].tolist() == [2, 2]
    for _ in range(2):
        gpu.close()
    another.close()
    assert devices[1].live() == 0
    last = open_gpu()
    assert last not in {gpu, another}
    last.close()
    assert len(devices) == 3
