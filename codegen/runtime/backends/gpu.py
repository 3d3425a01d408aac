"""The order of work on a GPU: three streams, so that copies in, computation and copies out of different requests overlap.

A run fills page-locked memory, queues its copies in, lets the computation wait for them and the copies out wait for the
computation, each through an event, and sleeps until its own last event has happened; it never waits for another run's
work. Several threads run at once: while one computes, the next one's tensors are on their way in and the last one's on
their way out. Computation itself is in one stream, in the order in which it is launched.

What a run uses (memory, events, tensors that others made) is its own until the device is done with it, also when it fails.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..config import Wanted
from ..dtypes import Value
from .base import BackendDied, BackendError, BackendGone
from .cuda import Gpu
from .device import Buffer, Device, DeviceTensor, Memory, Parts, Shape, array_over, as_array

SLOTS = 3
"""Runs at once: one on its way in, one that is computed, one on its way out."""
GRAPHS = 2 * SLOTS
"""Threads that have recorded runs of their own. A pipeline has `SLOTS`; those of another engine may come and go."""
_opened: dict[int, GpuExecutor] = {}
_opening = threading.Lock()


class GpuExecutor:
    """One device, shared by all of the device's stages.

    Args:
        device: The device.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.users = 1
        self.lost = False
        self.launching = threading.Lock()
        """Held while computation is queued: sessions, contexts and graphs are not for two threads at once."""
        self._events: deque[int] = deque()
        self.memory = Memory(device, pinned=False)
        self.pinned = Memory(device, pinned=True)
        self.streams = self.copies_in, self.computation, self.copies_out = (
            device.create_stream(), device.create_stream(), device.create_stream()
        )  # fmt: skip

    def close(self) -> None:
        """Let go of the device; it is closed when its last user has done so."""
        with _opening:
            self.users -= 1
            if self.users:
                return
            for index in [index for index, other in _opened.items() if other is self]:
                del _opened[index]
        with contextlib.suppress(BackendError):  # of a lost device nothing can be given back
            self.device.enter()
            self.settle()
        self.memory.close()
        self.pinned.close()
        with contextlib.suppress(BackendError):
            while self._events:
                self.device.destroy_event(self._events.pop())
            for stream in self.streams:
                self.device.destroy_stream(stream)

    def settle(self) -> None:
        """Wait until nothing is queued any more."""
        with self.launching:  # a capture in another thread must not be disturbed
            for stream in self.streams:
                self.device.synchronise(stream)

    def tensor(self, shape: Shape, dtype: np.dtype[Any], buffer: Buffer | None = None) -> DeviceTensor:
        """Return a tensor of the device, in new memory or in a buffer there is."""
        if buffer is None:
            buffer = self.memory.take(dtype.itemsize * math.prod(shape))
        return DeviceTensor(buffer.address, shape, dtype, owner=buffer, home=self)

    def fetch(self, tensor: DeviceTensor) -> np.ndarray:
        """Return a tensor of this device on the host.

        Raises:
            BackendError: If the device is lost.
        """
        try:
            with Flight(self) as flight:
                found: np.ndarray = flight.download({"": tensor}, {})[""]
        except BackendDied as death:
            raise BackendError(f"the GPU that held a tensor was lost ({death})") from death
        return found

    def event(self) -> int:
        """Return an event that nobody waits for."""
        try:
            return self._events.pop()
        except IndexError:
            return self.device.create_event()

    def give_back(self, event: int) -> None:
        """Keep an event for the next run."""
        self._events.append(event)


