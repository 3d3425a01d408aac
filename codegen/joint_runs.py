"""The numeric judge of batching: what requests give in one run against what each gives alone.

A comparison proves nothing where the answers hardly differ: behind a confident softmax every request has the same answer,
whosever features it read. So inner values in front of operators that flatten differences are compared too, and a judgement
needs requests whose answers lie far apart there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from cutset.codegen.numerics import TOLERANCES, compare
from cutset.codegen.row_requests import vary
from cutset.codegen.runtime.batching import batch_key
from cutset.errors import CutsetError
from cutset.profilers.session import Arrays

Function: TypeAlias = Callable[[Arrays], dict[str, Any]]

FAR = 10.0
"""Answers differ if they lie this many tolerances apart: mixed rows must not pass for rounding."""

_LEAST_DIFFERENT = 3
"""Requests whose answers must differ pairwise: with two, a run that swaps nothing but reads one row twice could pass."""

_MOST_REQUESTS = 8
_ORDERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What joint runs showed.

    Args:
        reason: Why rows may mix; empty where joint runs equal runs apart.
        rows: Rows of the largest joint run.
        max_abs: Largest absolute difference seen.
    """

    reason: str = ""
    rows: int = 0
    max_abs: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request and what it gives alone."""

    feed: Arrays = field(repr=False)
    alone: Mapping[str, Any] = field(repr=False)
    rows: int


def judge(function: Function, samples: Sequence[Arrays], witnesses: Mapping[str, Sequence[str]]) -> Judgement:
    """Return whether requests that run together give what they give alone.

    Args:
        function: One stage: its inputs to its outputs, and to the inner values that are compared with them.
        samples: Inputs of the stage, one entry a sample; requests are made from the first, and others of its shapes join.
        witnesses: For each output that must differ the inner values in front of it whose differences an operator may have
            flattened.
    """
    key = batch_key(list(samples[0].values()))
    if key is None:
        return Judgement(reason="the inputs of a sample have no common number of rows")
    requests = _requests(function, samples, list(witnesses))
    if len(requests) < _LEAST_DIFFERENT:
        return Judgement(reason=f"only {len(requests)} requests of the sample's shapes give finite numbers: too few to tell")
    rng = np.random.default_rng(0)
    rows, largest = 0, 0.0
    for turn in range(_ORDERS):
        order = rng.permutation(len(requests)) if turn else np.arange(len(requests))
        found = _joint(function, [requests[index] for index in (*order, order[0])[turn:]])
        if found.reason:
            return found
        rows, largest = max(rows, found.rows), max(largest, found.max_abs)
    for output, inner in witnesses.items():
        if not any(_tells_apart([request.alone[name] for request in requests]) for name in (output, *inner)):
            return Judgement(reason=f"output `{output}` hardly differs between requests: that rows stay apart cannot be seen")
    return Judgement(rows=rows, max_abs=largest)


def _requests(function: Function, samples: Sequence[Arrays], outputs: Sequence[str]) -> list[Request]:
    """Return the samples that share the first one's shapes, and variations of the first; those that give finite numbers.

    Inner values may be infinite, as attention scores under a mask are.
    """
    first = batch_key(list(samples[0].values()))
    found: list[Request] = []
    for feed in (samples[0], *vary(samples[0]), *samples[1:]):
        key = batch_key(list(feed.values()))
        if len(found) == _MOST_REQUESTS or key is None or first is None or key[0] != first[0]:
            continue
        if any(all(np.array_equal(feed[name], other.feed[name]) for name in feed) for other in found):
            continue
        try:
            alone = function(feed)
        except CutsetError:
            continue  # not every variation is a valid input
        if all(_is_finite(alone[name]) for name in outputs):
            found.append(Request(feed=feed, alone=alone, rows=key[1]))
    return found


def _is_finite(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind in "biuOUS" or bool(np.isfinite(array.astype(np.float64)).all())


def _joint(function: Function, requests: Sequence[Request]) -> Judgement:
    """Compare one joint run with the runs apart, each request by its own scale."""
    joint = {name: np.concatenate([request.feed[name] for request in requests]) for name in requests[0].feed}
    rows = sum(request.rows for request in requests)
    try:
        outputs = function(joint)
    except CutsetError as error:
        return Judgement(reason=f"a joint run fails: {error.cause or error.what}"[:300])
    largest = 0.0
    for name, value in outputs.items():
        if np.shape(value)[:1] != (rows,):
            found = len(value) if np.ndim(value) else "no"
            return Judgement(reason=f"`{name}` has {found} rows for {rows} of the inputs")
        start = 0
        for request in requests:
            difference = compare(name, request.alone[name], value[start : start + request.rows])
            if difference.reason:
                return Judgement(reason=f"`{name}` of a joint run differs: {difference.reason}")
            start, largest = start + request.rows, max(largest, difference.max_abs)
    return Judgement(rows=rows, max_abs=largest)


def _tells_apart(answers: Sequence[Any]) -> bool:
    """Return whether enough answers lie pairwise far apart."""
    apart: list[Any] = []
    for answer in answers:
        if all(_is_far(answer, other) for other in apart):
            apart.append(answer)
    return len(apart) >= _LEAST_DIFFERENT


def _is_far(one: Any, other: Any) -> bool:
    a, b = np.asarray(one), np.asarray(other)
    if a.shape != b.shape:
        return True
    if a.dtype.kind in "biuOUS":
        return not np.array_equal(a, b)
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)):
        return True
    a, b = a[finite], b[finite]
    scale = max(float(np.abs(a).max(initial=0.0)), float(np.abs(b).max(initial=0.0)))
    return float(np.abs(a - b).max(initial=0.0)) > FAR * TOLERANCES.get(str(np.asarray(one).dtype), 1e-3) * scale
