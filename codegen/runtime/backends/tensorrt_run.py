"""What a run of an engine needs beside its inputs: memory for outputs of unknown size, and runs recorded as CUDA graphs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..config import StageConfig, Wanted
from ..dtypes import Value
from .base import BackendError
from .device import Buffer, DeviceTensor, Shape
from .gpu import Flight, GpuExecutor


class RecordedRun:
    """A run of an engine with fixed shapes as a CUDA graph, with the memory and the execution context that are in it.

    A context must not be touched once it was recorded, so each recorded run has its own. The first run is an ordinary one:
    the library may still arrange itself then.

    Args:
        gpu: The executor.
        context: The engine's execution context, its input shapes set.
        stage: The stage.
        shapes: Shape of each input and output.
        types: Element type of each.

    Source:
        NVIDIA TensorRT documentation, Performance best practices, CUDA graphs.
    """

    def __init__(
        self,
        gpu: GpuExecutor,
        context: Any,
        stage: StageConfig,
        shapes: Mapping[str, Shape],
        types: Mapping[str, np.dtype[Any]],
    ) -> None:
        self._device, self._context, self._graph = gpu.device, context, 0
        self._kept = {name for name, place in stage.wanted.items() if place & Wanted.DEVICE}
        tensors = {name: gpu.tensor(shape, types[name]) for name, shape in shapes.items()}
        for name, tensor in tensors.items():
            context.set_tensor_address(name, tensor.address)
        self._inputs = {name: tensors[name] for name in stage.inputs}
        self._outputs = {name: tensors[name] for name in stage.outputs}
        self.refused: str | None = None
        """Why there is no graph after the first run."""

    def run(self, flight: Flight, feeds: Mapping[str, Value]) -> dict[str, DeviceTensor]:
        """Queue a run and return its outputs.

        Raises:
            BackendError: If an input has another shape, or the engine does not run.
        """
        for name, tensor in self._inputs.items():
            flight.upload(feeds[name], tensor.dtype, tensor)
        with flight.computing() as stream:
            if self._graph:
                self._device.launch(self._graph, stream)
            else:
                self._execute(stream)
                self._record(stream)
            return {
                name: flight.copied(tensor, stream) if name in self._kept else tensor for name, tensor in self._outputs.items()
            }

    def close(self) -> None:
        """Give the graph back."""
        if self._graph:
            self._device.destroy_graph(self._graph)
            self._graph = 0

    def _execute(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise BackendError("the engine does not run on these inputs")

    def _record(self, stream: int) -> None:
        """Record a run, without running it."""
        if self.refused is not None:
            return
        try:
            self._device.begin_capture(stream)
            try:
                self._execute(stream)
            finally:
                graph = self._device.end_capture(stream)
        except BackendError as error:
            self.refused = str(error)
        else:
            self._graph = graph


def output_allocator(trt: Any) -> Any:
    """Return an allocator for outputs whose shape depends on the data, for one run after the other.

    Within ``working_for(flight)`` it takes that run's memory; what this gives returns an output's buffer and shape.
    """

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self._flight: Flight | None = None
            self._buffers: dict[str, Buffer] = {}
            self._shapes: dict[str, Shape] = {}

        @contextlib.contextmanager
        def working_for(self, flight: Flight) -> Iterator[Callable[[str], tuple[Buffer, Shape]]]:
            self._flight = flight
            try:
                yield lambda name: (self._buffers[name], self._shapes[name])
            finally:
                self._flight = None
                self._buffers, self._shapes = {}, {}

        def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
            assert self._flight is not None
            self._buffers[tensor_name] = self._flight.take(size)  # CUDA aligns to 256 bytes, engines ask for no more
            return self._buffers[tensor_name].address

        def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            return self.reallocate_output(tensor_name, memory, size, alignment)

        def notify_shape(self, tensor_name: str, shape: Any) -> None:
            self._shapes[tensor_name] = tuple(shape)

    return Allocator()