class Flight:
    """One run on its way through the streams; a context manager that ends when the device is done with it.

    Args:
        gpu: The device.
    """

    def __init__(self, gpu: GpuExecutor) -> None:
        self._gpu = gpu
        self._device = gpu.device
        self._held: list[Any] = []
        self._events: list[int] = []
        self._uploads = False
        self._last: int | None = None

    def __enter__(self) -> Self:
        try:
            self._device.enter()
        except BackendDied as death:
            known, self._gpu.lost = self._gpu.lost, True
            if known:
                raise BackendGone(str(death)) from death
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._gpu.lost |= isinstance(error, BackendDied)
        try:
            if error is not None:
                self._gpu.settle()  # what was queued before the failure still uses what this run holds
            elif self._last is not None:
                self._device.synchronise_event(self._last)
        except BackendError as failure:  # nothing that it still does can be waited for
            self._gpu.lost = True
            raise BackendDied(str(failure)) from failure
        for event in self._events:
            self._gpu.give_back(event)
        self._held.clear()

    def hold(self, what: Any) -> None:
        """Keep something until the device is done with this run."""
        self._held.append(what)

    def take(self, size: int) -> Buffer:
        """Return memory of the device that is this run's until its end."""
        buffer = self._gpu.memory.take(size)
        self._held.append(buffer)
        return buffer

    def take_pinned(self, size: int) -> Buffer:
        """Return page-locked memory that is this run's until its end."""
        buffer = self._gpu.pinned.take(size)
        self._held.append(buffer)
        return buffer

    def tensor(self, shape: Shape, dtype: np.dtype[Any], buffer: Buffer | None = None) -> DeviceTensor:
        """Return a tensor of the device that is this run's until its end, in new memory or in a buffer there is."""
        tensor = self._gpu.tensor(shape, dtype, buffer)
        self._held.append(tensor)
        return tensor

    def copied(self, tensor: DeviceTensor, stream: int) -> DeviceTensor:
        """Return a copy of a tensor whose own memory the next run writes over; it is queued on the stream."""
        target = self.tensor(tensor.shape, tensor.dtype)
        if tensor.nbytes:
            self._device.copy_within(target.address, tensor.address, tensor.nbytes, stream)
        return target

    def stage(self, value: Value, dtype: np.dtype[Any]) -> np.ndarray:
        """Return the value in page-locked memory."""
        array = np.asarray(as_array(value), dtype)
        staged = array_over(self.take_pinned(array.nbytes).address, array.shape, dtype, None)
        staged[...] = array
        return staged

    def upload(self, value: Value, dtype: np.dtype[Any], into: DeviceTensor | None = None) -> DeviceTensor:
        """Return the value on the device; its copy is queued, and `computing` waits for it.

        Args:
            value: An array, a tensor of a device, or `Parts` of both.
            dtype: Type of its elements on the device.
            into: The tensor whose place it must take; None for anywhere.

        Raises:
            BackendError: If it has another shape than that.
        """
        given = value if isinstance(value, Parts) else (value,)
        parts = tuple(part if self._is_here(part) else np.asarray(as_array(part), dtype) for part in given)
        self._held += parts
        if into is None and len(parts) == 1 and isinstance(parts[0], DeviceTensor):
            return parts[0]
        shape = parts[0].shape if len(parts) == 1 else (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
        if into is not None and shape != into.shape:
            raise BackendError(f"an input has shape {shape}, and only {into.shape} is taken")
        target = self.tensor(shape, dtype) if into is None else into
        self._copy_in(parts, target, dtype)
        return target

    def _is_here(self, part: Value) -> bool:
        return isinstance(part, DeviceTensor) and part.home is self._gpu

    def _copy_in(self, parts: tuple[Value, ...], target: DeviceTensor, dtype: np.dtype[Any]) -> None:
        stream, start = self._gpu.copies_in, target.address
        staged = 0
        if any(not isinstance(part, DeviceTensor) and part.nbytes for part in parts):
            staged = self.take_pinned(target.nbytes).address - target.address
        for part in parts:
            if not part.nbytes:
                continue
            if isinstance(part, DeviceTensor):
                self._device.copy_within(start, part.address, part.nbytes, stream)
            else:
                array_over(start + staged, part.shape, dtype, None)[...] = part
                self._device.copy_in(start, start + staged, part.nbytes, stream)
            start += part.nbytes
            self._uploads = True

    @contextlib.contextmanager
    def computing(self) -> Iterator[int]:
        """Give the stream to queue the computation on, after this run's copies in; nobody else queues meanwhile."""
        uploaded = self._record(self._gpu.copies_in) if self._uploads else None
        with self._gpu.launching:
            if uploaded is not None:
                self._device.wait(self._gpu.computation, uploaded)
            yield self._gpu.computation
            self._last = self._record(self._gpu.computation)

    def download(self, tensors: Mapping[str, DeviceTensor], wanted: Mapping[str, Wanted]) -> dict[str, Value]:
        """Return the tensors where they are wanted, when the computation and the copies out are done.

        Args:
            tensors: What was computed.
            wanted: Of each, where; what is not in it leaves the pipeline.
        """
        where = {name: wanted.get(name, Wanted.RESULT) for name in tensors}
        staged: dict[str, np.ndarray] = {}
        stream = self._gpu.copies_out
        if self._last is not None:
            self._device.wait(stream, self._last)
        for name, tensor in tensors.items():
            self._held.append(tensor)
            if where[name] & (Wanted.HOST | Wanted.RESULT):
                buffer = self.take_pinned(tensor.nbytes)
                if tensor.nbytes:
                    self._device.copy_out(buffer.address, tensor.address, tensor.nbytes, stream)
                staged[name] = array_over(buffer.address, tensor.shape, tensor.dtype, buffer)
        if staged:
            self._last = self._record(stream)
        if self._last is not None:
            self._device.synchronise_event(self._last)
            self._last = None
        return {name: _placed(tensors[name], staged.get(name), place) for name, place in where.items() if place}

    def _record(self, stream: int) -> int:
        event = self._gpu.event()
        self._events.append(event)
        self._device.record(event, stream)
        return event


def _placed(tensor: DeviceTensor, staged: np.ndarray | None, place: Wanted) -> Value:
    """Return a tensor in the memory, host or device, from which the receivers read the tensor."""
    if staged is not None and place & Wanted.RESULT:
        staged = staged.copy()  # its receiver may keep it for ever, and page-locked memory is scarce
    if place & Wanted.DEVICE:
        return tensor if staged is None else tensor.with_host(staged)
    return staged


def open_gpu(index: int = 0) -> GpuExecutor:
    """Return the executor of a GPU, the same for all stages of this process.

    Raises:
        BackendError: If there is no driver or GPU.
    """
    with _opening:
        there = _opened.get(index)
        if there is not None and not there.lost:
            there.users += 1
            return there
        _opened[index] = GpuExecutor(Gpu(index))
        return _opened[index]
