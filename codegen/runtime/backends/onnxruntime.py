"""Run a stage in ONNX Runtime's CPU provider, and open sessions.

bfloat16, which numpy lacks, travels as its 16 raw bits in uint16: it goes in as a typed OrtValue, and comes out of one
through its address, because ONNX Runtime's Python API refuses to make an array of it (1.20 to 1.32).
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

from ..config import CustomOps, StageConfig
from ..dtypes import Value
from .archive import ARCHIVE, load_archive
from .base import BackendError, BackendOptions
from .device import as_array

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
BFLOAT16 = "tensor(bfloat16)"
BFLOAT16_CODE = 16  # onnx.TensorProto.BFLOAT16
_FATAL_ONLY = 4  # every failure reaches the caller as an exception with the same words


class OnnxRuntimeBackend:
    """One inference session."""

    @classmethod
    def load(cls, stage: StageConfig, options: BackendOptions, substitution: str | None = None) -> OnnxRuntimeBackend:
        """Return the stage, loaded on the CPU.

        Args:
            stage: The stage.
            options: How to run it.
            substitution: Why it is not on the GPU that it is planned for.

        Raises:
            BackendError: If the model cannot be opened or its inputs and outputs are not the stage's.
        """
        archives = [load_archive(one.file) for one in options.custom_ops if one.file and one.file.suffix == ARCHIVE]
        session = open_session(stage, options, [CPU])
        types: dict[str, dict[str, str]] = {}
        for side, nodes, names in (
            ("inputs", model_inputs(session, stage), stage.inputs),
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
        self._raw_inputs = [name for name, kind in types["inputs"].items() if kind == BFLOAT16]
        self._through_ort_values = BFLOAT16 in types["outputs"].values()
        if self._through_ort_values:
            kinds = [*types["inputs"].values(), *types["outputs"].values()]
            rest = sorted({kind for kind in kinds if kind == "tensor(string)" or not kind.startswith("tensor(")})
            if rest:
                raise BackendError(f"ONNX Runtime's Python API cannot return bfloat16 beside {', '.join(rest)}")
        self.substitution = substitution
        self.device = "cpu"

    def run(self, feeds: Mapping[str, Value]) -> dict[str, Value]:
        """Return the outputs of one run; see `StageBackend.run`."""
        try:
            ready = {name: _contiguous(value) for name, value in feeds.items()}
            for name in self._raw_inputs:
                ready[name] = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(ready[name], BFLOAT16_CODE)
            run = self._run_ort_values if self._through_ort_values else self._session.run
            results = run(self._outputs, ready)
        except Exception as error:
            # ONNX Runtime's exceptions share no base class narrower than Exception.
            raise BackendError(self._failed_hook() or str(error)) from error
        failed = self._failed_hook() if self._archives else None
        if failed:
            raise BackendError(failed)
        return dict(zip(self._outputs, results, strict=True))

    def close(self) -> None:
        """Drop the session."""
        del self._session

    def _failed_hook(self) -> str | None:
        """Return why a Python function in the graph failed in this thread's run."""
        return next((error for archive in self._archives if (error := archive.take_error())), None)

    def _run_ort_values(self, outputs: list[str], ready: dict[str, Any]) -> list[Value]:
        """Run for outputs that `run` cannot return; about 40 us dearer, so only where needed."""
        bound = {
            name: value if isinstance(value, ort.OrtValue) else ort.OrtValue.ortvalue_from_numpy(value)
            for name, value in ready.items()
        }
        return [_to_array(value) for value in self._session.run_with_ort_values(outputs, bound)]


def _to_array(value: ort.OrtValue) -> Value:
    if value.data_type() != BFLOAT16:
        return value.numpy()
    shape = value.shape()
    raw = ctypes.string_at(value.data_ptr(), 2 * math.prod(shape))
    return np.frombuffer(raw, dtype=np.uint16).reshape(shape)


def _contiguous(value: Value) -> Value:
    """Return a value ONNX Runtime can use in place."""
    if not isinstance(value, np.ndarray):
        return as_array(value)
    return value if value.flags.c_contiguous and value.flags.aligned else np.require(value, requirements=("C", "A"))


def model_inputs(session: ort.InferenceSession, stage: StageConfig) -> list[Any]:
    """Return the inputs of a session; of those with a default in the file, which the stage may leave out, what it gives."""
    return [*session.get_inputs(), *(node for node in session.get_overridable_initializers() if node.name in stage.inputs)]


def open_session(
    stage: StageConfig,
    options: BackendOptions,
    providers: Sequence[Any],
    entries: Mapping[str, str] = MappingProxyType({}),
    rows: int | None = None,
) -> ort.InferenceSession:
    """Return a session on a stage's model.

    Args:
        stage: The stage.
        options: Its threads and custom operators.
        providers: ONNX Runtime's providers, the first that takes a node runs it.
        entries: Further entries of the session's configuration.
        rows: The only number of rows that it will be given; None for any.

    Raises:
        BackendError: If ONNX Runtime does not take the model so.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    settings.intra_op_num_threads = options.intra_op_threads
    settings.inter_op_num_threads = 1
    # A spinning thread steals the core of the next stage: on two shared cores it halved the throughput.
    spinning = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    dropout = {"optimization.disable_specified_optimizers": "EliminateDropout"} if stage.keeps_dropout else {}
    for key, value in {**spinning, **dropout, **entries}.items():
        settings.add_session_config_entry(key, value)
    if rows is not None:
        settings.add_free_dimension_override_by_name(stage.rows_axis, rows)
    try:
        for library in dict.fromkeys(_library_path(library) for library in options.custom_ops):
            settings.register_custom_ops_library(library)
        return ort.InferenceSession(str(stage.model), settings, providers=providers, enable_fallback=0)
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
