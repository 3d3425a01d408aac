"""A pipeline of GPU, CPU and GPU stages whose GPU is made of host memory, with the CPU provider computing on its streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.runtime.backends import LOADERS, onnxruntime_cuda
from cutset.codegen.runtime.backends import gpu as gpu_module
from cutset.codegen.runtime.backends.base import BackendError, BackendOptions
from cutset.codegen.runtime.backends.onnxruntime import CPU, open_session
from cutset.codegen.runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Way
from tests.unit.codegen.runtime.host_device import HostDevice, StreamedSession

OPTIONS = BackendOptions(intra_op_threads=1, custom_ops=())


def stand_in(stage, gpu, *, refuse=(), fail: Callable[[], None] = lambda: None, rows: int | None = None):
    """Return what opens a stage's model for the CPU provider, in the ways that are not refused."""

    def open_way(way):
        if way in refuse:
            raise BackendError(f"{way.value} is refused")
        session = open_session(stage, OPTIONS, [CPU], rows=rows)
        fixed = all(isinstance(size, int) for node in session.get_outputs() for size in node.shape)
        return StreamedSession(session, gpu.device, gpu.computation, waits=way is Way.AWAITED or not fixed, fail=fail)

    return open_way


def three_stages(make: Callable[..., object], rows: int | str = "n") -> Path:
    """Return the folder of y = -2 x (x + 1), r = x + 1, a = 2 x: `s` passes from GPU to GPU, `a` to everywhere.

    Args:
        make: Makes a `Package`.
        rows: The first size of every tensor; a number makes all of them fixed.
    """
    tensors = {name: ("float32", [rows, 2]) for name in ("x", "a", "s", "b", "y", "r")}
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    first = [
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Add", ["x", "x"], ["a"]),
        helper.make_node("Add", ["x", "one"], ["s"]),
    ]
    last = [helper.make_node("Mul", ["b", "s"], ["y"]), helper.make_node("Identity", ["s"], ["r"])]
    stages = [
        ("gpu", first, ["x"], ["a", "s"]),
        ("cpu", [helper.make_node("Neg", ["a"], ["b"])], ["a"], ["b"]),
        ("gpu", last, ["b", "s"], ["y", "r"]),
    ]
    package = make(tensors, stages, inputs=["x"], outputs=["y", "r", "a"])
    for entry in package.document["stages"]:
        entry["batching"] = {"proven": rows == "n"}
    package.write()
    return package.folder


def expected(x: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the pipeline computes."""
    return {"y": -2 * x * (x + 1), "r": x + 1, "a": 2 * x}


@contextlib.contextmanager
def on_host_memory(
    *, pace: int | None = None, fail: Callable[[], None] = lambda: None, only: int | None = None
) -> Iterator[tuple[list[HostDevice], list[OnnxRuntimeCudaBackend]]]:
    """Let GPU stages that are loaded in this context run on host memory; give the devices and the stages.

    Args:
        pace: As for `HostDevice`.
        fail: As for `StreamedSession`.
        only: Index of the one stage that does; None for all.
    """
    devices: list[HostDevice] = []
    loaded: list[OnnxRuntimeCudaBackend] = []

    def load(stage, options):
        if only not in (None, stage.index):
            return onnxruntime_cuda.load(stage, options)
        gpu = gpu_module.open_gpu()
        try:
            loaded.append(OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu, fail=fail)))
        except BackendError:
            gpu.close()
            raise
        return loaded[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOADERS, "onnxruntime-cuda", load)
        patch.setattr(gpu_module, "Gpu", lambda index: devices.append(HostDevice(pace)) or devices[-1])
        yield devices, loaded
