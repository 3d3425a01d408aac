"""Build one TensorRT engine from a stage's ONNX file, with TensorRT or TensorRT-RTX, in a process of its own.

The libraries can crash, hang and take all memory, so the process limits its own memory: it is the compiler's measuring
child, or ``python -m <package>.runtime.backends.engine_build JOB.json``. What the builder is told is `engine_compile`'s.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..engine_config import EngineInput
from .base import BackendError
from .engine_compile import BuildSettings, Errors, Refusal, compile_engine

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
TIMEOUT_S = 1800.0
MEMORY_SHARE = 0.9
"""Of the free memory: a build that took the rest would have the system kill something, and not always the build."""
_WORDS = 500  # characters of the library's words that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildJob:
    """What to build.

    Args:
        model: The ONNX file; its weights may lie beside it.
        engine: Where the engine is written.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        inputs: Shapes, and elements of inputs that are shapes, which the engine must take.
        compute_capability: GPU to build for, such as ``8.9``, without one (TensorRT-RTX); empty for this machine's.
        tf32: Whether float32 products may be computed in tf32.
        timing_cache: File in which full TensorRT keeps what it measured, None for none.
        memory_bytes: Private memory that the build may take, None for `MEMORY_SHARE` of what is free.
    """

    model: str
    engine: str
    backend: str
    inputs: tuple[EngineInput, ...]
    compute_capability: str = ""
    tf32: bool = False
    timing_cache: str | None = None
    memory_bytes: int | None = None

    @property
    def settings(self) -> BuildSettings:
        """What the builder is told."""
        return BuildSettings(
            inputs=self.inputs, compute_capability=self.compute_capability, tf32=self.tf32, timing_cache=self.timing_cache
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """An engine that was written.

    Args:
        version: Of the library.
        seconds: Time to parse and build.
        size_bytes: Of the engine.
    """

    version: str
    seconds: float
    size_bytes: int


def build(job: BuildJob) -> BuildReport:
    """Write the engine of `job`; meant to run in a process of its own, whose memory it limits.

    Raises:
        BackendError: If the library is missing, or its parser or builder refuses; the message has its words.
    """
    try:
        trt = importlib.import_module(MODULES[job.backend])
    except (ImportError, OSError) as error:
        raise BackendError(f"{job.backend} cannot be used: {error} (pip install {job.backend})") from error
    limit_memory(int(MEMORY_SHARE * free_memory_bytes()) if job.memory_bytes is None else job.memory_bytes)
    start = time.perf_counter()
    errors = Errors(trt)
    try:
        plan = compile_engine(trt, errors.logger, job.model, job.settings).plan
    except Refusal as refusal:
        words = refusal.words or errors.last() or "the library gave no reason"
        raise BackendError(f"the {refusal.step} refuses: {words[:_WORDS]}") from refusal
    except Exception as error:  # the bindings raise several kinds; MemoryError has no words
        words = errors.last() or str(error) or type(error).__name__
        raise BackendError(f"the builder refuses: {' '.join(words.split())[:_WORDS]}") from error
    Path(job.engine).write_bytes(plan)
    return BuildReport(version=trt.__version__, seconds=time.perf_counter() - start, size_bytes=len(plan))


def limit_memory(more_bytes: int) -> None:
    """Allow this process so much private memory beyond what it has (RLIMIT_DATA); allocations after that fail in it.

    Not the address space, of which CUDA reserves far more than a machine has.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _kib("/proc/self/status", "VmData") + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def free_memory_bytes() -> int:
    """Return the memory that is free in this machine, or in the control group that holds it if that is less."""
    free = _kib("/proc/meminfo", "MemAvailable") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control group, or one without a limit, which says "max"
        return free
    return max(0, min(free, limit - used))


def _kib(file: str, name: str) -> int:
    """Return the bytes of an entry of a file in /proc, zero where it has none."""
    with contextlib.suppress(OSError), Path(file).open(encoding="utf-8") as lines:
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:")), 0)
    return 0


def build_apart(job: BuildJob, timeout_s: float = TIMEOUT_S) -> BuildReport:
    """Write the engine of `job` from a process of its own, so that a crash of the library is an error like any other.

    Raises:
        BackendError: As `build`, or if the process crashed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="engine-build-") as folder:
        request, answer = Path(folder) / "job.json", Path(folder) / "answer.json"
        request.write_text(json.dumps(asdict(job)), "utf-8")
        variables = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        try:
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-m", __name__, str(request), str(answer)],
                env={**os.environ, **variables},
                capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise BackendError(f"the build did not finish within {timeout_s:g} s") from None
        if not answer.is_file():
            lines = done.stderr.strip().splitlines()
            said = f": {lines[-1][:_WORDS]}" if lines else ""
            raise BackendError(f"the process that builds ended with status {done.returncode}{said}")
        document = json.loads(answer.read_text("utf-8"))
    if "error" in document:
        raise BackendError(document["error"])
    return BuildReport(**document)


def main(arguments: list[str]) -> int:
    """Build the job in the file ``arguments[0]`` and write the report, or the error, to ``arguments[1]``."""
    document = json.loads(Path(arguments[0]).read_text("utf-8"))
    inputs = tuple(EngineInput.read(entry) for entry in document.pop("inputs"))
    try:
        answer: dict[str, Any] = asdict(build(BuildJob(**document, inputs=inputs)))
    except BackendError as error:
        answer = {"error": str(error)}
    Path(arguments[1]).write_text(json.dumps(answer), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
