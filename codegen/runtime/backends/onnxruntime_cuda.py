"""Run a stage in ONNX Runtime's CUDA provider, on the streams of the GPU's executor, with inputs and outputs bound.

What a session may do depends on the model, so the strongest way that ONNX Runtime takes is found when it is loaded:

- a CUDA graph, where every shape is fixed and every node runs on the GPU. ONNX Runtime keeps a graph for each thread and
  each ``gpu_graph_id``, and always reads and writes the memory that it was recorded with, so each thread has its own;
- a run that ends when its kernels are queued, where every node runs on the GPU;
- a run that ends when the stream is done, where nodes on the CPU hand memory of the host over inside it.

A batchable stage has a session for each of a few numbers of rows. cuDNN plans each convolution anew whenever a size changes
(a network of 37 convolutions whose batches were of seven and eight rows in turns: 325 ms a run on an H100, 0.7 ms with one
size; onnxruntime 1.31.1), and a graph can be recorded only where sizes are fixed.

Source:
    ONNX Runtime, CUDA Execution Provider: performance tuning, CUDA graphs; onnxruntime_run_options_config_keys.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import itertools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import build_and_package_info

from ..config import StageConfig, Wanted
from ..dtypes import ELEMENT_TYPES, Value
from .archive import ARCHIVE
from .base import BackendDied, BackendError, BackendOptions
from .device import DeviceTensor
from .gpu import GRAPHS, SLOTS, Flight, GpuExecutor, open_gpu
from .onnxruntime import BFLOAT16, BFLOAT16_CODE, CPU, CUDA, OnnxRuntimeBackend, model_inputs, open_session
from .sized import SizedBackend

_log = logging.getLogger(__name__)
_CUDNN = "libcudnn.so.9"


class Way(Enum):
    """How a session's runs come to their end; see the module."""

    GRAPH = "graph"
    QUEUED = "queued"
    AWAITED = "awaited"


def load(stage: StageConfig, options: BackendOptions) -> OnnxRuntimeCudaBackend | SizedBackend | OnnxRuntimeBackend:
    """Return the stage on the CUDA provider, a session for each size of a batch, or on the CPU provider with the reason.

    Raises:
        BackendError: If the CPU provider cannot load it either.
    """
    if CUDA not in ort.get_available_providers():
        return OnnxRuntimeBackend.load(stage, options, "this onnxruntime has no CUDA provider (pip install onnxruntime-gpu)")
    _find_libraries()
    try:
        if stage.batchable and stage.rows_axis:
            return SizedBackend(partial(OnnxRuntimeCudaBackend.load, stage, options), options.max_batch)
        return OnnxRuntimeCudaBackend.load(stage, options)
    except BackendError as error:
        return OnnxRuntimeBackend.load(stage, options, f"the CUDA provider failed: {error}")


