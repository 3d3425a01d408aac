"""What a model answers, in few numbers: enough to say how far two versions of it are apart.

A long output is folded into a few hundred sums with random signs. The norm of the difference of two such sketches is
that of the outputs themselves, within about 5 %, wherever in the output they differ.

Source:
    Charikar, Chen, Farach-Colton, "Finding frequent items in data streams", ICALP 2002 (the count sketch).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cutset.profilers.session import Arrays

LENGTH = 256
"""Numbers kept of an output; a shorter one is kept as it is."""

DIGITS = 9
"""Decimal digits kept of each: a float32 has seven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """One output of one sample.

    Args:
        name: Output, and the place in it where it is a sequence or a map.
        dtype: Element type.
        shape: Sizes.
        norm: Root of the sum of its squares; zero where it holds no floating-point numbers.
        sketch: The numbers, or sums of them; empty likewise.
        digest: SHA-256 of what has to be equal: all of it, or where a float is no finite number.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    norm: float
    sketch: tuple[float, ...]
    digest: str


def fingerprints(outputs: Sequence[Mapping[str, Any]]) -> tuple[Fingerprint, ...]:
    """Return the fingerprint of every output of every sample, in order."""
    return tuple(
        _fingerprint(f"{name} of sample {index}" if len(outputs) > 1 else name, array)
        for index, sample in enumerate(outputs)
        for output, value in sample.items()
        for name, array in _arrays(output, value)
    )


def _arrays(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays in an output, which may be a sequence of maps."""
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _arrays(f"{name}[{index}]", entry)
    elif isinstance(value, dict):
        for key, entry in value.items():
            yield from _arrays(f"{name}[{key!r}]", entry)
    elif value is not None:
        yield name, np.asarray(value)


def _fingerprint(name: str, array: np.ndarray) -> Fingerprint:
    floating = array.dtype.kind in "fc" or array.dtype.name in {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
    if not floating:
        data = repr(array.tolist()).encode("utf-8", "backslashreplace") if array.dtype.kind in "OUS" else array.tobytes()
        kind = "string" if array.dtype.kind in "OUS" else array.dtype.name
        return Fingerprint(name=name, dtype=kind, shape=array.shape, norm=0.0, sketch=(), digest=_sha(data))
    wide = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64).ravel()
    numbers = wide.view(np.float64)
    finite = np.isfinite(numbers)
    kept = np.where(finite, numbers, 0.0)
    return Fingerprint(
        name=name,
        dtype=array.dtype.name,
        shape=array.shape,
        norm=float(f"{np.linalg.norm(kept):.{DIGITS}g}"),
        sketch=tuple(float(f"{value:.{DIGITS}g}") for value in _sketch(kept)),
        digest="" if finite.all() else _sha(np.nan_to_num(np.where(finite, 0.0, numbers), nan=1, posinf=2, neginf=3).tobytes()),
    )


def _sketch(values: np.ndarray) -> np.ndarray:
    if len(values) <= LENGTH:
        return values
    chooser = np.random.default_rng(len(values))  # the same folds for all outputs of one size
    places, signs = chooser.integers(LENGTH, size=len(values)), chooser.integers(2, size=len(values)) * 2 - 1
    return np.bincount(places, weights=values * signs, minlength=LENGTH)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_inputs(samples: Sequence[Arrays]) -> str:
    """Return the digest of what the model was asked."""
    made_of = [
        [name, fingerprint.dtype, *map(str, fingerprint.shape), fingerprint.digest, *map(str, fingerprint.sketch)]
        for sample in samples
        for name, value in sorted(sample.items())
        for _, array in _arrays(name, value)
        for fingerprint in [_fingerprint(name, array)]
    ]
    return _sha(repr(made_of).encode("utf-8", "backslashreplace"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """How far an output is from what it was.

    Args:
        name: The output.
        error: Norm of the difference over the norm before; infinite where they are not alike at all.
        reason: Why they are not, or empty.
        exact: Whether it has to be equal: integers, strings, sizes.
    """

    name: str
    error: float
    reason: str = ""
    exact: bool = False


def distances(then: Sequence[Fingerprint], now: Sequence[Fingerprint]) -> list[Distance]:
    """Return how far every output is from what it was, those that are gone or new included."""
    before, after = {entry.name: entry for entry in then}, {entry.name: entry for entry in now}
    gone = [_unlike(name, "there is no such output any more") for name in before if name not in after]
    new = [_unlike(name, "a new output") for name in after if name not in before]
    return [*(_distance(entry, after[entry.name]) for entry in then if entry.name in after), *gone, *new]


def _unlike(name: str, reason: str) -> Distance:
    return Distance(name=name, error=float("inf"), reason=reason, exact=True)


def _distance(then: Fingerprint, now: Fingerprint) -> Distance:
    if then.dtype != now.dtype:
        return _unlike(then.name, f"type {now.dtype}, was {then.dtype}")
    if then.shape != now.shape:
        return _unlike(then.name, f"shape {list(now.shape)}, was {list(then.shape)}")
    if then.digest != now.digest:
        return _unlike(then.name, "infinities or not-a-numbers differ" if then.sketch else "elements differ")
    apart = float(np.linalg.norm(np.subtract(now.sketch, then.sketch)))
    return Distance(name=then.name, error=apart / then.norm if then.norm else apart)
