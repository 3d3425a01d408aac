"""How far the numbers of a part in a narrower type are from those of float32, on real inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from cutset.codegen.precision.floats import Narrowed, NarrowType, emulated
from cutset.graph.protos import write_model
from cutset.profilers.session import Arrays, open_session, run, session_options

TOLERANCES: Mapping[str, float] = {"tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-1}
"""Largest error that is accepted, over the output's largest magnitude."""

_SUM_ERROR = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """The error of one output over all inputs that were tried.

    Args:
        name: Of the output.
        max_abs: Largest absolute error.
        max_rel: The same over the largest magnitude of the output.
        mean_abs: Mean absolute error.
        top1: Share of rows whose largest element is at the same place; None where the output is no distribution.
    """

    name: str
    max_abs: float
    max_rel: float
    mean_abs: float
    top1: float | None


def errors_of(reference: Sequence[Arrays], actual: Sequence[Arrays]) -> tuple[OutputError, ...]:
    """Return the error of each output over all inputs; where it is of integers, the share of elements that differ."""
    return tuple(
        _error(name, [np.asarray(one[name]) for one in reference], [np.asarray(one[name]) for one in actual])
        for name in reference[0]
    )


def _error(name: str, reference: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> OutputError:
    if any(expected.shape != found.shape for expected, found in zip(reference, actual, strict=True)):
        return OutputError(name=name, max_abs=np.inf, max_rel=np.inf, mean_abs=np.inf, top1=None)
    if reference[0].dtype.kind not in "fV":
        differ = np.concatenate([(a != b).ravel() for a, b in zip(reference, actual, strict=True)])
        share = float(differ.mean()) if differ.size else 0.0
        return OutputError(name=name, max_abs=share, max_rel=share, mean_abs=share, top1=None)
    expected = np.concatenate([one.astype(np.float64).ravel() for one in reference])
    found = np.concatenate([one.astype(np.float64).ravel() for one in actual])
    wrong = np.where(np.isnan(expected) & np.isnan(found) | (expected == found), 0.0, np.abs(expected - found))
    wrong = np.where(np.isnan(wrong), np.inf, wrong)
    scale = float(np.abs(expected[np.isfinite(expected)]).max(initial=0.0))
    worst = float(wrong.max(initial=0.0))
    return OutputError(
        name=name,
        max_abs=worst,
        max_rel=worst / scale if scale else worst,
        mean_abs=float(wrong.mean()) if wrong.size else 0.0,
        top1=_top1(reference, actual) if all(is_distribution(one) for one in reference) else None,
    )


def is_distribution(array: np.ndarray) -> bool:
    """Return whether the rows of an array are probabilities that sum to one."""
    if array.ndim < 1 or array.shape[-1] < 2 or array.dtype.kind != "f" or not array.size:
        return False
    return bool((array >= 0).all() and np.allclose(array.astype(np.float64).sum(-1), 1, atol=_SUM_ERROR))


def _top1(reference: Sequence[np.ndarray], actual: Sequence[np.ndarray]) -> float:
    same = [expected.argmax(-1) == found.argmax(-1) for expected, found in zip(reference, actual, strict=True)]
    return float(np.concatenate([one.ravel() for one in same]).mean())


def run_part(model: Path | onnx.ModelProto, feeds: Sequence[Arrays]) -> list[Arrays]:
    """Return the outputs of a part for each of its inputs, in the types that its file says.

    Raises:
        ModelError: If onnxruntime does not load it.
    """
    with tempfile.TemporaryDirectory(prefix="cutset-part-") as folder:
        path = model
        if isinstance(model, onnx.ModelProto):
            path = Path(folder) / "part.onnx"
            write_model(model, path)
        assert isinstance(path, Path)
        options = session_options()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        session = open_session(path, options=options)
        names = [value.name for value in session.get_outputs()]
        return [run(session, feed, names) for feed in feeds]


def run_narrowed(narrowed: Narrowed, kind: NarrowType, feeds: Sequence[Arrays]) -> list[Arrays]:
    """Return the outputs of a narrowed part: computed in float32, every narrow tensor rounded to its type.

    On the CPU onnxruntime has no bfloat16, and of float16 only some kernels: between the others it leaves out casts, and
    with them the overflow that an accelerator would show.
    """
    return run_part(emulated(narrowed, kind), feeds)
