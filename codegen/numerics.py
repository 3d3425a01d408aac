"""Are two sets of outputs the same numbers, up to what reordering floating-point sums may change?

Splitting changes layouts and fusions (5e-5 was seen on a CNN), so floats are compared with a tolerance of their type,
relative to the tensor's own scale; integers, booleans, strings and shapes must be equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

TOLERANCES: Mapping[str, float] = {"float64": 1e-6, "float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Relative tolerance of each floating type."""

ABSOLUTE_SHARE = 0.1
"""The absolute tolerance, as a share of the relative one times the tensor's largest magnitude: sums that cancel leave
small numbers with the error of large ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """Relative and absolute tolerance; None takes the one of the element type."""

    rtol: float | None = None
    atol: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far one output is from its reference; `reason` is empty when it is close enough."""

    name: str
    max_abs: float
    max_rel: float
    reason: str


def compare(name: str, reference: Any, actual: Any, tolerance: Tolerance = Tolerance()) -> Comparison:
    """Return how far `actual` is from `reference`; sequences and maps are compared element by element.

    Args:
        name: Output name, for the reason.
        reference: What the whole model gives: an array, a list, a dict or a scalar.
        actual: What the parts give.
        tolerance: What is close enough.
    """
    if isinstance(reference, list):
        if not isinstance(actual, list) or len(actual) != len(reference):
            return _differs(name, f"expected a sequence of {len(reference)}")
        parts = [compare(f"{name}[{i}]", r, a, tolerance) for i, (r, a) in enumerate(zip(reference, actual, strict=True))]
        return _worst(name, parts)
    if isinstance(reference, dict):
        if not isinstance(actual, dict) or list(actual) != list(reference):
            return _differs(name, "the maps have different keys")
        return _worst(name, [compare(f"{name}[{k!r}]", reference[k], actual[k], tolerance) for k in reference])
    if reference is None or actual is None:
        return _same(name) if reference is actual else _differs(name, "one of the two is missing")
    return _compare_arrays(name, _as_array(reference), _as_array(actual), tolerance)


def _as_array(value: Any) -> np.ndarray:
    """Return an array; a plain float is an element of a map, in which onnxruntime hands out float32."""
    return np.asarray(value, dtype=np.float32 if type(value) is float else None)


def _compare_arrays(name: str, reference: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> Comparison:
    if reference.dtype != actual.dtype and not {reference.dtype.kind, actual.dtype.kind} <= set("OUS"):
        return _differs(name, f"type {actual.dtype}, expected {reference.dtype}")
    if reference.shape != actual.shape:
        return _differs(name, f"shape {list(actual.shape)}, expected {list(reference.shape)}")
    if reference.dtype == ml_dtypes.bfloat16 or reference.dtype.kind in "fc":
        return _compare_floats(name, reference, actual, tolerance)
    same = reference == actual if reference.dtype.kind != "O" else np.asarray(reference.astype(str) == actual.astype(str))
    wrong = int(reference.size - np.count_nonzero(same))
    return _same(name) if wrong == 0 else _differs(name, f"{wrong} of {reference.size} elements differ")


def _compare_floats(name: str, reference: np.ndarray, actual: np.ndarray, tolerance: Tolerance) -> Comparison:
    if reference.size == 0:
        return _same(name)
    default = TOLERANCES.get(str(reference.dtype), TOLERANCES["float32"])
    wide = np.complex128 if reference.dtype.kind == "c" else np.float64
    expected, found = reference.astype(wide), actual.astype(wide)
    special = ~np.isfinite(expected)
    if not np.array_equal(expected[special], found[special], equal_nan=True) or not np.isfinite(found[~special]).all():
        return _differs(name, "infinities or not-a-numbers differ")
    magnitude = np.abs(expected[~special])
    error = np.abs(found[~special] - expected[~special])
    scale = float(magnitude.max(initial=0.0))
    rtol = default if tolerance.rtol is None else tolerance.rtol
    atol = ABSOLUTE_SHARE * rtol * scale if tolerance.atol is None else tolerance.atol
    max_abs = float(error.max(initial=0.0))
    max_rel = max_abs / scale if scale else max_abs
    bad = int(np.count_nonzero(error > atol + rtol * magnitude))
    reason = f"{bad} of {reference.size} elements differ by up to {max_abs:.3g} (largest magnitude {scale:.3g})" if bad else ""
    return Comparison(name=name, max_abs=max_abs, max_rel=max_rel, reason=reason)


def _same(name: str) -> Comparison:
    return Comparison(name=name, max_abs=0.0, max_rel=0.0, reason="")


def _differs(name: str, reason: str) -> Comparison:
    return Comparison(name=name, max_abs=float("inf"), max_rel=float("inf"), reason=reason)


def _worst(name: str, parts: list[Comparison]) -> Comparison:
    failed = next((part for part in parts if part.reason), None)
    return Comparison(
        name=name,
        max_abs=max((part.max_abs for part in parts), default=0.0),
        max_rel=max((part.max_rel for part in parts), default=0.0),
        reason=f"{failed.name}: {failed.reason}" if failed else "",
    )
