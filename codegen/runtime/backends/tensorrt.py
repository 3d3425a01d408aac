"""Run a stage as an engine of TensorRT or TensorRT-RTX.

Written against what TensorRT 10, TensorRT 11 and TensorRT-RTX have in common. Inputs and outputs pass through page-locked
memory that is kept from run to run; every output has an allocator, so its shape may depend on the data.

An engine that fits this GPU, driver and library is loaded; where none does, it is built from the stage's ONNX file; where
that fails, or there is no GPU, onnxruntime runs the stage, on its CUDA provider or on the CPU, and says why.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..config import StageConfig
from ..dtypes import ELEMENT_TYPES, Value
from ..engine_config import EngineConfig
from .base import BackendError, BackendOptions, StageBackend
from .cuda import Block, Gpu
from .engine_build import MODULES, BuildJob, build_apart
from .engine_cache import Builder, EngineCache, ingredients, key_of
from .onnxruntime import OnnxRuntimeBackend

_ELEMENTS = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Element types of engines by their name in the library."""


def load(stage: StageConfig, options: BackendOptions) -> StageBackend:
    """Return the stage as an engine, or in onnxruntime with the reason why not.

    Raises:
        BackendError: If onnxruntime cannot load it either.
    """
    try:
        return TensorRtBackend.load(stage, options)
    except BackendError as error:
        fallback = OnnxRuntimeBackend.load(stage, options)
        also = f"; {fallback.substitution}" if fallback.substitution else ""
        fallback.substitution = f"no engine runs it: {error}{also}"
        return fallback


