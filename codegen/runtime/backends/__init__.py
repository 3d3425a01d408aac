"""One module a stage backend; `load_stage` picks the one a stage names."""

from __future__ import annotations

from collections.abc import Callable

from ..config import StageConfig
from ..errors import ConfigError
from . import onnxruntime_cuda, tensorrt
from .base import BackendError, BackendOptions, StageBackend
from .onnxruntime import OnnxRuntimeBackend
from .process import ProcessBackend
from .python import PythonBackend
from .size_checked import SizeCheckedBackend

LOADERS: dict[str, Callable[[StageConfig, BackendOptions], StageBackend]] = {
    "onnxruntime-cpu": OnnxRuntimeBackend.load,
    "onnxruntime-cuda": onnxruntime_cuda.load,
    "python": PythonBackend.load,
    "tensorrt": tensorrt.load,
    "tensorrt-rtx": tensorrt.load,
}


def load_stage(stage: StageConfig, options: BackendOptions) -> StageBackend:
    """Return the stage, loaded by the backend it names, in processes of its own if the plan says so.

    Raises:
        ConfigError: If no such backend exists, or it cannot load the stage's model.
    """
    where = f"stage {stage.index} ({stage.model.name})"
    if stage.backend not in LOADERS:
        raise ConfigError(f"unknown backend {stage.backend!r}", where=where, hint=f"known: {', '.join(LOADERS)}")
    load = ProcessBackend.load if stage.execution == "process" else LOADERS[stage.backend]
    try:
        backend = load(stage, options)
    except BackendError as error:
        raise ConfigError(f"cannot load the model: {error}", where=where) from error
    return SizeCheckedBackend(backend, stage.least) if stage.least else backend
