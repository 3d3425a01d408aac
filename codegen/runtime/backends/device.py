"""What a GPU is to the code that runs stages on it: memory, streams, events, graphs; and tensors that lie in its memory.

`cuda.Gpu` is the real one. Everything above it (`gpu`, the backends) is written against `Device`, so that its order of
work can be tested where there is no GPU, over a device made of host memory.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from ..dtypes import Value
from .base import BackendError

_SMALLEST = 12  # log2 of the smallest block: a page
Shape = tuple[int, ...]


class Device(Protocol):
    """One device. Copies and graphs are queued on a stream, in order; every handle is a number.

    Every method raises `BackendError` if it fails, `BackendDied` if the device is lost.
    """

    kind: str
    """ONNX Runtime's name for its memory."""

    @property
    def name(self) -> str:
        """Product name."""

    @property
    def compute_capability(self) -> str:
        """``major.minor``."""

    @property
    def driver(self) -> str:
        """Version of the driver."""

    def enter(self) -> None:
        """Make the calling thread one that uses the device."""

    def allocate(self, size: int) -> int:
        """Return the address of new memory of the device."""

    def free(self, address: int) -> None:
        """Give device memory back."""

    def allocate_pinned(self, size: int) -> int:
        """Return the address of new memory of the host that the device copies from and to by itself."""

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy to the device."""

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy to the host."""

    def copy_within(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from the device to the device."""

    def create_stream(self) -> int:
        """Return a new stream; what is queued on different ones has no order but that of events."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def create_event(self) -> int:
        """Return a new event."""

    def destroy_event(self, event: int) -> None:
        """Give an event back."""

    def record(self, event: int, stream: int) -> None:
        """Let the event happen when what is queued on the stream now is done."""

    def wait(self, stream: int, event: int) -> None:
        """Hold what is queued on the stream from now on until the event's last record has happened."""

    def synchronise_event(self, event: int) -> None:
        """Block until the event's last record has happened."""

    def synchronise(self, stream: int) -> None:
        """Block until all that is queued on the stream is done."""

    def begin_capture(self, stream: int) -> None:
        """Collect what this thread queues on the stream, instead of doing it."""

    def end_capture(self, stream: int) -> int:
        """Return what was collected as a graph that can be launched again and again."""

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""


class Buffer:
    """A block of memory; it goes back to where it came from when nobody refers to it any more.

    Args:
        memory: Where it came from.
        address: Its first byte.
        size: Its bytes.
    """

    __slots__ = ("_memory", "address", "size")

    def __init__(self, memory: Memory, address: int, size: int) -> None:
        self._memory, self.address, self.size = memory, address, size

    def __del__(self) -> None:
        self._memory.take_back(self.address, self.size)


class Memory:
    """Memory of one kind. Blocks that come back are kept for the next run, because a device allocates slowly.

    There are four sizes of block between a power of two and the next, so that shapes which change from run to run use few.
    Of each size there are as many as were in use at once.

    Args:
        device: The device.
        pinned: Page-locked memory of the host, or the device's own.
    """

    def __init__(self, device: Device, *, pinned: bool) -> None:
        self._device = device
        self._allocate: Callable[[int], int] = device.allocate_pinned if pinned else device.allocate
        self._release: Callable[[int], None] = device.free_pinned if pinned else device.free
        self._idle: defaultdict[int, deque[int]] = defaultdict(deque)
        self._closed = False

    def take(self, size: int) -> Buffer:
        """Return a block of at least `size` bytes; the thread must have entered the device."""
        step = 1 << max(_SMALLEST, (size - 1).bit_length() - 3)
        room = max(-(-size // step), 1) * step
        try:
            return Buffer(self, self._idle[room].pop(), room)
        except IndexError:
            pass
        try:
            address = self._allocate(room)
        except BackendError:
            self.trim()  # what is kept for other sizes may be in the way
            address = self._allocate(room)
        return Buffer(self, address, room)

    def take_back(self, address: int, size: int) -> None:
        """Keep a block for the next run. Called by the garbage collector, in any thread: takes no lock."""
        self._idle[size].append(address)
        if self._closed:
            self.trim()

    def trim(self) -> None:
        """Give back what nobody uses."""
        for addresses in list(self._idle.values()):
            with contextlib.suppress(IndexError):
                while True:
                    address = addresses.pop()
                    with contextlib.suppress(BackendError):  # of a lost device nothing can be given back
                        self._device.enter()
                        self._release(address)

    def close(self) -> None:
        """Give everything back: what nobody uses now, the rest when it is let go."""
        self._closed = True
        self.trim()


class Home(Protocol):
    """What can copy tensors of its device to the host."""

    def fetch(self, tensor: DeviceTensor) -> np.ndarray:
        """Return the tensor on the host; raises `BackendError` if the device is lost."""


class DeviceTensor:
    """A tensor in the memory of a device, complete: nothing that is queued writes to it any more.

    Args:
        address: Its first byte.
        shape: Its shape.
        dtype: Type of its elements; they lie densely in C order.
        owner: What keeps the memory.
        home: What runs the device.
        host: The same on the host, where that was needed too.
    """

    __slots__ = ("_host", "address", "dtype", "home", "owner", "shape")

    def __init__(
        self, address: int, shape: Shape, dtype: np.dtype[Any], *, owner: Any, home: Home, host: np.ndarray | None = None
    ) -> None:
        self.address, self.shape, self.dtype, self.owner, self.home = address, shape, dtype, owner, home
        self._host = host

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.dtype.itemsize * math.prod(self.shape)

    def with_host(self, host: np.ndarray) -> DeviceTensor:
        """Return the tensor together with its copy on the host."""
        return DeviceTensor(self.address, self.shape, self.dtype, owner=self.owner, home=self.home, host=host)

    def __getitem__(self, rows: slice) -> DeviceTensor:
        start, stop, _ = rows.indices(self.shape[0])
        row = self.dtype.itemsize * math.prod(self.shape[1:])
        shape = (max(0, stop - start), *self.shape[1:])
        host = None if self._host is None else self._host[rows]
        return DeviceTensor(self.address + start * row, shape, self.dtype, owner=self.owner, home=self.home, host=host)

    def numpy(self) -> np.ndarray:
        """Return the tensor on the host, copied there if it is not there yet.

        Raises:
            BackendError: If it cannot be copied.
        """
        if self._host is None:
            self._host = self.home.fetch(self)
        return self._host


class Parts(tuple[Value, ...]):
    """Tensors that make one input of a batch, stacked along the rows; a backend joins the tensors as it copies them."""

    __slots__ = ()


TENSORS = (np.ndarray, DeviceTensor)
"""What can be a row of a batch."""


def shape_of(value: Value) -> Shape:
    """Return the shape of a tensor, or of the parts of a batch once they are joined."""
    if not isinstance(value, Parts):
        return tuple(value.shape)
    if len(value) == 1:
        return shape_of(value[0])
    return (sum(shape_of(part)[0] for part in value), *shape_of(value[0])[1:])


def as_array(value: Value) -> Value:
    """Return a value as the CPU takes it: tensors of a device are fetched, parts of a batch joined."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, DeviceTensor):
        return value.numpy()
    if isinstance(value, Parts):
        return np.concatenate([as_array(part) for part in value])
    return value


class _Window:
    """What numpy needs to know of foreign memory; numpy keeps it, and it keeps the owner."""

    __slots__ = ("__array_interface__", "_owner")

    def __init__(self, address: int, shape: Shape, dtype: np.dtype[Any], owner: Any) -> None:
        self.__array_interface__ = {"data": (address, False), "shape": shape, "typestr": dtype.str, "version": 3}
        self._owner = owner


def array_over(address: int, shape: Shape, dtype: np.dtype[Any], owner: Any) -> np.ndarray:
    """Return memory of the host as an array that keeps `owner` alive."""
    if 0 in shape:
        return np.empty(shape, dtype)
    return np.asarray(_Window(address, shape, dtype, owner))
