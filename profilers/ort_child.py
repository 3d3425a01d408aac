"""Run one onnxruntime session on one device and say what it took; made to run in a measuring child process.

Everything it needs travels in a `SessionJob` that pickles: a model file and the arrays to feed it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from cutset.errors import CutsetError, ProfileError, UnavailableError
from cutset.profilers.attribution import LAYOUT_OPS, kernels_of
from cutset.profilers.cuda_driver import CudaDevice
from cutset.profilers.gauge import gauge
from cutset.profilers.gpu_state import GpuState, gpu_state
from cutset.profilers.session import explain_refusal, register_libraries, run, session_options
from cutset.profilers.table import Latency, OptimizationLevel
from cutset.profilers.timing import Run, at_own_speed, repeat, summarise
from cutset.profilers.trace import KernelEvent, read_trace
from cutset.profilers.trace_cost import TraceCost, kernel_runs, measure_trace_cost, typical_run

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

DEVICE_WARMUP_RUNS = 5
"""cuDNN tries its algorithms in the first run; clocks rise in the next."""

CUDA_OPTIONS: Mapping[str, str] = {
    "do_copy_in_default_stream": "1",
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}
"""By itself the provider tries every algorithm for each new shape, which takes cuDNN up to a second a shape and gains nothing
in later runs (github.com/PaddlePaddle/PaddleX/pull/5057), and computes float32 products in tf32, which is another precision."""

MAX_TRACED_RUNS = 50

_EXTERNAL_FROM_BYTES = 1024
_BFLOAT16_CODE = 16  # onnx.TensorProto.BFLOAT16
_FIXED_OUTPUTS = {
    f"tensor({name})": kind
    for name, kind in {
        "float": np.float32, "double": np.float64, "float16": np.float16, "int64": np.int64, "int32": np.int32,
        "bool": np.bool_,
    }.items()
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJob:
    """What to run, and where.

    Args:
        model: An ``.onnx`` file.
        feed: One array a graph input.
        cuda_device: Device number as CUDA counts them, None for the CPU provider.
        threads: Intra-op threads.
        budget_s: Seconds to repeat the run.
        custom_ops: Libraries of custom operators.
        level: How far onnxruntime may rewrite the graph.
        optimised_model: Where to save the graph as it runs, None to save it nowhere.
        gauge_s: What the gauge takes at the machine's own speed, as far as it is known.
        cuda_options: Options of the CUDA provider that differ from `CUDA_OPTIONS`, or come to them.
        recorded: Whether to time a CUDA graph where one can be recorded.
    """

    model: Path
    feed: Mapping[str, Any] = field(repr=False)
    cuda_device: int | None = None
    threads: int = 1
    budget_s: float = 3.0
    custom_ops: tuple[str, ...] = ()
    level: OptimizationLevel = "all"
    optimised_model: Path | None = None
    gauge_s: float = 0.0
    cuda_options: Mapping[str, str] = field(default_factory=dict)
    recorded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionTime:
    """Latency of a session.

    Args:
        latency: Seconds of one run; on a GPU with inputs and outputs on the device, waiting for it to finish.
        device_bytes: Device memory that loading and running took, None on the CPU.
        state: The GPU right after, None on the CPU or where it does not tell.
    """

    latency: Latency
    device_bytes: int | None = None
    state: GpuState | None = None


def time_session(job: SessionJob) -> SessionTime:
    """Return the latency of `job`'s model as one session.

    Raises:
        ModelError: If onnxruntime does not load the model.
        ProfileError: If it does not run on the feed.
        UnavailableError: If there is no CUDA provider or device.
    """
    if job.cuda_device is None:
        gauge().remember(job.gauge_s)
        session = open_job(job)
        runs = at_own_speed(repeat(lambda: run(session, job.feed), budget_s=job.budget_s, speed=gauge()), gauge())
        return SessionTime(latency=summarise(runs, threads=job.threads))
    with CudaDevice(job.cuda_device) as cuda:
        return _time_on_device(job, cuda)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelTime:
    """Seconds of all kernels of one run, and how far single runs spread (10th and 90th percentile)."""

    seconds: float
    low_s: float
    high_s: float


def time_kernels(job: SessionJob) -> KernelTime:
    """Return what the kernels of `job`'s model take on the CPU in one run: not the call, nor what the profiler adds.

    Nor the changes of layout at the border: inside a stage the neighbours hand values over as they are.

    Raises:
        ModelError: If onnxruntime does not load the model.
        ProfileError: If it does not run on the feed.
    """
    gauge().remember(job.gauge_s)
    with tempfile.TemporaryDirectory() as folder:
        job = replace(job, optimised_model=Path(folder) / "optimised.onnx")
        cost = _trace_cost()
        session = open_job(job, enable_profiling=True, profile_file_prefix=str(Path(folder) / "trace"))
        runs = repeat(lambda: run(session, job.feed), budget_s=job.budget_s, max_runs=MAX_TRACED_RUNS, speed=gauge())
        kernels = kernels_of(onnx.load(str(job.optimised_model), load_external_data=False).graph)
        inside = {kernel.name for kernel in kernels if kernel.op_type not in LAYOUT_OPS}
        events = kernel_runs(Path(session.end_profiling()), cost)
        typical = typical_run(events, inside, runs, cost=cost, speed=gauge())
    if not typical.kernels:
        return KernelTime(seconds=0.0, low_s=0.0, high_s=0.0)
    low, high = np.percentile(typical.totals, [10, 90])
    seconds = sum(typical.kernels.values())
    return KernelTime(seconds=seconds, low_s=min(seconds, float(low)), high_s=max(seconds, float(high)))


@cache
def _trace_cost() -> TraceCost:
    return measure_trace_cost()


def run_session(job: SessionJob) -> dict[str, Any]:
    """Return the outputs of one run of `job`'s model.

    Raises:
        ModelError: If onnxruntime does not load the model.
        ProfileError: If it does not run on the feed.
        UnavailableError: If there is no CUDA provider.
    """
    return run(open_job(job), job.feed)


def trace_session(job: SessionJob) -> list[KernelEvent]:
    """Return every kernel event of repeated runs of `job`'s model, warm-up included.

    A GPU kernel's event covers its launch alone unless ``CUDA_LAUNCH_BLOCKING=1`` is in the environment.

    Raises:
        ModelError: If onnxruntime does not load the model.
        ProfileError: If it does not run on the feed.
        UnavailableError: If there is no CUDA provider.
    """
    with tempfile.TemporaryDirectory() as folder:
        session = open_job(job, enable_profiling=True, profile_file_prefix=str(Path(folder) / "trace"))
        try:
            repeat(lambda: run(session, job.feed), budget_s=job.budget_s)
        finally:
            trace = Path(session.end_profiling())
        return read_trace(trace)


def _time_on_device(job: SessionJob, cuda: CudaDevice) -> SessionTime:
    """Return the session's latency; the session is closed before the device is."""
    if job.recorded:
        graph = replace(job, recorded=False, cuda_options={**job.cuda_options, "enable_cuda_graph": "1"})
        with contextlib.suppress(CutsetError):  # a node on the CPU, or a size that is not fixed
            return _time_on_device(graph, cuda)
    before = cuda.memory().free
    session = open_job(job)
    runs = repeat(bound_run(session, job.feed, "cuda", job.cuda_device or 0), budget_s=job.budget_s, warmup=DEVICE_WARMUP_RUNS)
    taken = before - cuda.memory().free
    return SessionTime(latency=summarise_device(runs), device_bytes=max(taken, 0), state=gpu_state(cuda.pci_bus_id))


