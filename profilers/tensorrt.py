"""Build a part of a model as a TensorRT engine and time it on the device: whole, and layer by layer.

Written against what TensorRT 10, TensorRT 11 and TensorRT-RTX have in common; the library is imported inside the child
process that runs these functions, because its parser and builder can crash, hang, and take all memory. Engines are
strongly typed: their precision is that of the ONNX file. Building needs no GPU with TensorRT-RTX when the compute
capability is named; everything after it does.

Layers are mapped to nodes through their metadata, in which the parser notes ``[ONNX Layer: <name>]``. Names of nodes must
therefore be plain: `segments` calls them ``n<index>``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import numpy as np
import onnx

from cutset.codegen.runtime.backends.engine_compile import ONNX_NODE, BuildSettings, Compiled, Refusal, compile_engine
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.errors import EngineBuildError, ProfileError
from cutset.graph.domains import refusal_of
from cutset.profilers.cuda_driver import CudaDevice
from cutset.profilers.gpu_state import GpuState, gpu_state
from cutset.profilers.ort_child import summarise_device
from cutset.profilers.table import Latency
from cutset.profilers.tensorrt_library import OpenLibrary, open_library
from cutset.profilers.timing import Run, repeat

Library = Literal["tensorrt", "tensorrt_rtx"]

Fixed = tuple[tuple[int, ...], tuple[int, ...]]
"""Shape of an input, and its elements if it may itself be a shape."""

WARMUP_RUNS = 10
LAYER_RUNS = 10
MAX_SHAPE_ELEMENTS = 64
"""Longer integer tensors are no shapes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineJob:
    """What to build and feed.

    Args:
        model: An ``.onnx`` file, its nodes plainly named.
        feed: One array a graph input.
        library: Module of the library.
        device: Device number as CUDA counts them.
        budget_s: Seconds to repeat the run.
        compute_capability: ``8.9``, ...: GPU to build for where there is none (TensorRT-RTX) and no settings say so.
        settings: What the builder is told, as for the engine that will be deployed; None for exactly the shapes of the feed.
    """

    model: Path
    feed: Mapping[str, np.ndarray] = field(repr=False)
    library: Library = "tensorrt"
    device: int = 0
    budget_s: float = 3.0
    compute_capability: str = ""
    settings: BuildSettings | None = field(default=None, repr=False)


