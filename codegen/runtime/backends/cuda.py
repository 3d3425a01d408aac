"""One GPU through CUDA's driver interface, as far as running an engine needs it.

libcuda.so.1 comes with the driver and its interface is stable, so this needs neither the toolkit nor a package.

Source:
    NVIDIA, CUDA Driver API reference.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

from .base import BackendDied, BackendError

_HANDLE, _SIZE, _INT, _UINT, _ADDRESS = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint, ctypes.c_uint64
_SIGNATURES: dict[str, tuple[type, ...]] = {
    "cuInit": (_UINT,),
    "cuDriverGetVersion": (_HANDLE,),
    "cuDeviceGet": (_HANDLE, _INT),
    "cuDeviceGetName": (ctypes.c_char_p, _INT, _INT),
    "cuDeviceGetAttribute": (_HANDLE, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_HANDLE, _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_HANDLE,),
    "cuMemAlloc_v2": (_HANDLE, _SIZE),
    "cuMemFree_v2": (_ADDRESS,),
    "cuMemHostAlloc": (_HANDLE, _SIZE, _UINT),
    "cuMemFreeHost": (_HANDLE,),
    "cuMemcpyHtoDAsync_v2": (_ADDRESS, _HANDLE, _SIZE, _HANDLE),
    "cuMemcpyDtoHAsync_v2": (_HANDLE, _ADDRESS, _SIZE, _HANDLE),
    "cuStreamCreate": (_HANDLE, _UINT),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuGetErrorString": (_INT, _HANDLE),
}
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1
_NAME_BYTES = 256
_FATAL = frozenset({4, 46, 214, 700, 702, 709, 714, 715, 716, 717, 718, 719})
"""Errors after which the context cannot be used any more: shut down, ECC, illegal access, launch timeout and the like."""
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


class Gpu:
    """A device, its primary context and one stream of its own.

    Args:
        index: Device number as CUDA counts them.

    Raises:
        BackendError: If there is no driver or device; from every method, if the call fails.
    """

    def __init__(self, index: int = 0) -> None:
        self._library = _load()
        self._call("cuInit", 0)
        self._device = self._integer("cuDeviceGet", index)
        self._context = self._handle("cuDevicePrimaryCtxRetain", self._device)
        self.enter()
        self.stream = self._handle("cuStreamCreate", _NON_BLOCKING)

    @property
    def name(self) -> str:
        """Product name."""
        buffer = ctypes.create_string_buffer(_NAME_BYTES)
        self._call("cuDeviceGetName", buffer, _NAME_BYTES, self._device)
        return buffer.value.decode("utf-8", errors="replace")

    @property
    def compute_capability(self) -> str:
        """``major.minor``."""
        numbers = (self._integer("cuDeviceGetAttribute", what, self._device) for what in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR))
        return ".".join(map(str, numbers))

    @property
    def driver(self) -> str:
        """Version of the kernel module, or of CUDA's interface where the module does not tell."""
        try:
            words = _KERNEL_MODULE.read_text("utf-8", errors="replace").split("Kernel Module")[1].split()
            return next(word for word in words if word[0].isdigit())
        except (OSError, IndexError, StopIteration):
            version = self._integer("cuDriverGetVersion")
            return f"CUDA {version // 1000}.{version % 1000 // 10}"

    def enter(self) -> None:
        """Make this thread one that uses the device."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Return the address of at least one and at least `size` new bytes of the device."""
        address = _ADDRESS()
        self._call("cuMemAlloc_v2", ctypes.byref(address), max(size, 1))
        return address.value

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, size: int) -> int:
        """Return the address of page-locked memory of the host."""
        return self._handle("cuMemHostAlloc", max(size, 1), 0)

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""
        self._call("cuMemFreeHost", address)

    def copy_in(self, device: int, host: int, size: int) -> None:
        """Queue a copy to the device."""
        self._call("cuMemcpyHtoDAsync_v2", device, host, size, self.stream)

    def copy_out(self, host: int, device: int, size: int) -> None:
        """Queue a copy to the host."""
        self._call("cuMemcpyDtoHAsync_v2", host, device, size, self.stream)

    def synchronise(self) -> None:
        """Wait until all that was queued is done."""
        self._call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Destroy the stream and give the context back."""
        self._call("cuStreamDestroy_v2", self.stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _integer(self, function: str, *arguments: int) -> int:
        value = _INT()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value

    def _handle(self, function: str, *arguments: int) -> int:
        value = _HANDLE()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value or 0

    def _call(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            words = text.value.decode(errors="replace") if text.value else "unknown error"
            kind = BackendDied if status in _FATAL else BackendError
            raise kind(f"{function} failed with CUDA error {status}: {words}")


class Block:
    """Memory that grows and never shrinks, on the device or page-locked on the host.

    Args:
        gpu: The device.
        pinned: Whether it lies on the host.
    """

    def __init__(self, gpu: Gpu, *, pinned: bool) -> None:
        self._allocate, self._free = (gpu.allocate_pinned, gpu.free_pinned) if pinned else (gpu.allocate, gpu.free)
        self._size = 0
        self.address = 0

    def reserve(self, size: int) -> int:
        """Return the address of at least `size` bytes; what was in them before is lost when they have to grow."""
        if size > self._size or not self.address:
            self.close()
            self.address = self._allocate(size)
            self._size = size
        return self.address

    def close(self) -> None:
        """Give the memory back."""
        if self.address:
            self._free(self.address)
            self.address = self._size = 0


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libcuda.so.1")
        for name, arguments in _SIGNATURES.items():
            function = getattr(library, name)
            function.argtypes, function.restype = arguments, _INT
    except (OSError, AttributeError) as error:
        raise BackendError(f"there is no NVIDIA driver here ({error})") from error
    return library