def summarise_device(runs: list[Run]) -> Latency:
    """Return the latency of runs that the host only waits for: its CPU time and its preemptions say nothing."""
    return summarise([Run(wall_s=run.wall_s, cpu_s=run.wall_s, quiet=True) for run in runs])


def open_job(job: SessionJob, **settings: Any) -> ort.InferenceSession:
    """Return the session of a job.

    Args:
        job: What to open, and where.
        settings: Attributes of the session's options.

    Raises:
        ModelError: If onnxruntime does not load the model.
        UnavailableError: If there is no CUDA provider or device.
    """
    options = session_options(threads=job.threads, level=job.level)
    for name, value in settings.items():
        setattr(options, name, value)
    if job.optimised_model is not None:
        options.optimized_model_filepath = str(job.optimised_model)
        entry = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{entry}_file_name", job.optimised_model.name + ".data")
        options.add_session_config_entry(f"{entry}_min_size_in_bytes", str(_EXTERNAL_FROM_BYTES))
    register_libraries(options, job.custom_ops)
    providers = _providers(job)

    def opened() -> ort.InferenceSession:
        try:
            return ort.InferenceSession(str(job.model), options, providers=providers)
        except Exception as error:  # onnxruntime raises a dozen kinds that share no base class
            raise explain_refusal(str(error), where=job.model.name) from error

    def falls_back(session: ort.InferenceSession) -> bool:  # as onnxruntime does by itself, without an error
        return job.cuda_device is not None and CUDA_PROVIDER not in session.get_providers()

    session = opened()
    if falls_back(session) and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # where pip put CUDA and cuDNN the linker does not look; it takes seconds
        session = opened()
    if falls_back(session):
        raise UnavailableError(
            "the CUDA provider could not start: driver, CUDA or cuDNN is missing",
            hint="see `cutset doctor`, row onnxruntime-cuda",
        )
    return session


