"""The exact planner: the placement problem as a mixed-integer program for HiGHS, with its own bound.

One binary variable says on which side of each stage boundary an op lies, so that a label never falls along an edge; a
label's parity is its device. Without a stage limit there is one boundary and no order. Models of a few hundred fused ops
close in seconds; the dual bound holds whenever the time runs out.

Source:
    Ordered labels as in Ishikawa, PAMI 2003; the solver is Huangfu and Hall, "Parallelizing the dual revised simplex
    method", Mathematical Programming Computation 10, 2018, through `scipy.optimize.milp`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from cutset.partitioner.baselines import pure_placements
from cutset.partitioner.goal import Goal
from cutset.partitioner.problem import CPU, GPU, FloatArray, Placement, Problem

DEFAULT_SECONDS = 60.0
_GAP = 1e-6  # of the solver; its feasibility tolerances are as large, so no bound is trusted beyond it
_INFEASIBLE = 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exact:
    """What the solver found.

    Attributes:
        placement: The best placement, or None if it found none in time.
        bound_s: No placement within the goal's stages and limits has a smaller objective; infinite if there is none.
        infeasible: Whether it proved that no placement keeps the limits.
    """

    placement: Placement | None
    bound_s: float
    infeasible: bool


Term = tuple[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """A linear expression: coefficients of variables and a constant."""

    terms: tuple[Term, ...] = ()
    constant: float = 0.0

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(terms=self.terms + other.terms, constant=self.constant + other.constant)

    def times(self, factor: float) -> _Sum:
        return _Sum(terms=tuple((j, a * factor) for j, a in self.terms), constant=self.constant * factor)


class _Model:
    """Collects variables and constraints in the solver's form."""

    def __init__(self) -> None:
        self.upper: list[float] = []
        self.integer: list[int] = []
        self.entries: list[tuple[int, int, float]] = []
        self.least: list[float] = []
        self.most: list[float] = []

    def variable(self, *, upper: float = 1.0, integer: bool = False) -> _Sum:
        self.upper.append(upper)
        self.integer.append(int(integer))
        return _Sum(terms=((len(self.upper) - 1, 1.0),))

    def keep(self, low: float, expression: _Sum, high: float) -> None:
        """Require ``low <= expression <= high``; a constraint of constants alone is not one."""
        row = len(self.least)
        self.entries += [(row, j, a) for j, a in expression.terms]
        self.least.append(low - expression.constant)
        self.most.append(high - expression.constant)

    def minimise(self, objective: _Sum, seconds: float) -> tuple[FloatArray | None, float, bool]:
        """Return the best point, the dual bound and whether there is no point."""
        rows, columns, values = (np.array(column) for column in zip(*self.entries, strict=True))
        matrix = csr_matrix((values, (rows, columns)), shape=(len(self.least), len(self.upper)))  # sums duplicates
        cost = np.zeros(len(self.upper))
        np.add.at(cost, [j for j, _ in objective.terms], [a for _, a in objective.terms])
        result = milp(
            cost,
            constraints=LinearConstraint(matrix, np.array(self.least), np.array(self.most)),
            bounds=Bounds(np.zeros(len(self.upper)), np.array(self.upper)),
            integrality=np.array(self.integer),
            options={"time_limit": seconds, "mip_rel_gap": _GAP},
        )
        # Without integer variables it is a linear program, whose optimum is its bound; scipy gives it a dual bound of zero.
        dual = getattr(result, "mip_dual_bound" if any(self.integer) else "fun", None)
        bound = -math.inf if dual is None else float(dual) + objective.constant
        return result.x, bound, result.status == _INFEASIBLE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Labels:
    """The variables of the ops: what says the device of each, and how often each device begins a stage."""

    on_gpu: list[_Sum]
    stages: tuple[_Sum, _Sum]


def solve_exactly(goal: Goal, seconds: float = DEFAULT_SECONDS) -> Exact:
    """Return the best placement and a bound on all placements within the goal's stages and limits.

    The smallest GPU stage is not part of the program, so its bound holds with it and its placement may break it.
    Without a stage limit, stage overheads count once for each device.

    Args:
        goal: What to minimise.
        seconds: Time limit.
    """
    problem = goal.problem
    unit_s = _unit(goal)
    model = _Model()
    stages = goal.max_stages
    labels = _free_labels(model, problem) if stages is None else _ordered_labels(model, problem, stages)
    demands = _demands(model, problem, labels, unit_s)
    _limit(model, goal, labels, demands, unit_s)
    objective = model.variable(upper=math.inf)
    for row in goal.rows.tolist():
        model.keep(0.0, objective + _combine(demands, row).times(-1.0), math.inf)
    point, bound, infeasible = model.minimise(objective, seconds)
    return _answer(goal, labels, point, max(bound * unit_s * (1 - _GAP), 0.0), infeasible)


def _unit(goal: Goal) -> float:
    """Return seconds of the size of the objective, in which the solver's tolerances are small."""
    values = [goal.value_s(placement) for placement in pure_placements(goal.problem).values()]
    return min([value for value in values if 0 < value < math.inf], default=goal.problem.total_s or 1.0)