def _fixed(name: str, array: np.ndarray) -> EngineInput:
    small = array.dtype.kind in "iu" and array.size <= MAX_SHAPE_ELEMENTS
    return EngineInput.fixed(name, array.shape, tuple(int(element) for element in array.ravel()) if small else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEngine:
    """An engine that was built.

    Args:
        version: Of the library.
        build_s: Seconds that parsing and building took.
        nodes: Names of the ONNX nodes that the network's layers came from.
        plan: The serialised engine.
    """

    version: str
    build_s: float
    nodes: frozenset[str]
    plan: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer of an engine, and the nodes it runs."""

    name: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """Nodes that layers of an engine run together, and their seconds."""

    nodes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineTime:
    """What one engine costs on the device.

    Args:
        version: Of the library.
        build_s: Seconds that parsing and building took.
        latency: Seconds of one run between two CUDA events, inputs and outputs on the device.
        layers: Times by layers, scaled to the latency's median; in engine order.
        device_bytes: Device memory that the engine and its context took.
        state: The GPU right after, None where it does not tell.
    """

    version: str
    build_s: float
    latency: Latency
    layers: tuple[LayerGroup, ...]
    device_bytes: int
    state: GpuState | None


def build_engine(job: EngineJob) -> BuiltEngine:
    """Return the engine of `job`'s model; meant to run in a child process.

    Raises:
        UnavailableError: If the library is not installed or does not load.
        EngineBuildError: If the parser or the builder refuses; the cause has the library's words.
    """
    return _build(open_library(job.library), job)


def time_engine(job: EngineJob) -> EngineTime:
    """Return what the engine of `job`'s model costs on the device; meant to run in a child process.

    Raises:
        UnavailableError: If the library or the device cannot be used.
        EngineBuildError: If the parser or the builder refuses.
        ProfileError: If the engine does not run.
    """
    library = open_library(job.library)
    with CudaDevice(job.device) as cuda:
        return _time_on_device(library, cuda, job)


def parse_layers(information: str) -> list[Layer]:
    """Return the layers in an engine inspector's JSON, with the nodes that their metadata names, in engine order."""
    layers = json.loads(information).get("Layers", [])
    return [
        Layer(name=layer["Name"], nodes=tuple(dict.fromkeys(ONNX_NODE.findall(layer.get("Metadata", "")))))
        for layer in layers
        if isinstance(layer, Mapping)  # below detailed verbosity a layer is its name alone
    ]


def group_layers(layers: Sequence[Layer], seconds: Mapping[str, float]) -> tuple[LayerGroup, ...]:
    """Return the time of each set of nodes that layers run together; every layer's time is in exactly one.

    Layers that name the same node are one group. A layer that names none (reformatting, shape arithmetic) belongs to the
    next one that does, else to the last.

    Args:
        layers: Of one engine, in its order.
        seconds: Time of each layer by name; those that did not run may lack.
    """
    named = [index for index, layer in enumerate(layers) if layer.nodes]
    together: nx.Graph = nx.Graph()
    for index in named:
        together.add_edges_from((index, node) for node in layers[index].nodes)
    leader = {
        member: min(i for i in part if isinstance(i, int)) for part in nx.connected_components(together) for member in part
    }
    total: dict[int, float] = {leader[index]: 0.0 for index in named}
    for index, layer in enumerate(layers):
        home = index if layer.nodes else next((i for i in named if i > index), named[-1] if named else None)
        if home is not None:
            total[leader[home]] += seconds.get(layer.name, 0.0)
    nodes: dict[int, dict[str, None]] = {first: {} for first in total}
    for index in named:
        nodes[leader[index]].update(dict.fromkeys(layers[index].nodes))
    return tuple(LayerGroup(nodes=tuple(nodes[first]), seconds=total[first]) for first in sorted(total))


def _build(library: OpenLibrary, job: EngineJob) -> BuiltEngine:
    start = time.perf_counter()
    fixed = tuple(_fixed(name, array) for name, array in job.feed.items())
    settings = job.settings or BuildSettings(inputs=fixed, compute_capability=job.compute_capability)
    compiled = _compile(library, job.model, settings)
    return BuiltEngine(
        version=library.trt.__version__, build_s=time.perf_counter() - start, nodes=compiled.nodes, plan=compiled.plan
    )


def compile_network(
    library: OpenLibrary, model: Path | bytes, inputs: Mapping[str, Fixed], compute_capability: str
) -> Compiled:
    """Return the strongly typed engine of an ONNX model for inputs of one shape each.

    Args:
        library: The library.
        model: A file, or a serialised model whose weights are inside.
        inputs: Shape of each graph input, and its elements if it may be a shape.
        compute_capability: ``8.9``, ...: GPU to build for where there is none; empty for this machine's.

    Raises:
        EngineBuildError: If the parser or the builder refuses; the cause has the library's words.
    """
    given = tuple(EngineInput.fixed(name, *fixed) for name, fixed in inputs.items())
    return _compile(library, model, BuildSettings(inputs=given, compute_capability=compute_capability))


def _compile(library: OpenLibrary, model: Path | bytes, settings: BuildSettings) -> Compiled:
    """Return the engine of a model; a refusal is an error in the library's words."""
    where = None if isinstance(model, bytes) else str(model)
    loaded = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    custom = refusal_of(loaded)
    if custom:
        raise EngineBuildError("the parser refuses the part", where=where, cause=custom)
    try:
        return compile_engine(library.trt, library.logger, model if isinstance(model, bytes) else str(model), settings)
    except Refusal as refusal:
        cause = (refusal.words or library.last_error())[:500]
        raise EngineBuildError(f"the {refusal.step} refuses the part", where=where, cause=cause) from refusal


def _time_on_device(library: OpenLibrary, cuda: CudaDevice, job: EngineJob) -> EngineTime:
    """Return what the engine costs; it is destroyed on return, before the device is released."""
    built = _build(library, job)
    before = cuda.memory().free
    runtime = library.trt.Runtime(library.logger)
    engine = runtime.deserialize_cuda_engine(built.plan)
    if engine is None:
        raise ProfileError("the engine does not load on this GPU", cause=library.last_error())
    run = _Run(library.trt, cuda, engine, job.feed)
    latency = _latency(cuda, run, job.budget_s)
    taken = before - cuda.memory().free
    layers = _layer_times(library.trt, engine, run, latency.median)
    return EngineTime(
        version=built.version,
        build_s=built.build_s,
        latency=latency,
        layers=layers,
        device_bytes=max(taken, 0),
        state=gpu_state(cuda.pci_bus_id),
    )


class _Run:
    """A call that queues one run of an engine, its inputs and outputs on the device."""

    def __init__(self, trt: Any, cuda: CudaDevice, engine: Any, feed: Mapping[str, np.ndarray]) -> None:
        self._stream = cuda.stream
        self._kept: list[np.ndarray] = []
        self.context = engine.create_execution_context()
        if self.context is None:
            raise ProfileError("the engine's context does not fit on the device")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in inputs:
            array = np.ascontiguousarray(feed[name])
            if engine.get_tensor_dtype(name).itemsize != array.itemsize:  # float64 becomes float32 without a word
                raise ProfileError(f"the engine takes `{name}` in another type than {array.dtype}")
            self.context.set_input_shape(name, array.shape)
            on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
            self.context.set_tensor_address(name, self._keep(array) if on_host else _upload(cuda, array))
        for name in names:
            if name not in inputs:
                size = self.context.get_max_output_size(name)
                on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
                block = self._keep(np.zeros(max(size, 1), np.uint8)) if on_host else cuda.allocate(size)
                self.context.set_tensor_address(name, block)
        cuda.synchronise()

    def _keep(self, array: np.ndarray) -> int:
        """Return the address of a host array that lives as long as this."""
        self._kept.append(array)
        return int(array.ctypes.data)

    def __call__(self) -> None:
        if not self.context.execute_async_v3(self._stream):
            raise ProfileError("the engine does not run on the sample inputs")


def _upload(cuda: CudaDevice, array: np.ndarray) -> int:
    address = cuda.allocate(array.nbytes)
    cuda.copy_to_device(address, array.ctypes.data, array.nbytes)
    cuda.synchronise()
    return address


def _latency(cuda: CudaDevice, run: _Run, budget_s: float) -> Latency:
    start, end = cuda.event(), cuda.event()
    times: list[float] = []

    def once() -> None:
        cuda.record(start)
        run()
        cuda.record(end)
        times.append(cuda.elapsed_s(start, end))

    made = len(repeat(once, budget_s=budget_s, warmup=WARMUP_RUNS))
    return summarise_device([Run(wall_s=seconds, cpu_s=seconds, quiet=True) for seconds in times[-made:]])


def _layer_times(trt: Any, engine: Any, run: _Run, latency_s: float) -> tuple[LayerGroup, ...]:
    times: dict[str, list[float]] = {}

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(layer_name, []).append(ms * 1e-3)

    run.context.profiler = Profiler()
    for _ in range(LAYER_RUNS):
        run()  # waits for its end while a profiler is set
    inspector = engine.create_engine_inspector()
    layers = parse_layers(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    groups = group_layers(layers, {name: float(np.median(found)) for name, found in times.items()})
    total = sum(group.seconds for group in groups)
    scale = latency_s / total if total > 0 else 0.0
    return tuple(LayerGroup(nodes=group.nodes, seconds=group.seconds * scale) for group in groups)
