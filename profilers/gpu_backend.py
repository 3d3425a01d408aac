"""Choose what runs the GPU parts, and which library answers for it on this machine.

The two are not always the same: TensorRT-RTX, which needs no GPU, answers for full TensorRT where that cannot be asked,
and an engine for a GPU that it does not know can only be tried for an older one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cutset.devices import GpuBackendName, GpuBackendRequest
from cutset.errors import UnavailableError
from cutset.profilers.capability import MODULES, PORTABLE_CAPABILITY, PROBE_LIMITS, TITLES, Backend, Oracle
from cutset.profilers.child import Failure, run_in_child
from cutset.profilers.tensorrt_library import LibraryInfo, library_info

STATIC_NOTICE = (
    "neither tensorrt nor tensorrt-rtx answers here: GPU stages run in onnxruntime's CUDA provider, and the published list of "
    "its kernels says what it takes (pip install 'cutset[tensorrt-rtx]' builds engines, without a GPU)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The GPU that is planned for.

    Args:
        name: For people.
        compute_capability: Such as ``8.9``, empty where it is not known.
        here: Whether it is in this machine.
    """

    name: str = ""
    compute_capability: str = ""
    here: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBackend:
    """What runs the GPU parts, and who answers for it.

    Args:
        name: Backend of the GPU stages.
        oracle: The library to ask and to build with, None for the recorded table.
        proxy: Whether the oracle's engines are a trial that is not deployed: another library, or another GPU.
        notice: What the user should know of the choice, empty when nothing.
    """

    name: GpuBackendName
    oracle: Oracle | None
    proxy: bool = False
    notice: str = ""


def choose_backend(request: GpuBackendRequest, gpu: Gpu) -> GpuBackend:
    """Return the backend for a GPU: what is asked for, else TensorRT on a GPU of this machine, TensorRT-RTX, or CUDA.

    Args:
        request: As given on the command line.
        gpu: What is planned for.

    Raises:
        UnavailableError: If the library that is asked for cannot be used here, or does not know the GPU.
    """
    if request == "onnxruntime-cuda":
        return GpuBackend(name="onnxruntime-cuda", oracle=None)
    rtx = _load("tensorrt-rtx", builds=True) if request != "tensorrt" or not gpu.here else _not_asked()
    full = _load("tensorrt", builds=gpu.here) if request == "tensorrt" or (request == "auto" and gpu.here) else _not_asked()
    if request == "tensorrt" and isinstance(full, Failure):
        raise _unusable("tensorrt", full)
    if request == "tensorrt-rtx" and isinstance(rtx, Failure):
        raise _unusable("tensorrt-rtx", rtx)
    if isinstance(full, LibraryInfo):
        return _full(full, rtx, gpu)
    if isinstance(rtx, Failure):
        return GpuBackend(name="onnxruntime-cuda", oracle=None, notice=STATIC_NOTICE)
    return _rtx(rtx, gpu, insist=request == "tensorrt-rtx")


def _load(backend: Backend, *, builds: bool) -> LibraryInfo | Failure:
    """Return the library if it loads and, where it is to build here, can."""
    found = run_in_child(library_info, MODULES[backend], limits=PROBE_LIMITS)
    if isinstance(found, LibraryInfo) and found.failure and builds:
        return Failure(kind="raised", detail=f"it makes no builder: {' '.join(found.failure.split())[:300]}")
    return found


def _not_asked() -> Failure:
    return Failure(kind="exited", detail="was not asked")


def _unusable(backend: Backend, failure: Failure) -> UnavailableError:
    missing = "No module named" in failure.detail
    cure = f"pip install 'cutset[{backend}]'" if missing else f"pip install --force-reinstall {backend}; see `cutset doctor`"
    return UnavailableError(
        f"--gpu-backend {backend}: {TITLES[backend]} cannot be used here", cause=failure.detail,
        hint=f"{cure}; or --gpu-backend auto",
    )  # fmt: skip


def _full(full: LibraryInfo, rtx: LibraryInfo | Failure, gpu: Gpu) -> GpuBackend:
    """Return full TensorRT; without its GPU, TensorRT-RTX answers for it where there is one."""
    if gpu.here:
        return GpuBackend(name="tensorrt", oracle=Oracle(backend="tensorrt", version=full.version, compute_capability=""))
    later = "TensorRT builds on the GPU that runs the engine: run `python -m <package> build` there"
    if isinstance(rtx, Failure):
        return GpuBackend(name="tensorrt", oracle=None, notice=later)
    oracle = _proxy(rtx, gpu)
    return GpuBackend(name="tensorrt", oracle=oracle, proxy=True, notice=f"{later}; here {oracle.title} answers for it")


def _rtx(rtx: LibraryInfo, gpu: Gpu, *, insist: bool) -> GpuBackend:
    """Return TensorRT-RTX, or full TensorRT for a GPU that it does not serve; insisting needs only that it knows the GPU."""
    if gpu.here:
        return GpuBackend(
            name="tensorrt-rtx", oracle=Oracle(backend="tensorrt-rtx", version=rtx.version, compute_capability="")
        )
    wanted = gpu.compute_capability or PORTABLE_CAPABILITY
    known = wanted in rtx.compute_capabilities
    if known and (insist or _number(wanted) >= _number(PORTABLE_CAPABILITY)):
        oracle = Oracle(backend="tensorrt-rtx", version=rtx.version, compute_capability=wanted)
        return GpuBackend(name="tensorrt-rtx", oracle=oracle)
    lack = "has no fp32 matrix products" if known else "builds no engines"
    why = f"TensorRT-RTX {rtx.version} {lack} for {gpu.name} (compute capability {wanted})"
    if insist:
        raise UnavailableError(
            f"--gpu-backend tensorrt-rtx: {why}", cause=f"it builds for {', '.join(rtx.compute_capabilities)}",
            hint="use --gpu-backend auto: TensorRT builds the engines on the target",
        )  # fmt: skip
    oracle = _proxy(rtx, gpu)
    return GpuBackend(
        name="tensorrt", oracle=oracle, proxy=True,
        notice=f"{why}: engines are tried here for {oracle.compute_capability}, and built by TensorRT on the target "
        "(`python -m <package> build`)",
    )  # fmt: skip


def _proxy(rtx: LibraryInfo, gpu: Gpu) -> Oracle:
    """Return TensorRT-RTX, asked about the nearest GPU below that it serves fully: Turing lacks what full TensorRT has."""
    wanted = _number(gpu.compute_capability or PORTABLE_CAPABILITY)
    served = [c for c in sorted(rtx.compute_capabilities, key=_number) if _number(c) >= _number(PORTABLE_CAPABILITY)]
    nearest = next((capability for capability in reversed(served) if _number(capability) <= wanted), served[0])
    return Oracle(backend="tensorrt-rtx", version=rtx.version, compute_capability=nearest)


def _number(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
