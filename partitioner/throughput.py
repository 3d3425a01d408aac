"""The price loop: prices on the four resources that certify how good any placement can be.

At fixed prices (weights on the resources that sum to one) the cheapest placement is one minimum cut, and its cost is a
lower bound on every placement's bottleneck. The loop looks for the prices with the best bound; the placements it meets
on the way are its candidates. The bound equals that of the linear relaxation.

Source:
    Kelley, "The cutting-plane method for solving convex programs", 1960; in-out stabilisation: Ben-Ameur and Neto,
    "Acceleration of cutting-plane and column generation algorithms", Networks 49(1), 2007.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from cutset.partitioner.cut import Oracle
from cutset.partitioner.problem import RESOURCES, FloatArray, IntArray

TOLERANCE = 1e-4
MAX_CUTS = 120
_MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriceBound:
    """What the price loop found.

    Attributes:
        bound_s: No labelling has a smaller bottleneck in the oracle's demands.
        weights: The prices that prove it: shares of `RESOURCES` that sum to 1, shape ``(4,)``.
        labels: Every labelling met, in order.
        mix: Share of each labelling in the best fractional plan, shape ``(len(labels),)``.
    """

    bound_s: float
    weights: FloatArray
    labels: tuple[IntArray, ...]
    mix: FloatArray


class _Columns:
    """The labellings met so far and their demands."""

    def __init__(self, oracle: Oracle, base_s: FloatArray, start: Iterable[IntArray]) -> None:
        self.oracle, self.base_s = oracle, base_s
        self.labels: list[IntArray] = []
        self.demands: list[FloatArray] = []
        self.seen: set[bytes] = set()
        for labels in start:
            self.add(labels)

    def add(self, labels: IntArray) -> bool:
        key = labels.astype(np.int64).tobytes()
        if key in self.seen:
            return False
        self.seen.add(key)
        self.labels.append(labels)
        self.demands.append(self.oracle.demands(labels) + self.base_s)
        return True


def price_loop(
    oracle: Oracle,
    *,
    servers: FloatArray,
    base_s: FloatArray,
    start: Iterable[IntArray],
    tolerance: float = TOLERANCE,
) -> PriceBound:
    """Return the best bound on the bottleneck over all labellings, with the labellings met on the way.

    Args:
        oracle: Cheapest labelling at given prices.
        servers: Parallel servers of each resource, shape ``(4,)``.
        base_s: Demand every labelling has on top, shape ``(4,)``.
        start: At least one labelling with finite demands.
        tolerance: Relative distance to the best bound at which to stop.
    """
    columns = _Columns(oracle, base_s, start)
    best_s, best = -np.inf, np.full(len(RESOURCES), 1 / len(RESOURCES))

    def ask(weights: FloatArray) -> bool:
        nonlocal best_s, best
        prices = weights / servers
        ceiling_s = float(((np.array(columns.demands) - base_s) @ prices).min())
        answer = oracle.cheapest(prices, ceiling_s)
        value_s = answer.value_s + float(prices @ base_s)
        if value_s > best_s:
            best_s, best = value_s, weights
        added = [columns.add(labels) for labels in answer.labels]  # both, not just the first new one
        return any(added)

    for weights in [best, *_corners()]:
        ask(weights)
    mix = np.zeros(0)
    for _ in range(MAX_CUTS):
        fractional_s, master, mix = _master(np.array(columns.demands) / servers)
        if fractional_s - best_s <= tolerance * fractional_s:
            break
        if not ask((best + master) / 2) and not ask(master):
            break
    return PriceBound(bound_s=max(best_s, 0.0), weights=best, labels=tuple(columns.labels), mix=mix)


def _corners() -> FloatArray:
    size = len(RESOURCES)
    result: FloatArray = np.full((size, size), _MARGIN) + np.eye(size) * (1 - size * _MARGIN)
    return result


def _master(loads: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Return the best value, weights and mix over the columns met: max t with t <= weights @ load of each."""
    columns, size = loads.shape
    unit = max(float(loads.max()), 1e-300)
    result = linprog(
        np.array([*[0.0] * size, -1.0]),
        A_ub=np.hstack([-loads / unit, np.ones((columns, 1))]),
        b_ub=np.zeros(columns),
        A_eq=np.array([[*[1.0] * size, 0.0]]),
        b_eq=np.ones(1),
        bounds=[(0, None)] * size + [(None, None)],
        method="highs",
    )
    weights = np.maximum(result.x[:size], 0.0)
    return float(result.x[-1]) * unit, weights / weights.sum(), -result.ineqlin.marginals
