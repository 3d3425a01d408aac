"""A pipeline whose GPU stage is an engine with a limited range, on a device made of host memory: y = 2 x and z = x."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from onnx import helper

from cutset.codegen.runtime.backends import gpu as gpu_module
from cutset.codegen.runtime.backends import onnxruntime_cuda, tensorrt
from cutset.codegen.runtime.backends.base import BackendError
from cutset.codegen.runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
from tests.unit.codegen.runtime.fake_library import IOutputAllocator, Logger, Place, Strategy
from tests.unit.codegen.runtime.gpu_pipeline import stand_in
from tests.unit.codegen.runtime.host_device import HostDevice
from tests.unit.codegen.runtime.test_tensorrt_run import Engine

RANGE = ((1, 3), (2, 3), (8, 3))
"""Least, usual and largest shape of `x` that the engine takes; the model takes any."""


def engine_package(make: Callable[..., object]) -> Path:
    """Return the folder of a package with the one stage, planned as an engine.

    Args:
        make: Makes a `Package`.
    """
    tensors = {name: ("float32", ["n", "m"]) for name in "xyz"}
    nodes = [helper.make_node("Add", ["x", "x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])]
    package = make(tensors, [("gpu", nodes, ["x"], ["y", "z"])], inputs=["x"], outputs=["y", "z"])
    (entry,) = package.document["stages"]
    given = {"name": "x", "shapes": [list(shape) for shape in RANGE], "values": [[], [], []]}
    entry["backend"] = "tensorrt"
    entry["engine"] = {"backend": "tensorrt", "model": entry["model"], "precision": "fp32", "inputs": [given]}
    package.write()
    return package.folder


@contextlib.contextmanager
def engines_on_host_memory(*, cuda: bool) -> Iterator[list[Engine]]:
    """Let stages that are loaded in this context run as engines of `RANGE`; give the engines.

    Args:
        cuda: Whether onnxruntime's CUDA provider is there too, on the same device.
    """
    engines: list[Engine] = []

    def load_engine(stage, _options):
        gpu = gpu_module.open_gpu()
        engines.append(Engine(gpu.device, RANGE))
        runtime = SimpleNamespace(deserialize_cuda_engine=lambda _plan: engines[-1])
        library = SimpleNamespace(
            Logger=Logger, Runtime=lambda _logger: runtime, IOutputAllocator=IOutputAllocator, TensorLocation=Place,
            ExecutionContextAllocationStrategy=Strategy,
        )  # fmt: skip
        return tensorrt.TensorRtBackend(library, gpu, b"plan", stage)

    def load_cuda(stage, _options):
        if not cuda:
            raise BackendError("there is no room for it")
        gpu = gpu_module.open_gpu()
        return OnnxRuntimeCudaBackend(gpu, stage, stand_in(stage, gpu))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorrt.TensorRtBackend, "load", load_engine)
        patch.setattr(onnxruntime_cuda, "load", load_cuda)
        patch.setattr(gpu_module, "Gpu", lambda _index: HostDevice())
        yield engines