class TensorRtBackend:
    """One engine with an execution context and a stream."""

    @classmethod
    def load(cls, stage: StageConfig, _options: BackendOptions) -> TensorRtBackend:
        """Return the stage with its engine, from the cache or newly built.

        Raises:
            BackendError: If there is no GPU or library, or the engine cannot be built or loaded.
        """
        if stage.engine is None:
            raise BackendError("the plan does not say how to build its engine")
        trt, gpu = open_library(stage.engine.backend), Gpu()
        try:
            plan = obtain(stage.index, stage.engine, builder_here(stage.engine, trt, gpu))
            return cls(trt, gpu, plan, stage)
        except BaseException:
            gpu.close()
            raise

    def __init__(self, trt: Any, gpu: Gpu, plan: bytes, stage: StageConfig) -> None:
        self._trt, self._gpu = trt, gpu
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError("the engine does not load on this GPU")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError("the engine's context does not fit into the memory of the GPU")
        self._types = {name: self._element(name) for name in self._names()}
        expected = {*stage.inputs, *stage.outputs}
        if set(self._types) != expected:
            raise BackendError(f"the engine's tensors are {sorted(self._types)}, the plan says {sorted(expected)}")
        self._inputs, self._outputs = stage.inputs, stage.outputs
        self._staging = {name: Block(gpu, pinned=True) for name in self._types}
        self._device = {name: Block(gpu, pinned=False) for name in self._types}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._allocator = _allocator(trt, self._device, self._shapes)
        self.max_batch = _most_rows(stage)
        self.device = "gpu"
        self.substitution: str | None = None

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        self._gpu.enter()
        self._shapes.clear()
        for name in self._inputs:
            self._bind(name, np.require(feeds[name], self._types[name], ("C", "A")))
        for name in self._outputs:
            if self._on_host(name):
                self._context.set_tensor_address(name, self._staging[name].reserve(self._context.get_max_output_size(name)))
            else:
                self._context.set_output_allocator(name, self._allocator)
        if not self._context.execute_async_v3(self._gpu.stream):
            raise BackendError("the engine does not run on these inputs")
        return self._fetch()

    def close(self) -> None:
        """Release the engine, its memory and the GPU."""
        self._gpu.enter()
        del self._context, self._engine, self._runtime
        for block in (*self._staging.values(), *self._device.values()):
            block.close()
        self._gpu.close()

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _element(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _ELEMENTS:
            raise BackendError(f"the engine's tensor {name!r} has type {kind}")
        return ELEMENT_TYPES[_ELEMENTS[kind]].storage

    def _on_host(self, name: str) -> bool:
        """Return whether the engine reads or writes the tensor in the host's memory, as it does with shapes."""
        return bool(self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def _bind(self, name: str, array: np.ndarray) -> None:
        """Queue the copy of an input to where the engine reads it."""
        if not self._context.set_input_shape(name, tuple(array.shape)):
            least, _, most = self._engine.get_tensor_profile_shape(name, 0)
            raise BackendError(f"the engine takes {name!r} of shape {tuple(least)} to {tuple(most)}, not {array.shape}")
        host = self._staging[name].reserve(array.nbytes)
        _view(host, array.shape, array.dtype)[...] = array
        if self._on_host(name):
            self._context.set_tensor_address(name, host)
            return
        device = self._device[name].reserve(array.nbytes)
        self._gpu.copy_in(device, host, array.nbytes)
        self._context.set_tensor_address(name, device)

    def _fetch(self) -> dict[str, Value]:
        """Return the outputs, copied out of memory that the next run writes over."""
        shapes = {name: self._shapes.get(name, tuple(self._context.get_tensor_shape(name))) for name in self._outputs}
        for name, shape in shapes.items():
            size = self._types[name].itemsize * math.prod(shape)
            if not self._on_host(name) and size:
                self._gpu.copy_out(self._staging[name].reserve(size), self._device[name].address, size)
        self._gpu.synchronise()
        return {name: self._copy(name, shape) for name, shape in shapes.items()}

    def _copy(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if 0 in shape:
            return np.empty(shape, self._types[name])
        return _view(self._staging[name].address, shape, self._types[name]).copy()


def open_library(backend: str) -> Any:
    """Return the imported library.

    Raises:
        BackendError: If it is not installed or does not load.
    """
    try:
        return importlib.import_module(MODULES[backend])
    except (ImportError, OSError) as error:
        raise BackendError(f"{backend} cannot be used: {error} (pip install {backend})") from error


def builder_here(engine: EngineConfig, trt: Any, gpu: Gpu) -> Builder:
    """Return what engines of this machine are for."""
    return Builder(
        backend=engine.backend, version=trt.__version__, compute_capability=gpu.compute_capability, gpu=gpu.name,
        driver=gpu.driver,
    )  # fmt: skip


def obtain(index: int, engine: EngineConfig, builder: Builder) -> bytes:
    """Return the engine of a stage for this machine, built if none that fits is there.

    Args:
        index: Of the stage.
        engine: How to come by it.
        builder: Library and GPU of this machine.

    Raises:
        BackendError: If it cannot be built; the message says why it had to be, too.
    """
    cache = EngineCache(engine.folder)
    made_of = ingredients(engine, builder)
    ahead = ingredients(engine, replace(builder, gpu="", driver=""))
    found = cache.find(key_of(made_of)) or cache.find(key_of(ahead))
    if found is not None:
        return found
    try:
        return rebuild(index, engine, builder)
    except BackendError as error:
        raise BackendError(f"{cache.why_none(index, made_of)}; building it here failed: {error}") from error


def rebuild(index: int, engine: EngineConfig, builder: Builder) -> bytes:
    """Build the engine of a stage for `builder`, keep it in the package where that can be written, and return it.

    Raises:
        BackendError: If the library refuses.
    """
    with tempfile.TemporaryDirectory(prefix="engine-") as scratch:
        with contextlib.suppress(OSError):
            engine.folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(engine.folder, os.W_OK)
        target = Path(engine.folder if writable else scratch) / f"{index:02d}-{os.getpid()}.tmp"
        job = BuildJob(
            model=str(engine.model),
            engine=str(target),
            backend=engine.backend,
            inputs=engine.inputs,
            compute_capability="" if builder.gpu else builder.compute_capability,
            tf32=engine.precision == "tf32",
            timing_cache=str(engine.folder / "timing.cache") if writable else None,
        )
        try:
            report = build_apart(job)
            data = target.read_bytes()
            if writable:
                EngineCache(engine.folder).add(index, ingredients(engine, builder), target, report.seconds)
        finally:
            target.unlink(missing_ok=True)
    return data


def _most_rows(stage: StageConfig) -> int:
    """Return the most rows that every input of the engine takes."""
    inputs = stage.engine.inputs if stage.engine is not None else ()
    return min((given.shapes[2][0] for given in inputs if given.shapes[2]), default=1)


def _view(address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return the host memory at an address as an array that does not own it."""
    size = dtype.itemsize * math.prod(shape)
    if not size:
        return np.empty(shape, dtype)
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)


def _allocator(trt: Any, blocks: Mapping[str, Block], shapes: dict[str, tuple[int, ...]]) -> Any:
    """Return an allocator that gives each output its block, and notes the shapes that come out."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            return blocks[tensor_name].reserve(size)  # CUDA aligns to 256 bytes, engines ask for no more

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return blocks[tensor_name].reserve(size)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            shapes[tensor_name] = tuple(shape)

    return Allocator()
