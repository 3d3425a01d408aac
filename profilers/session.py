"""One place that opens onnxruntime sessions, with the settings that are deployed, and explains refusals."""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from cutset.cascade.hooks import native_library, take_error
from cutset.errors import CutsetError, ModelError, ProfileError, UnavailableError
from cutset.profilers.table import OptimizationLevel

ort.set_default_logger_severity(4)

TOGETHER_BYTES = 2 << 30
"""Models with their weights, of which sessions are open at once at most: each session lays the weights out anew."""

KEEP_DROPOUT = {"optimization.disable_specified_optimizers": "EliminateDropout"}
"""Entries of a session's configuration for a model with a Dropout that draws: onnxruntime takes every Dropout out else."""

Arrays = Mapping[str, Any]
"""Values by name: numpy arrays, or what onnxruntime gives for sequences and maps."""

_LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def fit_together(models: Sequence[Path]) -> bool:
    """Return whether a session of each of these files, with the weights that lie beside it, may be open at once."""
    files = (file for model in models for file in model.parent.glob(f"{model.name}*"))
    return sum(file.stat().st_size for file in files) <= TOGETHER_BYTES


def session_options(*, threads: int = 1, level: OptimizationLevel = "all", keeps_dropout: bool = False) -> ort.SessionOptions:
    """Return options as they are deployed: sequential, `threads` intra-op threads, never spinning.

    Args:
        threads: Intra-op threads.
        level: How far onnxruntime may rewrite the graph; packages are deployed with ``all``.
        keeps_dropout: Whether the model has a Dropout that draws, which onnxruntime would take out.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    options.graph_optimization_level = _LEVELS[level]
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for key, value in KEEP_DROPOUT.items() if keeps_dropout else ():
        options.add_session_config_entry(key, value)
    return options


def open_session(
    model: Path | bytes, *, custom_ops: Sequence[str] = (), options: ort.SessionOptions | None = None, where: str = ""
) -> ort.InferenceSession:
    """Return a CPU session on `model`.

    Raises:
        ModelError: If onnxruntime does not take the model; the message names the operator and the way out.
    """
    options = options or session_options()
    register_libraries(options, custom_ops)
    source = str(model) if isinstance(model, Path) else model
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds that share no base class
        raise explain_refusal(str(error), where=where or (source if isinstance(source, str) else "model")) from error


def release_memory() -> None:
    """Give the pages of closed sessions back to the system; glibc keeps them otherwise, once a model's weights each."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def register_libraries(options: ort.SessionOptions, libraries: Sequence[str]) -> None:
    """Register custom-operator libraries with a session's options, each once; archives of Python functions among them.

    Raises:
        UnavailableError: If a library cannot be loaded.
    """
    for library in dict.fromkeys(native_library(library) for library in libraries):
        try:
            options.register_custom_ops_library(library)
        except Exception as error:
            raise UnavailableError(
                f"the custom-operator library {library} cannot be loaded",
                cause=str(error)[:300],
                hint="give a shared library built for this machine and this onnxruntime: --custom-ops LIB.so",
            ) from error


def explain_refusal(message: str, *, where: str) -> CutsetError:
    """Return onnxruntime's refusal of a model as an error with a way out."""
    message = re.sub(r"Load model from .*? failed: ?", "", re.sub(r"\s+", " ", message))  # often a working copy
    unknown = re.search(r"(?:No Op registered for|Fatal error:) ([\w.:-]+)", message)
    if unknown:
        return ModelError(
            f"operator {unknown.group(1)} is not known to onnxruntime {ort.__version__}",
            where=where,
            cause=message[:300],
            hint="a custom operator needs its library: --custom-ops LIB.so; else export with a supported opset",
        )
    if "NOT_IMPLEMENTED" in message:
        return ModelError(
            "onnxruntime's CPU provider has no kernel for an operator of this model", where=where, cause=message[:300]
        )
    return ModelError("onnxruntime does not load this model", where=where, cause=message[:300])


def run(session: ort.InferenceSession, inputs: Arrays, outputs: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the session's outputs by name.

    Raises:
        ProfileError: If the run fails on these inputs.
    """
    names = list(outputs) if outputs is not None else [value.name for value in session.get_outputs()]
    try:
        found = dict(zip(names, session.run(names, dict(inputs)), strict=True))
        failed = take_error()
    except Exception as error:
        shapes = {name: f"{value.dtype}{list(value.shape)}" for name, value in inputs.items() if isinstance(value, np.ndarray)}
        raise ProfileError(
            "onnxruntime cannot run the model on the sample inputs",
            where=f"inputs {shapes}",
            cause=take_error() or re.sub(r"\s+", " ", str(error))[:300],
            hint="give inputs that the model accepts: --inputs sample.npz",
        ) from error
    if failed is not None:
        raise ProfileError("a Python function of the model fails on the sample inputs", cause=failed)
    return found
