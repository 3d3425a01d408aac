"""Run a stage as an engine of TensorRT or TensorRT-RTX.

Written against what TensorRT 10, TensorRT 11 and TensorRT-RTX have in common. Runs are queued on the stream of the GPU's
executor; the shape of an output may depend on the data. Runs of the shapes that the engine is tuned for are recorded as CUDA
graphs.

An engine that fits this GPU, driver and library is loaded; where none does, it is built from the stage's ONNX file. At the
first start its numbers are compared with that file's. Where any of it fails, or there is no GPU, onnxruntime runs the stage,
on its CUDA provider or on the CPU, and says why. Inputs whose shapes are outside the engine's range go the same way
(`fallback`).
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..config import StageConfig
from ..dtypes import ELEMENT_TYPES, Value
from ..engine_config import EngineConfig
from . import onnxruntime_cuda
from .base import BackendDied, BackendError, BackendOptions, StageBackend
from .device import Buffer, Device, DeviceTensor, Shape, array_over, shape_of
from .engine_build import MODULES, BuildJob, build_apart
from .engine_cache import Builder, EngineCache, ingredients, key_of
from .engine_check import confirm
from .fallback import Candidate, load_first
from .gpu import GRAPHS, SLOTS, Flight, GpuExecutor, open_gpu
from .onnxruntime import OnnxRuntimeBackend
from .tensorrt_run import RecordedRun, output_allocator

_ELEMENTS = {
    "FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
"""Element types of engines by their name in the library."""
_log = logging.getLogger(__name__)


def load(stage: StageConfig, options: BackendOptions) -> StageBackend:
    """Return the stage as an engine with onnxruntime behind it, or in onnxruntime with the reason why not as an engine.

    Raises:
        BackendError: If onnxruntime cannot load it either.
    """
    return load_first(candidates(stage, options))


def candidates(stage: StageConfig, options: BackendOptions) -> tuple[Candidate, ...]:
    """Return the backends that may run a stage which is planned as an engine, the engine first."""
    return (
        Candidate(name=stage.backend, load=partial(TensorRtBackend.load, stage, options), failure="no engine runs it"),
        Candidate(
            name="onnxruntime-cuda",
            load=partial(onnxruntime_cuda.load, stage, options),
            failure="onnxruntime's CUDA provider does not run it",
        ),
        Candidate(
            name="onnxruntime-cpu",
            load=partial(OnnxRuntimeBackend.load, stage, options),
            failure="onnxruntime's CPU provider does not run it",
        ),
    )


class TensorRtBackend:
    """One engine. It has one execution context, or, where it can be recorded as a CUDA graph, one for each thread.

    Args:
        trt: The library.
        gpu: The executor; let go of with this.
        plan: The engine.
        stage: The stage.

    Raises:
        BackendError: If the engine does not load here or is not the stage's.
    """

    device = "gpu"
    substitution = None
    slots = SLOTS
    joins = True

    @classmethod
    def load(cls, stage: StageConfig, options: BackendOptions) -> TensorRtBackend:
        """Return the stage with its engine, from the cache or newly built, its numbers compared with the stage's.

        Raises:
            BackendError: If there is no GPU or library, or the engine cannot be built or loaded, or its numbers are wrong.
        """
        if stage.engine is None:
            raise BackendError("the plan does not say how to build its engine")
        trt, gpu = open_library(stage.engine.backend), open_gpu()
        try:
            builder = builder_here(stage.engine, trt, gpu.device)
            plan = obtain(stage.index, stage.engine, builder)
            loaded = cls(trt, gpu, plan, stage)
        except BaseException:
            gpu.close()
            raise
        try:
            confirm(loaded, stage, options, plan, builder)
            loaded.forget_recorded()
        except BaseException:
            loaded.close()
            raise
        return loaded

    def __init__(self, trt: Any, gpu: GpuExecutor, plan: bytes, stage: StageConfig) -> None:
        self._trt, self._gpu, self._stage = trt, gpu, stage
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise BackendError("the engine does not load on this GPU")
        self._types = {name: self._element(name) for name in self._names()}
        expected = {*stage.inputs, *stage.outputs}
        if set(self._types) != expected:
            raise BackendError(f"the engine's tensors are {sorted(self._types)}, the plan says {sorted(expected)}")
        self._on_host = {name for name in self._types if self._engine.get_tensor_location(name) == trt.TensorLocation.HOST}
        self._ranges = {name: self._range(name) for name in stage.inputs if name not in self._on_host}
        self._scratch = gpu.memory.take(self._engine.device_memory_size_v2)
        self._context = self._create_context()
        self._allocator = output_allocator(trt)
        self._graphs: dict[int, RecordedRun] = {}
        self.no_graph: str | None = None
        """Why runs are not recorded as CUDA graphs; None where they are."""
        self._give_up_graphs(self._why_no_graph())
        self.max_batch = _most_rows(stage)

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        self._check_shapes(feeds)
        with Flight(self._gpu) as flight:
            recorded = self._recorded() if self.no_graph is None and self._is_usual(feeds) else None
            if recorded is not None:
                outputs = recorded.run(flight, feeds)
                self._give_up_graphs(recorded.refused)
                return flight.download(outputs, self._stage.wanted)
            staged = {
                name: flight.stage(feeds[name], self._types[name]) for name in self._stage.inputs if name in self._on_host
            }
            given = {
                name: flight.upload(feeds[name], self._types[name]) for name in self._stage.inputs if name not in self._on_host
            }
            with flight.computing() as stream:
                outputs, on_host = self._queue(flight, stream, given, staged)
            found = flight.download(outputs, self._stage.wanted)
            return found | {name: array.copy() for name, array in on_host.items()}

    def forget_recorded(self) -> None:
        """Give back the runs that were recorded: each belongs to a thread, and there are as many as threads that work."""
        with contextlib.suppress(BackendError):  # of a lost device nothing can be given back
            self._gpu.device.enter()
            for recorded in self._graphs.values():
                recorded.close()
        self._graphs.clear()

    def close(self) -> None:
        """Release the engine and its memory, and let go of the GPU."""
        self.forget_recorded()
        del self._context, self._scratch, self._engine, self._runtime
        self._gpu.close()
        del self._gpu

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _element(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name).name
        if kind not in _ELEMENTS:
            raise BackendError(f"the engine's tensor {name!r} has type {kind}")
        return ELEMENT_TYPES[_ELEMENTS[kind]].storage

    def _create_context(self) -> Any:
        """Return a new execution context. All compute in the same memory, for only one is in the stream at a time."""
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise BackendError("the engine's context does not fit into the memory of the GPU")
        context.set_device_memory(self._scratch.address, self._scratch.size)
        return context

    def _range(self, name: str) -> tuple[Shape, Shape, Shape]:
        """Return the least shape that the engine takes at an input, the one it is tuned for, and the largest."""
        least, usual, most = self._engine.get_tensor_profile_shape(name, 0)
        return tuple(least), tuple(usual), tuple(most)

    def _is_usual(self, feeds: Mapping[str, Value]) -> bool:
        return all(shape_of(feeds[name]) == usual for name, (_, usual, _) in self._ranges.items())

    def _check_shapes(self, feeds: Mapping[str, Value]) -> None:
        """Check shapes before anything is queued: after a failed run the whole GPU would be waited for."""
        for name, (least, _, most) in self._ranges.items():
            shape = shape_of(feeds[name])
            if len(shape) != len(least) or not all(
                low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
            ):
                raise self._out_of_range(name, shape)

    def _out_of_range(self, name: str, shape: Shape) -> BackendError:
        least, _, most = self._range(name)
        return BackendError(f"the engine takes {name!r} of shape {least} to {most}, not {shape}")

    def _set_shape(self, context: Any, name: str, shape: Shape) -> None:
        if not context.set_input_shape(name, shape):
            raise self._out_of_range(name, shape)

    def _queue(
        self, flight: Flight, stream: int, given: Mapping[str, DeviceTensor], staged: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, DeviceTensor], dict[str, np.ndarray]]:
        """Queue a run, and return its outputs on the device and on the host.

        An output whose shape follows from the inputs' gets its memory here, one whose shape depends on the data from the
        allocator while the engine runs; the library waits for such a shape before it returns.
        """
        context = self._context
        for name, tensor in given.items():
            self._set_shape(context, name, tensor.shape)
            context.set_tensor_address(name, tensor.address)
        for name, array in staged.items():
            self._set_shape(context, name, array.shape)
            context.set_tensor_address(name, array.ctypes.data)
        outputs: dict[str, DeviceTensor] = {}
        on_host: dict[str, Buffer] = {}
        open_ended: list[str] = []
        for name in self._stage.outputs:
            shape = tuple(context.get_tensor_shape(name))
            if name in self._on_host:
                on_host[name] = flight.take_pinned(context.get_max_output_size(name))
                context.set_tensor_address(name, on_host[name].address)
            elif min(shape, default=0) >= 0:
                outputs[name] = flight.tensor(shape, self._types[name])
                context.set_tensor_address(name, outputs[name].address)
            else:
                open_ended.append(name)
                context.set_output_allocator(name, self._allocator)
        with self._allocator.working_for(flight) as made:
            if not context.execute_async_v3(stream):
                raise BackendError("the engine does not run on these inputs")
            for name in open_ended:
                buffer, shape = made(name)
                outputs[name] = flight.tensor(shape, self._types[name], buffer)
        shapes = {name: tuple(context.get_tensor_shape(name)) for name in on_host}
        return outputs, {name: array_over(on_host[name].address, shapes[name], self._types[name], None) for name in on_host}

    def _why_no_graph(self) -> str | None:
        """Return why a run cannot be recorded: a graph has its shapes and addresses in it, and no part of it is the host's."""
        if self._on_host:
            return f"{min(self._on_host)!r} is read or written on the host"
        for name, (_, usual, _) in self._ranges.items():
            self._set_shape(self._context, name, usual)
        for name in self._stage.outputs:
            if min(self._context.get_tensor_shape(name), default=0) < 0:
                return f"the shape of {name!r} depends on the data"
        return None

    def _recorded(self) -> RecordedRun | None:
        """Return the run that was recorded for this thread; None where that does not work or enough threads have one."""
        thread = threading.get_ident()
        if thread not in self._graphs:
            try:
                with self._gpu.launching:
                    if len(self._graphs) == GRAPHS:
                        return None
                    context = self._create_context()
                    shapes = {name: usual for name, (_, usual, _) in self._ranges.items()}
                    for name, shape in shapes.items():
                        self._set_shape(context, name, shape)
                    shapes |= {name: tuple(context.get_tensor_shape(name)) for name in self._stage.outputs}
                    self._graphs[thread] = RecordedRun(self._gpu, context, self._stage, shapes, self._types)
            except BackendDied:
                raise
            except BackendError as error:
                self._give_up_graphs(str(error))
                return None
        return self._graphs[thread]

    def _give_up_graphs(self, reason: str | None) -> None:
        if reason is not None and self.no_graph is None:
            self.no_graph = reason
            _log.info("stage %d runs without a CUDA graph: %s", self._stage.index, reason)


def open_library(backend: str) -> Any:
    """Return the imported library.

    Raises:
        BackendError: If it is not installed or does not load.
    """
    try:
        return importlib.import_module(MODULES[backend])
    except (ImportError, OSError) as error:
        raise BackendError(f"{backend} cannot be used: {error} (pip install {backend})") from error


def builder_here(engine: EngineConfig, trt: Any, gpu: Device) -> Builder:
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
