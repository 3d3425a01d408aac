"""An engine library in Python, over the CUDA driver made of host memory: it doubles `x`, and keeps what is above zero.

It refuses what the real library refuses: unbound tensors, shapes outside the profile, host addresses for device tensors.
The functions below run in a child process, where that driver can be loaded.
"""

from __future__ import annotations

import ctypes
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from cutset.codegen.runtime.backends import tensorrt as backend
from cutset.codegen.runtime.backends.base import BackendError, BackendOptions
from cutset.codegen.runtime.backends.cuda import Gpu
from cutset.codegen.runtime.config import StageConfig
from cutset.codegen.runtime.engine_config import EngineConfig, EngineInput

HIGH = 0x7000000000000000
PROFILE = ((1, 4), (2, 4), (8, 4))
TYPES = {"x": "FLOAT", "to": "INT32", "y": "FLOAT", "kept": "FLOAT", "rows": "INT64"}


class Place(Enum):
    DEVICE = 0
    HOST = 1


def array_at(address: int, shape, dtype) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address & ~HIGH), dtype).reshape(shape)


PLANS = {b"plan": 2.0, b"another": 2.0, b"triples": 3.0, b"slightly off": 2.01, b"nan": np.nan}
"""The engines that there are, and what each multiplies with; only those that double are engines of the stage."""


