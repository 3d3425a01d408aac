"""The price loop: prices that certify how good any placement can be.

The objective is the largest of a few linear terms: the load of each resource, or one term, the latency. At fixed weights
on the terms, which sum to one, the cheapest placement is one minimum cut, and its cost is a lower bound on every
placement's objective. A limit on latency or on the GPU's memory has a multiplier, at least zero, on what exceeds it. The
loop looks for the weights and multipliers with the best bound; the placements it meets on the way are its candidates.
The bound equals that of the linear relaxation.

Source:
    Kelley, "The cutting-plane method for solving convex programs", 1960; in-out stabilisation: Ben-Ameur and Neto,
    "Acceleration of cutting-plane and column generation algorithms", Networks 49(1), 2007; multipliers on limits:
    Geoffrion, "Lagrangean relaxation for integer programming", 1974.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from cutset.partitioner.cut import Oracle
from cutset.partitioner.goal import Limits
from cutset.partitioner.problem import FloatArray, IntArray

TOLERANCE = 1e-4
MAX_CUTS = 120
_MARGIN = 0.02
_BOX = 1e3  # largest multiplier, in units of the objective for one whole limit exceeded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriceBound:
    """What the price loop found.

    Attributes:
        bound_s: No labelling within the limits has a smaller objective in the oracle's demands.
        weights: The weights on the terms that prove it; they sum to 1, shape ``(terms,)``.
        multipliers: Seconds of the objective for a second and for a byte over the limit, shape ``(2,)``.
        labels: Every labelling met, in order.
        mix: Share of each labelling in the best fractional plan, shape ``(len(labels),)``.
    """

    bound_s: float
    weights: FloatArray
    multipliers: FloatArray
    labels: tuple[IntArray, ...]
    mix: FloatArray


class _Columns:
    """The labellings met so far, what each term is for them, and how far they are over each limit."""

    def __init__(self, oracle: Oracle, rows: FloatArray, base_s: FloatArray, limits: Limits) -> None:
        self.oracle, self.rows, self.base_s = oracle, rows, base_s
        limit = np.array([limits.latency_s, limits.gpu_bytes])
        self.limited = np.isfinite(limit)
        self.limit = np.where(self.limited, limit, 0.0)
        self.labels: list[IntArray] = []
        self.demands: list[FloatArray] = []
        self.bytes: list[float] = []
        self.seen: set[bytes] = set()

    def add(self, labels: IntArray) -> bool:
        key = labels.astype(np.int64).tobytes()
        if key in self.seen:
            return False
        self.seen.add(key)
        self.labels.append(labels)
        self.demands.append(self.oracle.demands(labels))
        self.bytes.append(self.oracle.gpu_bytes(labels))
        return True

    def terms(self) -> FloatArray:
        """Return the terms of the objective, shape ``(labellings, terms)``."""
        return (np.array(self.demands) + self.base_s) @ self.rows.T

    def excess(self) -> FloatArray:
        """Return seconds and bytes over the limits, zero without a limit, shape ``(labellings, 2)``."""
        latency_s = (np.array(self.demands) + self.base_s).sum(axis=1)
        used = np.stack([latency_s, np.array(self.bytes)], axis=1)
        return np.where(self.limited, used - self.limit, 0.0)

    def ask(self, weights: FloatArray, multipliers: FloatArray) -> tuple[float, bool]:
        """Return the bound at a point and whether its cheapest labellings are new."""
        prices = weights @ self.rows + multipliers[0]
        byte_price = float(multipliers[1])
        ceiling_s = float((np.array(self.demands) @ prices + byte_price * np.array(self.bytes)).min())
        answer = self.oracle.cheapest(prices, ceiling_s, byte_price)
        constant_s = float(prices @ self.base_s), -float(multipliers @ self.limit)
        added = [self.add(labels) for labels in answer.labels]  # both, not just the first new one
        return math.fsum([answer.value_s, *constant_s]), any(added)


def price_loop(
    oracle: Oracle,
    *,
    rows: FloatArray,
    base_s: FloatArray,
    start: Iterable[IntArray],
    limits: Limits | None = None,
    tolerance: float = TOLERANCE,
) -> PriceBound:
    """Return the best bound on the objective over all labellings, with the labellings met on the way.

    Args:
        oracle: Cheapest labelling at given prices.
        rows: The terms of the objective as weights on demands, shape ``(terms, 4)``.
        base_s: Demand every labelling has on top, shape ``(4,)``.
        start: At least one labelling with finite demands.
        limits: What a labelling must keep.
        tolerance: Relative distance to the best bound at which to stop.
    """
    columns = _Columns(oracle, rows, base_s, limits or Limits())
    for labels in start:
        columns.add(labels)
    terms = len(rows)
    best_s, best = -np.inf, np.concatenate([np.full(terms, 1 / terms), np.zeros(2)])

    def ask(point: FloatArray) -> bool:
        nonlocal best_s, best
        value_s, new = columns.ask(point[:terms], point[terms:])
        if value_s > best_s:
            best_s, best = value_s, point
        return new

    for point in [best, *_corners(terms)]:
        ask(point)
    mix = np.zeros(0)
    for _ in range(MAX_CUTS):
        fractional_s, master, mix = _master(columns.terms(), columns.excess(), columns.limited)
        if fractional_s - best_s <= tolerance * abs(fractional_s):
            break
        if not ask((best + master) / 2) and not ask(master):
            break
    return PriceBound(
        bound_s=max(best_s, 0.0),
        weights=best[:terms],
        multipliers=best[terms:],
        labels=tuple(columns.labels),
        mix=mix,
    )


def _corners(terms: int) -> FloatArray:
    """Return points near each corner of the simplex, without multipliers."""
    if terms == 1:
        return np.zeros((0, 3))
    result: FloatArray = np.full((terms, terms), _MARGIN) + np.eye(terms) * (1 - terms * _MARGIN)
    return np.hstack([result, np.zeros((terms, 2))])


def _master(terms: FloatArray, excess: FloatArray, limited: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Return the best value, point and mix over the labellings met: max t with t <= weights @ terms + multipliers @ excess.

    Multipliers are boxed, so that limits no mix can keep make the value large, not infinite.
    """
    count, size = terms.shape
    unit = max(float(terms.max()), 1e-300)
    scale = np.abs(excess).max(axis=0)
    scale[scale == 0] = 1.0
    result = linprog(
        np.array([*[0.0] * (size + 2), -1.0]),
        A_ub=np.hstack([-terms / unit, -excess / scale, np.ones((count, 1))]),
        b_ub=np.zeros(count),
        A_eq=np.array([[*[1.0] * size, 0.0, 0.0, 0.0]]),
        b_eq=np.ones(1),
        bounds=[*[(0, None)] * size, *[(0, _BOX if on else 0) for on in limited], (None, None)],
        method="highs",
    )
    weights = np.maximum(result.x[:size], 0.0)
    multipliers = np.maximum(result.x[size:-1], 0.0) * unit / scale
    return float(result.x[-1]) * unit, np.concatenate([weights / weights.sum(), multipliers]), -result.ineqlin.marginals
