"""Copies: the fit, and the whole measurement on a driver that checks what it is called with."""

import ctypes
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.errors import ProfileError
from cutset.profilers.child import Failure, Limits, run_in_child
from cutset.profilers.cuda_driver import CudaDevice
from cutset.profilers.transfer import SIZES, fit_transfer, profile_transfers

LIMITS = Limits(time_s=30)
SMALL = (1 << 10, 1 << 14, 1 << 18)


@given(st.floats(1e-6, 1e-4), st.floats(1e8, 1e12))
def test_an_affine_cost_is_found_again(fixed_s, bytes_per_s):
    samples = [(size, fixed_s + size / bytes_per_s) for size in SIZES]
    found = fit_transfer(samples, direction="d2h", pinned=True)
    assert (found.model.direction, found.model.pinned, found.model.source) == ("d2h", True, "measured")
    assert found.worst_error < 1e-6
    assert all(math.isclose(found.model.seconds(size), seconds, rel_tol=1e-6) for size, seconds in samples)


def test_noise_moves_the_fit_by_no_more_than_itself():
    rng = np.random.default_rng(0)
    samples = [(size, (1e-5 + size / 1e10) * rng.uniform(0.95, 1.05)) for size in SIZES]
    found = fit_transfer(samples, direction="h2d", pinned=False)
    assert found.model.fixed_s == pytest.approx(1e-5, rel=0.1)
    assert found.model.bytes_per_s == pytest.approx(1e10, rel=0.1)
    assert found.worst_error < 0.12


def test_copies_that_cost_less_by_size():
    with pytest.raises(ProfileError, match="took no longer"):
        fit_transfer([(1 << 10, 2e-5), (1 << 20, 1e-5)], direction="h2d", pinned=False)


def test_sizes_are_those_promised():
    assert (SIZES[0], SIZES[-1]) == (1 << 10, 64 << 20)


@pytest.fixture
def driver(fake_driver, monkeypatch):
    """Have child processes load the stand-in for the driver."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_driver))
    return fake_driver


def test_both_ways_and_both_kinds_of_memory(driver, fake_smi):
    (fake_smi / "output").write_text("1980, 1980, 3201, 3201, 34, 119.5, 1024, 143771, 3\n")
    found = profile_transfers(sizes=(*SMALL, 1 << 22), seconds_a_size=0.0, limits=LIMITS)
    assert not isinstance(found, Failure), found
    kinds = [(m.model.direction, m.model.pinned) for m in found.measurements]
    assert kinds == [("h2d", False), ("d2h", False), ("h2d", True), ("d2h", True)]
    assert all(m.model.bytes_per_s > 0 and m.model.fixed_s >= 0 for m in found.measurements)
    assert found.device == "Fake GPU"
    assert found.state is not None
    assert "--id=0000:0A:00.0" in (fake_smi / "asked").read_text()
    assert [model.direction for model in found.models()] == ["h2d", "d2h"]
    assert all(model.pinned for model in found.models(pinned=True))


def test_no_driver_is_a_reason(tmp_path, monkeypatch):
    (tmp_path / "libcuda.so.1").write_bytes(b"not a library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    failure = profile_transfers(sizes=SMALL, limits=LIMITS)
    assert isinstance(failure, Failure)
    assert failure.detail.startswith("the CUDA driver cannot be used:")


def test_no_device_is_a_reason_in_the_drivers_words(driver, monkeypatch):
    failure = profile_transfers(1, sizes=SMALL, limits=LIMITS)
    assert failure == Failure(kind="raised", detail="CUDA device 1 cannot be used: CUDA error 101: invalid value")
    monkeypatch.setenv("FAKE_NO_DEVICE", "1")
    failure = profile_transfers(sizes=SMALL, limits=LIMITS)
    assert isinstance(failure, Failure)
    assert "no CUDA-capable device" in failure.detail


def exercise(count):
    """Use every call of the driver and return what came back and how many objects are left."""
    with CudaDevice() as cuda:
        source, target = np.arange(count, dtype=np.uint8), np.zeros(count, np.uint8)
        there, pinned = cuda.allocate(count), cuda.allocate_pinned(count)
        start, end = cuda.event(), cuda.event()
        cuda.record(start)
        cuda.copy_to_device(there, source.ctypes.data, count)
        cuda.copy_to_host(pinned, there, count)
        cuda.copy_to_host(target.ctypes.data, there, count)
        cuda.synchronise()
        cuda.record(end)
        seconds, memory, names = cuda.elapsed_s(start, end), cuda.memory(), (cuda.name, cuda.pci_bus_id)
        through_pinned = ctypes.string_at(pinned, count) == source.tobytes()
    left = ctypes.CDLL("libcuda.so.1").fake_live()
    return (target == source).all() and through_pinned, seconds, memory.free, memory.total, names, left


@pytest.mark.usefixtures("driver")
def test_the_driver_gets_what_it_is_declared_to_take():
    found = run_in_child(exercise, 100_000, limits=LIMITS)
    assert not isinstance(found, Failure), found
    same, seconds, free, total, names, left = found
    assert same
    assert seconds > 0
    assert (free, total) == (5 << 30, 8 << 30)
    assert names == ("Fake GPU", "0000:0A:00.0")
    assert left == 0


def allocate(size):
    with CudaDevice() as cuda:
        return cuda.allocate(size)


@pytest.mark.usefixtures("driver")
def test_device_memory_that_does_not_suffice():
    failure = run_in_child(allocate, 1 << 40, limits=LIMITS)
    assert failure == Failure(kind="memory", detail="cuMemAlloc_v2 failed: CUDA error 2: out of memory")
