"""Run a stage in ONNX Runtime, on the CPU provider or the CUDA provider.

bfloat16, which numpy lacks, travels as its 16 raw bits in uint16: it goes in as a typed OrtValue, and comes out of one
through its address, because ONNX Runtime's Python API refuses to make an array of it (1.20 to 1.32).
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

from ..config import CustomOps, StageConfig
from ..dtypes import Value
from .archive import ARCHIVE, load_archive
from .base import BackendDied, BackendError, BackendOptions

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_BFLOAT16 = "tensor(bfloat16)"
_BFLOAT16_CODE = 16  # onnx.TensorProto.BFLOAT16
_GPU_SLOTS = 2
_LOST = ("CUDA failure", "CUDA error", "CUDNN failure", "CUBLAS failure")  # the context is gone with the first of them
_FATAL_ONLY = 4  # every failure reaches the caller as an exception with the same words


class OnnxRuntimeBackend:
    """One inference session."""

    @classmethod
    def load(cls, stage: StageConfig, options: BackendOptions) -> OnnxRuntimeBackend:
        """Return the stage, loaded on the GPU if it is planned there and CUDA works, else on the CPU.

        Raises:
            BackendError: If the model cannot be opened or its inputs and outputs are not the stage's.
        """
        archives = [load_archive(one.file) for one in options.custom_ops if one.file and one.file.suffix == ARCHIVE]
        session, substitution = _open(stage, options)
        types: dict[str, dict[str, str]] = {}
        for side, nodes, names in (
            ("inputs", session.get_inputs(), stage.inputs),
            ("outputs", session.get_outputs(), stage.outputs),
        ):
            types[side] = {node.name: node.type for node in nodes}
            if set(types[side]) != set(names):
                raise BackendError(f"the model's {side} are {sorted(types[side])}, the plan says {sorted(names)}")
        return cls(session, stage, types, substitution, archives)

    def __init__(
        self,
        session: ort.InferenceSession,
        stage: StageConfig,
        types: dict[str, dict[str, str]],
        substitution: str | None,
        archives: Sequence[ModuleType] = (),
    ) -> None:
        self._session = session
        self._archives = archives
        self._outputs = list(stage.outputs)
        self._raw_inputs = [name for name, kind in types["inputs"].items() if kind == _BFLOAT16]
        self._through_ort_values = _BFLOAT16 in types["outputs"].values()
        if self._through_ort_values:
            kinds = [*types["inputs"].values(), *types["outputs"].values()]
            rest = sorted({kind for kind in kinds if kind == "tensor(string)" or not kind.startswith("tensor(")})
            if rest:
                raise BackendError(f"ONNX Runtime's Python API cannot return bfloat16 beside {', '.join(rest)}")
        self.substitution = substitution
        self.device = stage.device if substitution is None else "cpu"
        # On a GPU each of two threads has its own stream in ONNX Runtime: one's copies overlap the other's computation.
        self.slots = _GPU_SLOTS if self.device == "gpu" else 1

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        try:
            ready = {name: _contiguous(value) for name, value in feeds.items()}
            for name in self._raw_inputs:
                ready[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(ready[name], _BFLOAT16_CODE)
            run = self._run_ort_values if self._through_ort_values else self._run_arrays
            results = run(ready)
        except Exception as error:
            # ONNX Runtime's exceptions share no base class narrower than Exception.
            lost = self.device == "gpu" and any(words in str(error) for words in _LOST)
            raise (BackendDied if lost else BackendError)(self._failed_hook() or str(error)) from error
        failed = self._failed_hook()
        if failed:
            raise BackendError(failed)
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        """Drop the session."""
        del self._session

    def _failed_hook(self) -> str | None:
        """Return why a Python function in the graph failed in this thread's run."""
        return next((error for archive in self._archives if (error := archive.take_error())), None)

    def _run_arrays(self, ready: dict[str, Any]) -> list[Value]:
        results: list[Value] = self._session.run(self._outputs, ready)
        return results

    def _run_ort_values(self, ready: dict[str, Any]) -> list[Value]:
        """Run for outputs that `run` cannot return; about 40 us dearer, so only where needed."""
        bound = {
            name: value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in ready.items()
        }
        return [_to_array(value) for value in self._session.run_with_ort_values(self._outputs, bound)]


def _to_array(value: ort.OrtValue) -> Value:
    if value.data_type() != _BFLOAT16:
        return value.numpy()
    shape = value.shape()
    raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    return np.frombuffer(raw, dtype=np.uint16).reshape(shape)


def _contiguous(value: Value) -> Value:
    """Return an array ONNX Runtime can use in place."""
    if isinstance(value, np.ndarray) and not (value.flags.c_contiguous and value.flags.aligned):
        return np.require(value, requirements=("C", "A"))
    return value


def _open(stage: StageConfig, options: BackendOptions) -> tuple[ort.InferenceSession, str | None]:
    """Return the session, and why it is not on the planned device."""
    if stage.device == "cpu":
        return _session(stage, options, [_CPU]), None
    if _CUDA not in ort.get_available_providers():
        return _session(stage, options, [_CPU]), "this onnxruntime has no CUDA provider (pip install onnxruntime-gpu)"
    try:
        session = _session(stage, options, [_CUDA, _CPU])
    except BackendError as error:
        return _session(stage, options, [_CPU]), f"the CUDA provider failed: {error}"
    if _CUDA not in session.get_providers():
        # ONNX Runtime falls back by itself, without an error, when the driver or cuDNN is missing.
        return session, "the CUDA provider could not start (driver, CUDA or cuDNN missing)"
    return session, None


def _session(stage: StageConfig, options: BackendOptions, providers: list[str]) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = options.intra_op_threads
    settings.inter_op_num_threads = 1
    # A spinning thread steals the core of the next stage: on two shared cores it halved the throughput.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        for library in dict.fromkeys(_library_path(library) for library in options.custom_ops):
            settings.register_custom_ops_library(library)
        return ort.InferenceSession(str(stage.model), settings, providers=providers)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(str(error)) from error


def _library_path(library: CustomOps) -> str:
    if library.file is not None:
        archive = library.file.suffix == ARCHIVE
        return str(load_archive(library.file).get_library_path()) if archive else str(library.file)
    try:
        module = importlib.import_module(str(library.module))
    except ImportError as error:
        raise BackendError(f"the model needs the package {str(library.module).replace('_', '-')}: {error}") from error
    return str(module.get_library_path())
