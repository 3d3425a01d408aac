"""Make requests whose rows differ in every way that mixing could show: scale, sign, order, zeros, extremes, content.

Runs of a sample beside its mirror image prove little: the two have one mean, one largest and one smallest element.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from cutset.profilers.session import Arrays

_Way: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]

_EXTREME = 30.0
"""How far beyond the largest magnitude of a sample its outliers lie."""


def vary(feed: Arrays, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield requests of the shapes of `feed`, each different from it in one way, the sharpest ways first.

    Integers stay between the smallest and the largest that the sample holds (bytes: of their type), so that indices stay valid.

    Args:
        feed: Inputs of one stage, all of them arrays.
        seed: Of whatever is drawn.
    """
    rng = np.random.default_rng(seed)
    for floats, others in zip(_FLOATS, _OTHERS, strict=True):
        yield {name: _varied(np.asarray(value), floats, others, rng) for name, value in feed.items()}


def _varied(value: np.ndarray, floats: _Way, others: _Way, rng: np.random.Generator) -> np.ndarray:
    if not value.size:
        return value
    if _is_float(value):
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(floats(value.astype(np.float64), rng).astype(value.dtype))
    return np.ascontiguousarray(others(value, rng).astype(value.dtype))


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind == "f" or value.dtype.name == "bfloat16"


def _scaled(factor: float) -> _Way:
    return lambda value, rng: value * factor


def _mirrored(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.flip(value, axis=tuple(range(1, value.ndim)))


def _shuffled(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(value.reshape(-1)).reshape(value.shape)


def _noise(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return normal noise that is as large as the sample, or of size one where the sample is zero."""
    return rng.normal(size=value.shape) * (float(np.abs(value).max(initial=0.0)) or 1.0)


def _outlier(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the sample with one element far outside, of either sign."""
    spoilt = value.copy().reshape(-1)
    peak = _EXTREME * (float(np.abs(value).max(initial=0.0)) or 1.0)
    first, second = rng.integers(spoilt.size, size=2)
    spoilt[first], spoilt[second] = peak, -peak
    return spoilt.reshape(value.shape)


def _zeros(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.zeros_like(value)


def _bounds(value: np.ndarray) -> tuple[int, int]:
    """Return the smallest and largest integer to draw: of the type for bytes, else of the sample."""
    if value.dtype.kind == "u" and value.dtype.itemsize == 1:
        return 0, 255
    return int(value.min()), int(value.max())


def _drawn(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if value.dtype.kind == "b":
        return rng.random(value.shape) < 0.5
    if value.dtype.kind in "iu":
        low, high = _bounds(value)
        return rng.integers(low, high, size=value.shape, endpoint=True)
    return _reworded(value, rng)


def _reworded(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return other texts of the sample's words: each has some of the words of all, in another order."""
    said = (text.decode(errors="replace") if isinstance(text, bytes) else str(text) for text in value.reshape(-1))
    words = [word for text in said for word in text.split()]
    texts = [" ".join(rng.choice(words, size=1 + int(rng.integers(len(words))))) if words else "" for _ in range(value.size)]
    return np.array(texts, dtype=object).reshape(value.shape)


def _filled(end: int) -> _Way:
    """Return a way that fills with the smallest (0) or largest (1) integer; text stays, in another order."""

    def fill(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if value.dtype.kind == "b":
            return np.full(value.shape, bool(end))
        return np.full(value.shape, _bounds(value)[end]) if value.dtype.kind in "iu" else _shuffled(value, rng)

    return fill


_FLOATS: Sequence[_Way] = (_scaled(1e3), _noise, _scaled(-1.0), _scaled(1e-3), _outlier, _shuffled, _mirrored, _zeros)
_OTHERS: Sequence[_Way] = (_drawn, _drawn, _mirrored, _drawn, _filled(1), _shuffled, _drawn, _filled(0))
