"""The few calls of CUDA's driver interface that measuring needs, through ctypes.

libcuda.so.1 comes with the driver and its interface is stable, so this needs neither the toolkit nor a package. The
primary context is used, which onnxruntime and TensorRT share.

Source:
    NVIDIA, CUDA Driver API reference, sections 6.2-6.18.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cutset.errors import ProfileError, UnavailableError

LIBRARY = "libcuda.so.1"

_POINTER = ctypes.c_uint64
_HANDLE = ctypes.c_void_p
_SIZE = ctypes.c_size_t
_INT = ctypes.c_int
_UINT = ctypes.c_uint
_OUT = ctypes.c_void_p
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "cuInit": (_UINT,),
    "cuDeviceGet": (_OUT, _INT),
    "cuDeviceGetName": (ctypes.c_char_p, _INT, _INT),
    "cuDeviceGetPCIBusId": (ctypes.c_char_p, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_OUT, _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemGetInfo_v2": (_OUT, _OUT),
    "cuMemAlloc_v2": (_OUT, _SIZE),
    "cuMemFree_v2": (_POINTER,),
    "cuMemHostAlloc": (_OUT, _SIZE, _UINT),
    "cuMemFreeHost": (_HANDLE,),
    "cuMemcpyHtoDAsync_v2": (_POINTER, _HANDLE, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _POINTER, _SIZE, _HANDLE),
    "cuStreamCreate": (_OUT, _UINT),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuEventCreate": (_OUT, _UINT),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventSynchronize": (_HANDLE,),
    "cuEventElapsedTime": (_OUT, _HANDLE, _HANDLE),
    "cuEventDestroy_v2": (_HANDLE,),
    "cuGetErrorString": (_INT, _OUT),
}
_NON_BLOCKING_STREAM = 1
_NAME_BYTES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMemory:
    """Bytes of a device's memory: free now, and in all."""

    free: int
    total: int


class CudaDevice:
    """One device with one stream; a context manager that releases everything it allocated.

    Args:
        index: Device number as CUDA counts them (``CUDA_VISIBLE_DEVICES`` applies).

    Raises:
        UnavailableError: If there is no driver, or no such device.
        ProfileError: From every method, if the call fails; the message has CUDA's words.
    """

    def __init__(self, index: int = 0) -> None:
        self._library = _load()
        self._device = _INT()
        try:
            self._call("cuInit", 0)
            self._call("cuDeviceGet", ctypes.byref(self._device), index)
        except ProfileError as error:
            raise UnavailableError(
                f"CUDA device {index} cannot be used", cause=error.cause, hint="see `cutset doctor`, row nvidia-driver"
            ) from error
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context := _HANDLE()), self._device)
        self._call("cuCtxSetCurrent", context)
        self._device_blocks: list[int] = []
        self._host_blocks: list[int] = []
        self._events: list[int] = []
        self.stream = self._handle("cuStreamCreate", _NON_BLOCKING_STREAM)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for event in self._events:
            self._call("cuEventDestroy_v2", event)
        for block in self._device_blocks:
            self._call("cuMemFree_v2", block)
        for block in self._host_blocks:
            self._call("cuMemFreeHost", block)
        self._call("cuStreamDestroy_v2", self.stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    @property
    def name(self) -> str:
        """Product name."""
        return self._text("cuDeviceGetName")

    @property
    def pci_bus_id(self) -> str:
        """Address by which nvidia-smi knows the same device, whatever the order that CUDA numbers devices in."""
        return self._text("cuDeviceGetPCIBusId")

    def memory(self) -> DeviceMemory:
        """Return the device's memory."""
        free, total = _SIZE(), _SIZE()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return DeviceMemory(free=free.value, total=total.value)

    def allocate(self, size: int) -> int:
        """Return the address of `size` new bytes on the device (one byte where none are asked for)."""
        address = _POINTER()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(size, 1))
        self._device_blocks.append(address.value)
        return address.value

    def allocate_pinned(self, size: int) -> int:
        """Return the address of `size` new page-locked bytes of the host."""
        address = self._handle("cuMemHostAlloc", max(size, 1), 0)
        self._host_blocks.append(address)
        return address

    def copy_to_device(self, target: int, source: int, size: int) -> None:
        """Queue a copy of `size` bytes at host address `source` to device address `target`."""
        self._call("cuMemcpyHtoDAsync_v2", target, source, size, self.stream)

    def copy_to_host(self, target: int, source: int, size: int) -> None:
        """Queue a copy of `size` bytes at device address `source` to host address `target`."""
        self._call("cuMemcpyDtoHAsync_v2", target, source, size, self.stream)

    def synchronise(self) -> None:
        """Wait until all that was queued is done."""
        self._call("cuStreamSynchronize", self.stream)

    def event(self) -> int:
        """Return a new event."""
        event = self._handle("cuEventCreate", 0)
        self._events.append(event)
        return event

    def record(self, event: int) -> None:
        """Queue the event."""
        self._call("cuEventRecord", event, self.stream)

    def elapsed_s(self, start: int, end: int) -> float:
        """Return the device's seconds between two recorded events; waits for the later one."""
        self._call("cuEventSynchronize", end)
        milliseconds = ctypes.c_float()
        self._call("cuEventElapsedTime", ctypes.byref(milliseconds), start, end)
        return milliseconds.value * 1e-3

    def _handle(self, function: str, *arguments: int) -> int:
        handle = _HANDLE()
        self._call(function, ctypes.byref(handle), *arguments)
        return handle.value or 0

    def _text(self, function: str) -> str:
        buffer = ctypes.create_string_buffer(_NAME_BYTES)
        self._call(function, buffer, _NAME_BYTES, self._device)
        return buffer.value.decode("utf-8", errors="replace")

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            words = text.value.decode(errors="replace") if text.value else "unknown error"
            raise ProfileError(f"{function} failed", cause=f"CUDA error {status}: {words}")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _INT
    except (OSError, AttributeError) as error:
        raise UnavailableError(
            "the CUDA driver cannot be used",
            cause=str(error),
            hint="install the NVIDIA driver; in a container, start it with GPU access",
        ) from error
    return library