class Context:
    """y = 2 x; kept = the elements above zero, whose number depends on the data; rows = len(x), written on the host."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.shapes, self.addresses, self.allocators = {}, {}, {}

    def set_device_memory(self, address, size):
        assert address & HIGH
        assert size >= Engine.device_memory_size_v2

    def set_input_shape(self, name, shape):
        inside = name != "x" or (len(shape) == 2 and PROFILE[0][0] <= shape[0] <= PROFILE[2][0] and shape[1] == 4)
        self.shapes[name] = tuple(shape)
        return inside

    def set_tensor_address(self, name, address):
        assert bool(address & HIGH) == (name in {"x", "y", "kept"}), name
        self.addresses[name] = address

    def set_output_allocator(self, name, allocator):
        self.allocators[name] = allocator

    def get_max_output_size(self, name):
        return 8

    def get_tensor_shape(self, name):
        return () if name == "rows" else (-1,)

    def execute_async_v3(self, stream):
        assert stream
        x = array_at(self.addresses["x"], self.shapes["x"], np.float32)
        if array_at(self.addresses["to"], (1,), np.int32)[0] < 0:
            return False
        kept = x[x > 0]
        for name, value in (("y", np.float32(self.factor) * x), ("kept", kept)):
            address = self.allocators[name].reallocate_output_async(name, 0, max(value.nbytes, 1), 256, stream)
            if value.size:
                array_at(address, value.shape, np.float32)[...] = value
            self.allocators[name].notify_shape(name, value.shape)
        array_at(self.addresses["rows"], (), np.int64)[...] = len(x)
        return True


class Strategy(Enum):
    USER_MANAGED = 2


class Engine:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    names = tuple(TYPES)
    num_io_tensors = len(TYPES)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=TYPES[name])

    def get_tensor_location(self, name):
        return Place.HOST if name in {"to", "rows"} else Place.DEVICE

    def get_tensor_profile_shape(self, name, index):
        return PROFILE

    device_memory_size_v2 = 5000

    def create_execution_context(self, strategy):
        assert strategy is Strategy.USER_MANAGED
        return Context(self.factor)


class Logger:
    ERROR = 1

    def __init__(self, severity):
        pass


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        return Engine(PLANS[plan]) if plan in PLANS else None


class IOutputAllocator:
    def __init__(self):
        pass


def install() -> None:
    library = ModuleType("tensorrt_rtx")
    library.__dict__.update(
        __version__="1.7",
        Logger=Logger,
        Runtime=Runtime,
        IOutputAllocator=IOutputAllocator,
        TensorLocation=Place,
        ExecutionContextAllocationStrategy=Strategy,
    )
    sys.modules["tensorrt_rtx"] = library


def stage_in(folder: Path) -> StageConfig:
    inputs = (EngineInput(name="x", shapes=PROFILE), EngineInput(name="to", shapes=((1,), (1,), (1,))))
    model = folder / "m.onnx"
    model.write_bytes(b"a stage")
    engine = EngineConfig(backend="tensorrt-rtx", model=model, folder=folder / "engines", precision="fp32", inputs=inputs)
    return StageConfig(
        index=1, device="gpu", backend="tensorrt-rtx", model=model, inputs=("x", "to"), outputs=("y", "kept", "rows"),
        service_s=0.0, engine=engine,
    )  # fmt: skip


def run_engine(folder: Path) -> dict:
    """Load and run the engine on growing, shrinking, empty and refused inputs; return what came of it."""
    install()
    stage = stage_in(folder)
    found: dict = {"gpu": describe()}
    built = []
    backend.build_apart = lambda job: built.append(job) or _write(job)
    loaded = backend.TensorRtBackend.load(stage, BackendOptions(intra_op_threads=1, custom_ops=()))
    found["max_batch"], found["jobs"] = loaded.max_batch, [(job.compute_capability, len(job.inputs)) for job in built]
    rng = np.random.default_rng(0)
    found["runs"] = []
    first = None
    for rows in (2, 8, 1):
        x = rng.normal(size=(rows, 4)).astype(np.float32)
        outputs = loaded.run({"x": x[:, ::-1], "to": np.array([7], np.int32)})
        first = first if first is not None else (outputs["y"], outputs["y"].copy())
        same = np.array_equal(outputs["y"], 2 * x[:, ::-1]) and np.array_equal(outputs["kept"], x[:, ::-1][x[:, ::-1] > 0])
        found["runs"].append((same, int(outputs["rows"]), outputs["rows"].dtype.name, outputs["rows"].shape))
    found["kept its own"] = bool(np.array_equal(*first))
    found["none"] = loaded.run({"x": -np.ones((1, 4), np.float32), "to": np.array([7], np.int32)})["kept"].shape
    found["errors"] = [
        error(loaded, np.ones((9, 4), np.float32), 7), error(loaded, np.ones((1, 4), np.float32), -1)
    ]  # fmt: skip
    loaded.close()
    again = backend.TensorRtBackend.load(stage, BackendOptions(intra_op_threads=1, custom_ops=()))
    again.close()
    found["builds"] = len(built)
    found["left"] = ctypes.CDLL("libcuda.so.1").fake_live()
    return found


def error(loaded, x: np.ndarray, to: int) -> str:
    try:
        loaded.run({"x": x, "to": np.array([to], np.int32)})
    except BackendError as failure:
        return str(failure)
    return ""


def describe() -> tuple[str, str, str]:
    gpu = Gpu()
    return gpu.name, gpu.compute_capability, gpu.driver


def call_driver(_nothing: None) -> dict:
    """Call everything of the driver that a run needs; return what came of it."""
    gpu = Gpu()
    gpu.enter()
    device, other, host = gpu.allocate(64), gpu.allocate(64), gpu.allocate_pinned(64)
    sent, received = array_at(host, (4,), np.float32), np.arange(4, dtype=np.float32)
    sent[:] = received
    stream, event = gpu.create_stream(), gpu.create_event()
    gpu.copy_in(device, host, 16, stream)
    gpu.copy_within(other, device, 16, stream)
    sent[:] = 0
    gpu.record(event, stream)
    gpu.wait(gpu.create_stream(), event)
    gpu.copy_out(host, other, 16, stream)
    gpu.synchronise_event(event)
    found = {"copied": bool(np.array_equal(sent, received))}
    gpu.begin_capture(stream)
    graph = gpu.end_capture(stream)
    gpu.launch(graph, stream)
    gpu.destroy_graph(graph)
    gpu.begin_capture(stream)
    gpu.synchronise(stream)  # gives the capture up
    found["refused"] = [refusal(lambda: gpu.end_capture(stream)), refusal(lambda: gpu.allocate(1 << 40))]
    gpu.free(device)
    gpu.free(other)
    gpu.free_pinned(host)
    gpu.destroy_event(event)
    gpu.destroy_stream(stream)
    gpu = None
    found["left"] = ctypes.CDLL("libcuda.so.1").fake_live()  # the second stream
    return found


def refusal(call) -> str:
    try:
        call()
    except BackendError as failure:
        return str(failure)
    return ""


def _write(job):
    Path(job.engine).write_bytes(b"plan")
    return SimpleNamespace(seconds=1.0)