def _providers(job: SessionJob) -> list[Any]:
    if job.cuda_device is None:
        return [CPU_PROVIDER]
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise UnavailableError(
            f"onnxruntime {ort.__version__} was built without CUDA",
            hint="pip uninstall onnxruntime, then pip install onnxruntime-gpu",
        )
    settings = {"device_id": str(job.cuda_device), **CUDA_OPTIONS, **job.cuda_options}
    return [(CUDA_PROVIDER, settings), CPU_PROVIDER]


def bound_run(session: ort.InferenceSession, feed: Mapping[str, Any], kind: str, device: int) -> Callable[[], object]:
    """Return a call that runs the session with inputs and outputs on the device and waits for it to finish.

    A model that reads text or sequences cannot be bound by onnxruntime's Python API (1.32); its run copies inputs and outputs.

    Args:
        session: An open session.
        feed: One array a graph input; bfloat16, which the same API cannot upload, stays on the host.
        kind: ``cuda`` or ``cpu``.
        device: Device number.

    Raises:
        ProfileError: From the call, if the run fails.
    """
    if any(isinstance(value, list | dict) or np.asarray(value).dtype.kind in "OUS" for value in feed.values()):
        return lambda: run(session, feed)
    binding = session.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, _on_device(value, kind, device))
    for output in session.get_outputs():
        if all(isinstance(size, int) for size in output.shape) and output.type in _FIXED_OUTPUTS:  # as a CUDA graph asks
            place = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, _FIXED_OUTPUTS[output.type], kind, device)
            binding.bind_ortvalue_output(output.name, place)
        elif output.type.startswith("tensor(") and output.type != "tensor(string)":
            binding.bind_output(output.name, kind, device)
        else:
            binding.bind_output(output.name, "cpu")

    def call() -> None:
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as error:
            raise ProfileError("onnxruntime cannot run the model on the device", cause=str(error)[:300]) from error

    return call


def _on_device(value: Any, kind: str, device: int) -> ort.OrtValue:
    array = np.asarray(value, order="C")
    if array.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16_CODE)
    return ort.OrtValue.ortvalue_from_numpy(array, kind, device)