class OnnxRuntimeCudaBackend:
    """One session on a GPU.

    Args:
        gpu: The executor; let go of with this.
        stage: The stage.
        open_session: Opens its model in one of the ways on the executor's stream; raises `BackendError`.
    """

    device = "gpu"
    slots = SLOTS
    joins = True

    @classmethod
    def load(cls, stage: StageConfig, options: BackendOptions, rows: int | None = None) -> OnnxRuntimeCudaBackend:
        """Return the stage, loaded on the GPU, for one number of rows or for any.

        Raises:
            BackendError: If CUDA does not work, or the model cannot be opened there.
        """
        if any(one.file is not None and one.file.suffix == ARCHIVE for one in options.custom_ops):
            raise BackendError("Python functions in the graph run on the CPU only")
        gpu = open_gpu()
        try:
            return cls(gpu, stage, partial(open_way, stage, options, gpu, rows))
        except BaseException:
            gpu.close()
            raise

    def __init__(self, gpu: GpuExecutor, stage: StageConfig, open_session: Callable[[Way], ort.InferenceSession]) -> None:
        self._gpu, self._stage, self._open = gpu, stage, open_session
        self.substitution: str | None = None
        self.refused: dict[Way, str] = {}
        """Why a stronger way than `way` is not taken."""
        self._slots: dict[int, _Slot] = {}
        self._ids = itertools.count(1)
        self.way = Way.GRAPH
        self._session = self._first_that_works()
        for way, reason in self.refused.items():
            _log.info("stage %d runs %s on the GPU, not %s: %s", stage.index, self.way.value, way.value, reason)

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        with Flight(self._gpu) as flight:
            slot = self._slot() if self.way is Way.GRAPH else None
            inputs = {
                name: flight.upload(feeds[name], binding.dtype, None if slot is None else slot.inputs[name])
                for name, binding in self._inputs.items()
            }
            with flight.computing() as stream:
                outputs = self._queue(flight, inputs) if slot is None else self._replay(flight, slot, stream)
            return flight.download(outputs, self._stage.wanted)

    def close(self) -> None:
        """Drop the session, and let go of the GPU."""
        self._slots.clear()
        self._gpu.close()
        del self._session, self._open, self._gpu

    def _first_that_works(self) -> ort.InferenceSession:
        for way in Way:
            self.way = way
            try:
                session = self._open(way)
                self._inputs = {node.name: _Tensor.of(node) for node in model_inputs(session, self._stage)}
                self._outputs = {node.name: _Tensor.of(node) for node in session.get_outputs()}
                self._options = _run_options(way)
                if way is Way.GRAPH:
                    self._session = session
                    self._record()
                return session
            except BackendDied:
                raise
            except BackendError as error:
                self._slots.clear()
                if way is Way.AWAITED:
                    raise
                self.refused[way] = str(error)
        raise AssertionError  # the last way returns or raises

    def _record(self) -> None:
        """Run once, for ONNX Runtime tells only then whether it can record the model."""
        changing = [name for name, tensor in (self._inputs | self._outputs).items() if tensor.shape is None]
        if changing:
            raise BackendError(f"the shape of {changing[0]!r} is not fixed")
        self.run({name: np.zeros(tensor.shape or (), tensor.dtype) for name, tensor in self._inputs.items()})
        self._slots.clear()

    def _queue(self, flight: Flight, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Run; outputs of fixed shape lie in memory of ours, the others where ONNX Runtime puts them."""
        outputs = {
            name: None if tensor.shape is None else flight.tensor(tensor.shape, tensor.dtype)
            for name, tensor in self._outputs.items()
        }
        binding = self._bind(inputs, outputs)
        self._run(binding, self._options)
        flight.hold(binding)
        values = dict(zip(outputs, binding.get_outputs(), strict=True))
        return {name: self._made(name, values[name], binding) if place is None else place for name, place in outputs.items()}

    def _made(self, name: str, value: ort.OrtValue, binding: ort.IOBinding) -> DeviceTensor:
        shape, dtype = tuple(value.shape()), self._outputs[name].dtype
        return DeviceTensor(value.data_ptr(), shape, dtype, owner=(value, binding), home=self._gpu)

    def _replay(self, flight: Flight, slot: _Slot, stream: int) -> dict[str, DeviceTensor]:
        self._run(slot.binding, slot.options)
        kept = {name for name, place in self._stage.wanted.items() if place & Wanted.DEVICE}
        return {name: flight.copied(tensor, stream) if name in kept else tensor for name, tensor in slot.outputs.items()}

    def _run(self, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        try:
            self._session.run_with_iobinding(binding, options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class narrower
            raise BackendError(str(error)) from error

    def _bind(self, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor | None]) -> ort.IOBinding:
        binding, kind = self._session.io_binding(), self._gpu.device.kind
        for name, given in inputs.items():
            binding.bind_input(name, kind, 0, self._inputs[name].code, given.shape, given.address)
        for name, place in outputs.items():
            if place is None:
                binding.bind_output(name, kind, 0)
            else:
                binding.bind_output(name, kind, 0, self._outputs[name].code, place.shape, place.address)
        return binding

    def _slot(self) -> _Slot | None:
        """Return the memory and the binding that this thread's graph was recorded with; None if enough threads have one."""
        thread = threading.get_ident()
        if thread in self._slots:
            return self._slots[thread]
        with self._gpu.launching:
            if len(self._slots) == GRAPHS:
                return None
            inputs = {name: self._gpu.tensor(tensor.shape or (), tensor.dtype) for name, tensor in self._inputs.items()}
            outputs = {name: self._gpu.tensor(tensor.shape or (), tensor.dtype) for name, tensor in self._outputs.items()}
            options = _run_options(Way.GRAPH, graph=next(self._ids))
            self._slots[thread] = _Slot(inputs, outputs, self._bind(inputs, outputs), options)
        return self._slots[thread]


@dataclass(frozen=True, slots=True)
class _Slot:
    """What one thread's graph reads and writes."""

    inputs: Mapping[str, DeviceTensor]
    outputs: Mapping[str, DeviceTensor]
    binding: ort.IOBinding
    options: ort.RunOptions


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input or output: numpy's type, ONNX Runtime's name for it, and its shape if that is fixed."""

    dtype: np.dtype[Any]
    code: Any
    shape: tuple[int, ...] | None

    @classmethod
    def of(cls, node: Any) -> _Tensor:
        """Return what a session says of one.

        Raises:
            BackendError: If it cannot be bound: it is text, or no tensor.
        """
        name = node.type.removeprefix("tensor(").removesuffix(")")
        element = ELEMENT_TYPES.get({"float": "float32", "double": "float64"}.get(name, name))
        if element is None or element.is_string:
            raise BackendError(f"{node.name!r} is of type {node.type}, which cannot lie on the GPU")
        fixed = all(isinstance(size, int) for size in node.shape)
        code = BFLOAT16_CODE if node.type == BFLOAT16 else element.storage.type
        return cls(element.storage, code, tuple(node.shape) if fixed else None)


def open_way(stage: StageConfig, options: BackendOptions, gpu: GpuExecutor, rows: int | None, way: Way) -> ort.InferenceSession:
    """Return a session on a stage's model whose runs can end in this way, on the executor's stream.

    Args:
        stage: The stage.
        options: Its threads and custom operators.
        gpu: The executor.
        rows: The only number of rows that it will be given; None for any.
        way: How its runs end.

    Raises:
        BackendError: If ONNX Runtime does not take the model so, or CUDA does not work.
    """
    provider = {
        "device_id": "0",
        "user_compute_stream": str(gpu.computation),
        "do_copy_in_default_stream": "1",  # that is the stream above: copies inside a run keep their order
        "use_tf32": "1" if stage.engine is not None and stage.engine.precision == "tf32" else "0",  # by itself it uses it
        "cudnn_conv_algo_search": "HEURISTIC",  # else it tries every algorithm for each new shape, as each size of batch is
    }
    if way is Way.GRAPH:
        provider["enable_cuda_graph"] = "1"
    # ONNX Runtime takes either a CPU provider that is named, or the entry.
    rest, entries = ([CPU], {}) if way is Way.AWAITED else ([], {"session.disable_cpu_ep_fallback": "1"})
    with gpu.launching:  # opening allocates and copies on the stream
        session = open_session(stage, options, [(CUDA, provider), *rest], entries, rows)
    if CUDA not in session.get_providers():
        # ONNX Runtime falls back by itself, without an error, when the driver or cuDNN is missing.
        raise BackendError("it could not start (driver, CUDA or cuDNN missing)")
    return session


def _run_options(way: Way, graph: int = -1) -> ort.RunOptions:
    options = ort.RunOptions()
    if way is Way.GRAPH:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    if way is not Way.AWAITED:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


def _find_libraries() -> None:
    """Load CUDA and cuDNN where pip installed them (onnxruntime-gpu[cuda,cudnn]), if the linker does not find them itself.

    It takes four seconds (H100, onnxruntime 1.31.1), for it loads what this process never needs.
    """
    if hasattr(ort, "preload_dlls") and not _are_linked():  # it prints what it does not find; the session then does not open
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            ort.preload_dlls()


def _are_linked() -> bool:
    """Return whether the linker finds the libraries that onnxruntime was built for."""
    major = str(getattr(build_and_package_info, "cuda_version", "")).partition(".")[0]
    try:
        for name in (f"libcublasLt.so.{major}", _CUDNN):
            ctypes.CDLL(name)
    except OSError:
        return False
    return True
