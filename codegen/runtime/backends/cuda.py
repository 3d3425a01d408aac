"""One GPU through CUDA's driver interface, as far as running stages needs it.

libcuda.so.1 comes with the driver and its interface is stable, so this needs neither the toolkit nor a package.

Source:
    NVIDIA, CUDA Driver API reference.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
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
    "cuMemcpyDtoDAsync_v2": (_ADDRESS, _ADDRESS, _SIZE, _HANDLE),
    "cuStreamCreate": (_HANDLE, _UINT),
    "cuStreamWaitEvent": (_HANDLE, _HANDLE, _UINT),
    "cuStreamSynchronize": (_HANDLE,),
    "cuStreamDestroy_v2": (_HANDLE,),
    "cuEventCreate": (_HANDLE, _UINT),
    "cuEventRecord": (_HANDLE, _HANDLE),
    "cuEventSynchronize": (_HANDLE,),
    "cuEventDestroy_v2": (_HANDLE,),
    "cuThreadExchangeStreamCaptureMode": (_HANDLE,),
    "cuStreamBeginCapture_v2": (_HANDLE, _INT),
    "cuStreamIsCapturing": (_HANDLE, _HANDLE),
    "cuStreamEndCapture": (_HANDLE, _HANDLE),
    "cuGraphInstantiateWithFlags": (_HANDLE, _HANDLE, ctypes.c_uint64),
    "cuGraphDestroy": (_HANDLE,),
    "cuGraphLaunch": (_HANDLE, _HANDLE),
    "cuGraphExecDestroy": (_HANDLE,),
    "cuGetErrorString": (_INT, _HANDLE),
}
_QUICK = frozenset({
    "cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2", "cuStreamWaitEvent",
    "cuEventCreate", "cuEventRecord", "cuEventDestroy_v2", "cuThreadExchangeStreamCaptureMode", "cuStreamIsCapturing",
    "cuGraphLaunch",
})  # fmt: skip
"""Calls that only queue work, in microseconds. They keep Python's interpreter lock: to get it back takes longer where many
threads want it, and a run makes a dozen of them. On an H100 with 16 cores a pipeline whose runs let it go each time spent
most of its time in waiting for it (docs/gpu.md)."""
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no order with the legacy default stream
_SLEEP_AND_NO_TIMES = 1 | 2  # CU_EVENT_BLOCKING_SYNC, CU_EVENT_DISABLE_TIMING: a core that spins is a core less for others
_THREAD_LOCAL = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
_NAME_BYTES = 256
_FATAL = frozenset({4, 46, 214, 700, 702, 709, 714, 715, 716, 717, 718, 719})
"""Errors after which the context cannot be used any more: shut down, ECC, illegal access, launch timeout and the like."""
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


class Gpu:
    """A device and its primary context, which ONNX Runtime and TensorRT use too; a `device.Device`.

    The context is given back when nobody refers to the device any more.

    Args:
        index: Device number as CUDA counts them.

    Raises:
        BackendError: If there is no driver or device; from every method, if the call fails.
    """

    kind = "cuda"

    def __init__(self, index: int = 0) -> None:
        self._library = _load()
        self._call("cuInit", 0)
        self._device = self._integer("cuDeviceGet", index)
        self._context = self._handle("cuDevicePrimaryCtxRetain", self._device)
        # Not before the last array over its memory is gone: page-locked memory goes with the context.
        weakref.finalize(self, self._library.cuDevicePrimaryCtxRelease_v2, self._device).atexit = False
        self._thread = threading.local()
        self.enter()

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
        """Make this thread one that uses the device, and whose other calls a capture in another thread does not forbid."""
        self._call("cuCtxSetCurrent", self._context)
        if not hasattr(self._thread, "entered"):
            self._call("cuThreadExchangeStreamCaptureMode", ctypes.byref(_INT(_THREAD_LOCAL)))
            self._thread.entered = True

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

    def copy_in(self, device: int, host: int, size: int, stream: int) -> None:
        """Queue a copy to the device."""
        self._call("cuMemcpyHtoDAsync_v2", device, host, size, stream)

    def copy_out(self, host: int, device: int, size: int, stream: int) -> None:
        """Queue a copy to the host."""
        self._call("cuMemcpyDtoHAsync_v2", host, device, size, stream)

    def copy_within(self, target: int, source: int, size: int, stream: int) -> None:
        """Queue a copy from the device to the device."""
        self._call("cuMemcpyDtoDAsync_v2", target, source, size, stream)

    def create_stream(self) -> int:
        """Return a new stream."""
        return self._handle("cuStreamCreate", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cuStreamDestroy_v2", stream)

    def create_event(self) -> int:
        """Return a new event; a thread that waits for it sleeps."""
        return self._handle("cuEventCreate", _SLEEP_AND_NO_TIMES)

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("cuEventDestroy_v2", event)

    def record(self, event: int, stream: int) -> None:
        """Let the event happen when what is queued on the stream now is done."""
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """Hold the stream from here on until the event has happened."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronise_event(self, event: int) -> None:
        """Block until the event has happened."""
        self._call("cuEventSynchronize", event)

    def synchronise(self, stream: int) -> None:
        """Block until all that is queued on the stream is done; a capture that was left open on it is given up."""
        status = _INT()
        self._call("cuStreamIsCapturing", stream, ctypes.byref(status))
        if status.value:
            with contextlib.suppress(BackendError):
                self._call("cuGraphDestroy", self._captured(stream))
        self._call("cuStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """Collect what is queued on the stream, instead of doing it."""
        self._call("cuStreamBeginCapture_v2", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """Return what was collected as a graph that can be launched."""
        captured, graph = self._captured(stream), _HANDLE()
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(graph), captured, 0)
        finally:
            self._call("cuGraphDestroy", captured)
        return graph.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Give a graph back."""
        self._call("cuGraphExecDestroy", graph)

    def _captured(self, stream: int) -> int:
        graph = _HANDLE()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        return graph.value or 0

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


def _load() -> ctypes.CDLL:
    try:
        library, keeping_lock = ctypes.CDLL("libcuda.so.1"), ctypes.PyDLL("libcuda.so.1")
        for name, arguments in _SIGNATURES.items():
            function = getattr(keeping_lock if name in _QUICK else library, name)
            function.argtypes, function.restype = arguments, _INT
            setattr(library, name, function)
    except (OSError, AttributeError) as error:
        raise BackendError(f"there is no NVIDIA driver here ({error})") from error
    return library
