"""Costs modelled from what a profile measured: one roofline for each class of operators, fitted to recorded groups.

It stands between a recorded cost and a data sheet: it knows the machine, but not this group. Good to rank and to total,
not to promise, so every result is ``modelled`` and carries an interval. Nothing here measures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from cutset.graph.model import ModelGraph
from cutset.profilers.datasheets import Datasheet
from cutset.profilers.table import ClassWork, GroupCost
from cutset.profilers.workload import CLASSES, work_of

BACKEND = "calibrated"

INTERVAL = 1.75
"""Factor of the interval either way: leave-one-model-out totals on an H100 are within it on 6 of 7 models (docs/gpu.md)."""

MIN_GROUPS = 8
"""Fewer recorded groups than this say nothing about classes."""

ROUNDS = 30
HUBER = 0.3
"""Relative error from which a group counts by its error and not by its square: loops and noise must not steer the fit."""

PRIOR_WEIGHT = 1.0
"""Groups that what is known before stands for: the data sheet in the rates of all classes together, and these in each class."""

GATHER_BYTES = 8
"""A gathered element is read once and written once."""

CLOCK_S = 1e-7
"""Times below this are nothing but the resolution of the clock."""

_FEATURES = 4

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What one class costs: seconds a launch, an operation, a byte, and a gathered element."""

    launch_s: float
    flop_s: float
    byte_s: float
    gathered_s: float

    def seconds(self, work: ClassWork) -> float:
        """Return the modelled time of `work`."""
        return (
            work.launches * self.launch_s
            + work.flops * self.flop_s
            + work.bytes * self.byte_s
            + work.gathered * self.gathered_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Rates of every operator class, and the number of recorded groups they were fitted to."""

    rates: Mapping[str, Rates]
    groups: int

    def seconds(self, work: Mapping[str, ClassWork]) -> float:
        """Return the modelled time of one run of a group."""
        return sum(self.rates[kind].seconds(amount) for kind, amount in work.items())


def usable(group: GroupCost) -> bool:
    """Return whether rates may be fitted to a group: a time that some machine took, and known work."""
    return group.source != "modelled" and group.latency_s is not None and bool(group.work)


def calibrate(profiles: Sequence[Iterable[GroupCost]], sheet: Datasheet | None = None) -> Calibration | None:
    """Return the rates that explain the recorded groups of one device, or None if there are too few.

    Time is modelled as launches, operations, bytes and gathered elements, each at a rate of its class; no rate is
    negative. The fit is of relative errors, in a form that takes a factor too much and the same factor too little for
    equal (a plain relative least squares is low by its scatter). A group weighs as the root of its share of its
    profile: between counting groups and counting seconds.

    Small networks on a large GPU are all launches: they leave the rates of operations and bytes open, and a class that has
    only small groups would take its launches for slow bytes. So rates of a class are drawn to those of all classes, and
    these to the device's peaks.

    Args:
        profiles: The groups of each profile, all of one device; groups that are modelled or of unknown size are passed over.
        sheet: Data sheet of the device; None where it has none.

    Source:
        Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009; Huber, "Robust estimation of a location
        parameter", 1964, by iteratively reweighted least squares; Lawson and Hanson, "Solving least squares problems", 1974.
    """
    rows, times, shares = [], [], []
    for profile in profiles:
        found = [(group.work, max(group.latency_s or 0.0, CLOCK_S)) for group in profile if usable(group)]
        total = sum(seconds for _, seconds in found)
        rows += [_row(work) for work, _ in found]
        times += [seconds for _, seconds in found]
        shares += [seconds / total for _, seconds in found]
    if len(rows) < MIN_GROUPS:
        return None
    work, measured = np.array(rows), np.array(times)
    weights = np.sqrt(np.array(shares))
    weights /= weights.mean()
    pooled = _fit(work.reshape(len(rows), len(CLASSES), _FEATURES).sum(axis=1), measured, weights, _peaks(sheet))
    rates = _fit(work, measured, weights, np.tile(pooled, len(CLASSES)))
    return Calibration(rates={kind: _rates(rates, index) for index, kind in enumerate(CLASSES)}, groups=len(rows))


def _peaks(sheet: Datasheet | None) -> Matrix | None:
    """Return the rates that the device cannot be quicker than."""
    if sheet is None:
        return None
    byte_s = 1 / sheet.memory_bytes_per_s
    return np.array([sheet.kernel_launch_s, 1 / sheet.fp32_flops, byte_s, GATHER_BYTES * byte_s])


def _row(work: Mapping[str, ClassWork]) -> list[float]:
    """Return the work as launches, flops, bytes and gathered elements of each class in turn."""
    row = [0.0] * (_FEATURES * len(CLASSES))
    for kind, amount in work.items():
        start = _FEATURES * CLASSES.index(kind)
        row[start : start + _FEATURES] = [amount.launches, amount.flops, amount.bytes, amount.gathered]
    return row


def _rates(rates: Matrix, index: int) -> Rates:
    launch, flop, byte, gathered = (float(rate) for rate in rates[_FEATURES * index : _FEATURES * (index + 1)])
    return Rates(launch_s=launch, flop_s=flop, byte_s=byte, gathered_s=gathered)


def _fit(work: Matrix, measured: Matrix, weights: Matrix, prior: Matrix | None) -> Matrix:
    """Return the non-negative rates with the least robust relative error, drawn towards `prior` where there is one."""
    scale = work.max(axis=0)
    scale[scale == 0] = 1.0
    work = work / scale
    expected = np.zeros(work.shape[1]) if prior is None else prior * scale
    held = expected > 0
    expected = np.where(held, expected, 1.0)
    modelled, rates = measured, expected
    for _ in range(ROUNDS):
        middle = _middle(modelled, measured)
        error = np.abs(modelled - measured) / middle
        trust = np.sqrt(weights * np.minimum(1.0, HUBER / np.maximum(error, 1e-12))) / middle
        pull = np.sqrt(PRIOR_WEIGHT) / _middle(rates, expected)
        system: Any = np.vstack([work * trust[:, None], np.diag(pull)[held]])
        rates, _ = nnls(system, np.concatenate([measured * trust, (expected * pull)[held]]), maxiter=50 * len(scale))
        modelled = work @ rates
    result: Matrix = rates / scale
    return result


def _middle(found: Matrix, expected: Matrix) -> Matrix:
    """Return the geometric mean, which makes the relative error of twice and of half the same size."""
    middle: Matrix = np.sqrt(np.maximum(found, expected / 100) * expected)
    return middle


def calibrated_group(graph: ModelGraph, group: GroupCost, calibration: Calibration) -> GroupCost | None:
    """Return what `group` should cost on the calibrated device, or None where its sizes are not known.

    Args:
        graph: The model, with the shapes of the run.
        group: The group, priced for another device.
        calibration: From `calibrate`.
    """
    if group.canonical and not group.work:
        return None
    latency_s = calibration.seconds(group.work)
    alone = {name: calibration.seconds(work_of(graph, [name])) for name in group.canonical}
    return GroupCost(
        nodes=group.nodes,
        device="gpu",
        backend=BACKEND,
        batch=group.batch,
        latency_s=latency_s,
        low_s=latency_s / INTERVAL,
        high_s=latency_s * INTERVAL,
        source="modelled",
        flops=group.flops,
        bytes=group.bytes,
        unfused_s=alone,
        signature=group.signature,
        canonical=group.canonical,
        work=group.work,
    )