def _free_labels(model: _Model, problem: Problem) -> _Labels:
    on_gpu = [
        model.variable(integer=True) if cpu and gpu else _Sum(constant=float(gpu))
        for cpu, gpu in zip(problem.on_cpu.tolist(), problem.on_gpu.tolist(), strict=True)
    ]
    used = (_Sum(), _Sum())
    if problem.cpu_stage_s or problem.gpu_stage_s:
        used = (model.variable(), model.variable())
        for v in np.flatnonzero(problem.real).tolist():
            model.keep(0.0, used[GPU] + on_gpu[v].times(-1.0), math.inf)
            model.keep(1.0, used[CPU] + on_gpu[v], math.inf)
    return _Labels(on_gpu=on_gpu, stages=used)


def _ordered_labels(model: _Model, problem: Problem, max_stages: int) -> _Labels:
    """Return labels 0 to `max_stages`, of which the first or the last is empty: a chain may begin on either device."""
    starts_on_gpu = model.variable(integer=True)
    above = {v: [model.variable(integer=True) for _ in range(max_stages)] for v in np.flatnonzero(problem.real).tolist()}
    on_gpu: list[_Sum] = []
    for v in range(problem.size):
        if v not in above:
            on_gpu.append(_Sum())
            continue
        steps = above[v]
        for lower, upper in pairwise(steps):
            model.keep(0.0, lower + upper.times(-1.0), math.inf)
        model.keep(0.0, steps[0] + starts_on_gpu.times(-1.0), math.inf)
        model.keep(0.0, starts_on_gpu + steps[-1].times(-1.0), math.inf)
        device = _total([step.times(1.0 if k % 2 == 0 else -1.0) for k, step in enumerate(steps)])
        if not problem.movable[v]:
            side = float(problem.on_gpu[v])
            model.keep(side, device, side)
        on_gpu.append(device)
    for v, steps in above.items():
        for w in problem.topology.successors[v]:
            for before, after in zip(steps, above[w], strict=True):
                model.keep(0.0, after + before.times(-1.0), math.inf)
    return _Labels(on_gpu=on_gpu, stages=_used_stages(model, problem, above, max_stages))


def _used_stages(model: _Model, problem: Problem, above: dict[int, list[_Sum]], max_stages: int) -> tuple[_Sum, _Sum]:
    """Return how many stages of each device hold an op."""
    if not (problem.cpu_stage_s or problem.gpu_stage_s):
        return _Sum(), _Sum()
    used = [model.variable() for _ in range(max_stages + 1)]
    for steps in above.values():
        ladder = [_Sum(constant=1.0), *steps, _Sum()]
        for k, flag in enumerate(used):
            model.keep(0.0, flag + ladder[k].times(-1.0) + ladder[k + 1], math.inf)
    return _total(used[CPU::2]), _total(used[GPU::2])


def _demands(model: _Model, problem: Problem, labels: _Labels, unit_s: float) -> list[_Sum]:
    """Return the demands on the four resources in units of `unit_s`."""
    on_gpu = labels.on_gpu
    cpu_s, gpu_s = np.where(problem.on_cpu, problem.cpu_s, 0.0), np.where(problem.on_gpu, problem.gpu_s, 0.0)
    cpu = _total([_Sum(constant=cost) + on_gpu[v].times(-cost) for v, cost in enumerate((cpu_s / unit_s).tolist())])
    gpu = _total([on_gpu[v].times(cost) for v, cost in enumerate((gpu_s / unit_s).tolist())])
    copies: tuple[list[_Sum], list[_Sum]] = ([], [])
    for tensor in problem.tensors:
        for paid, cost, sign in ((copies[0], tensor.h2d_s, 1.0), (copies[1], tensor.d2h_s, -1.0)):
            if cost:
                crosses = model.variable()
                for w in tensor.consumers:
                    step = on_gpu[w].times(-sign) + on_gpu[tensor.producer].times(sign)
                    model.keep(0.0, crosses + step, math.inf)
                paid.append(crosses.times(cost / unit_s))
    return [
        cpu + labels.stages[CPU].times(problem.cpu_stage_s / unit_s),
        gpu + labels.stages[GPU].times(problem.gpu_stage_s / unit_s),
        _total(copies[0]),
        _total(copies[1]),
    ]


def _limit(model: _Model, goal: Goal, labels: _Labels, demands: list[_Sum], unit_s: float) -> None:
    if math.isfinite(goal.limits.latency_s):
        model.keep(-math.inf, _total(demands), goal.limits.latency_s / unit_s)
    if math.isfinite(goal.limits.gpu_bytes):
        unit = max(goal.limits.gpu_bytes, 1.0)
        sizes = zip(labels.on_gpu, (goal.problem.gpu_bytes / unit).tolist(), strict=True)
        model.keep(-math.inf, _total([on.times(size) for on, size in sizes]), goal.limits.gpu_bytes / unit)


def _total(parts: list[_Sum]) -> _Sum:
    return _Sum(terms=tuple(term for part in parts for term in part.terms), constant=math.fsum(p.constant for p in parts))


def _combine(demands: list[_Sum], weights: list[float]) -> _Sum:
    return _total([demand.times(weight) for demand, weight in zip(demands, weights, strict=True) if weight])


def _answer(goal: Goal, labels: _Labels, point: FloatArray | None, bound_s: float, infeasible: bool) -> Exact:
    if point is None:
        return Exact(placement=None, bound_s=math.inf if infeasible else bound_s, infeasible=infeasible)
    devices = [sum(point[j] * a for j, a in on.terms) + on.constant for on in labels.on_gpu]
    placement = np.rint(devices).astype(np.int8)
    allowed = math.isfinite(goal.value_s(placement))
    return Exact(placement=placement if allowed else None, bound_s=bound_s, infeasible=False)
