"""Local search on a placement: boundary sweeps, Fiduccia-Mattheyses moves, and a final tidying of ties.

Cuts see linear prices; the true objective is a maximum and pays for whole stages. Sweeps move a run of ops across one
stage boundary in dependency order and keep the best prefix (without them DenseNet-121 ended 21 % off); FM moves single
ops anywhere, downhill and uphill. Both keep the placement inside its window of stages at every step.

Source:
    Fiduccia and Mattheyses, "A linear-time heuristic for improving network partitions", DAC 1982.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cutset.partitioner.evaluation import Evaluation, evaluate
from cutset.partitioner.goal import Goal
from cutset.partitioner.incremental import Devices, Positions
from cutset.partitioner.phases import Window, earliest, latest
from cutset.partitioner.problem import CPU, GPU, FloatArray, Placement, Problem

BETTER = 1 - 1e-9  # an improvement must beat rounding
_ROUNDING = 1 + 1e-12
_SMOOTHING = 0.02  # weight of the total beside the maximum: points a way across plateaus
_CANDIDATES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How hard to search; counts only, never the clock, so that equal input gives an equal plan.

    Attributes:
        sweep_rounds: Most rounds of sweeps.
        moves: Most FM moves a pass.
        passes: Most FM passes.
        patience: FM moves without a new best before a pass ends.
        kicks: Times a good placement is shaken and polished again.
    """

    sweep_rounds: int = 8
    moves: int = 120
    passes: int = 4
    patience: int = 40
    kicks: int = 0


class _Scale:
    """The objective on plain lists, with the overhead of the stages in use and the weight of broken limits."""

    def __init__(self, goal: Goal) -> None:
        problem = goal.problem
        self.goal = goal
        self.limited = goal.limits.some
        self.overhead = (problem.cpu_stage_s, problem.gpu_stage_s)
        self.charged = any(self.overhead)
        self.rows: list[list[float]] = goal.rows.tolist()
        if goal.objective == "throughput" and problem.copies_overlap:
            self.share: list[float] | None = (1 / problem.servers).tolist()
        else:
            self.share = None

    def value_s(self, devices: Devices, used: Sequence[int]) -> float:
        """Return the objective; `used` counts the ops at each chain position."""
        cpu, gpu, h2d, d2h = devices.demand_s
        if self.charged:
            stages = stage_runs(used)
            cpu += stages[CPU] * self.overhead[CPU]
            gpu += stages[GPU] * self.overhead[GPU]
        if self.share is not None:  # the usual case, asked for a million times
            a, b, c, d = self.share
            value_s = max(cpu * a, gpu * b, h2d * c, d2h * d)
        else:
            value_s = max(cpu * a + gpu * b + h2d * c + d2h * d for a, b, c, d in self.rows)
        if not self.limited:
            return value_s
        return value_s + self.goal.excess_s(cpu + gpu + h2d + d2h, devices.gpu_bytes)


def stage_runs(used: Sequence[int]) -> tuple[int, int]:
    """Return the CPU and GPU stages of a chain, where empty positions let their neighbours of one device merge."""
    runs, before = [0, 0], -1
    for label, ops in enumerate(used):
        if ops and (label & 1) != before:
            before = label & 1
            runs[before] += 1
    return runs[CPU], runs[GPU]


def _occupancy(labels: Sequence[int], high: int) -> list[int]:
    used = [0] * (high + 1)
    for label in labels:
        if label >= 0:
            used[label] += 1
    return used


def sweep_orders(problem: Problem, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return topological orders of different temper to sweep in: by index, depth first, and two random ones."""
    rng = np.random.default_rng(seed)
    return (
        tuple(v for v in problem.topology.order if v not in problem.pseudo),
        _kahn(problem, None, deepest=True),
        *(random_order(problem, rng) for _ in range(2)),
    )


def random_order(problem: Problem, rng: np.random.Generator) -> tuple[int, ...]:
    """Return a random topological order of the real ops."""
    return _kahn(problem, rng)


def _kahn(problem: Problem, rng: np.random.Generator | None, *, deepest: bool = False) -> tuple[int, ...]:
    graph = problem.topology
    waiting = [len(before) for before in graph.predecessors]
    ready = [v for v in range(problem.size) if not waiting[v] and v not in problem.pseudo]
    order: list[int] = []
    while ready:
        v = ready.pop(-1 if rng is None or deepest else int(rng.integers(len(ready))))
        order.append(v)
        for w in graph.successors[v]:
            waiting[w] -= 1
            if not waiting[w]:
                ready.append(w)
    return tuple(order)


def refine(goal: Goal, placement: Placement, orders: Sequence[Sequence[int]], effort: Effort) -> list[Placement]:
    """Return one placement for each chain that `placement` fits, at least as good and inside the goal's stages.

    The chains differ in what can grow: a GPU stage followed by a CPU stage gets a third on the GPU only in the chain
    that begins with the GPU.

    Args:
        goal: What to improve; `placement` must be feasible for it.
        placement: Where to start.
        orders: Topological orders of the real ops, from `sweep_orders`.
        effort: Limits of the search.
    """
    return [_refine_in(goal, placement, window, orders, effort) for window in goal.windows(placement)]


def _refine_in(goal: Goal, placement: Placement, window: Window, orders: Sequence[Sequence[int]], effort: Effort) -> Placement:
    """Return the placement after sweeps, FM, and sweeps again if FM helped."""
    swept = sweep(goal, placement, window, orders, effort)
    best = min((placement, swept), key=goal.score_s)
    moved = move_ops(goal, best, window, effort)
    if goal.score_s(moved) < goal.score_s(best) * BETTER:
        best = min((moved, sweep(goal, moved, window, orders, effort)), key=goal.score_s)
    return best


class _Sweeper:
    """Moves ops across one boundary of a labelled chain."""

    def __init__(self, goal: Goal, placement: Placement, window: Window) -> None:
        self.problem = goal.problem
        self.scale = _Scale(goal)
        self.window = window
        self.movable: list[bool] = goal.problem.movable.tolist()
        self.devices = Devices(goal.problem, placement)
        self.label(late=False)
        self.best_s = self.scale.value_s(self.devices, self.used)

    def label(self, *, late: bool) -> bool:
        """Label every op as early or as late as possible; return whether that changed anything."""
        before = getattr(self, "labels", None)
        if late:
            self.labels = latest(self.problem, self.devices.device, self.window.high)
        else:
            self.labels = earliest(self.problem, self.devices.device, self.window.low)
        self.used = _occupancy(self.labels, self.window.high)
        return self.labels != before

    def cross(self, order: Sequence[int], source: int, target: int) -> bool:
        """Move ops from stage `source` to its neighbour `target` in turn; keep the best prefix, if it helps.

        An op that cannot move holds back everything behind it.
        """
        graph = self.problem.topology
        ahead = graph.predecessors if target < source else graph.successors
        held: set[int] = set()
        moved: list[int] = []
        keep, best_s = 0, self.best_s
        for v in [v for v in order if self.labels[v] == source]:
            if not self.movable[v] or (held and not held.isdisjoint(ahead[v])):
                held.add(v)
                continue
            self.devices.flip(v)
            self.used[source] -= 1
            self.used[target] += 1
            moved.append(v)
            value_s = self.scale.value_s(self.devices, self.used)
            if value_s < best_s * BETTER:
                keep, best_s = len(moved), value_s
        for v in reversed(moved[keep:]):
            self.devices.flip(v)
            self.used[source] += 1
            self.used[target] -= 1
        for v in moved[:keep]:
            self.labels[v] = target
        self.best_s = best_s
        return keep > 0


def sweep(goal: Goal, placement: Placement, window: Window, orders: Sequence[Sequence[int]], effort: Effort) -> Placement:
    """Return a placement improved by moving runs of ops across stage boundaries."""
    sweeper = _Sweeper(goal, placement, window)
    backwards = [tuple(reversed(order)) for order in orders]
    for _ in range(effort.sweep_rounds):
        improved = False
        for late in (False, True):
            if not sweeper.label(late=late) and late:
                continue
            for high in range(sweeper.window.low + 1, sweeper.window.high + 1):
                for order, backward in zip(orders, backwards, strict=True):
                    improved |= sweeper.cross(order, high, high - 1)
                    improved |= sweeper.cross(backward, high - 1, high)
        if not improved:
            break
    return np.array(sweeper.devices.device, dtype=np.int8)


class _Mover:
    """One FM pass: every op moves at most once, the best prefix of moves counts."""

    def __init__(self, goal: Goal, placement: Placement, window: Window) -> None:
        problem = goal.problem
        self.problem = problem
        self.scale = _Scale(goal)
        self.window = window
        self.goal = goal
        self.rows = goal.rows
        self.devices = Devices(problem, placement)
        self.positions = Positions(problem, self.devices.device, self.window)
        self.free = problem.movable.copy()
        self.change = np.zeros((problem.size, 4))
        for v in np.flatnonzero(self.free).tolist():
            self.change[v] = self.devices.difference(v)

    def value_s(self) -> float:
        """Return the objective of the placement as it stands."""
        used = _occupancy(self.positions.early, self.window.high) if self.scale.charged else ()
        return self.scale.value_s(self.devices, used)

    def choose(self) -> int | None:
        """Return the op whose move is best and stays in the window, or None."""
        demand_s: FloatArray = np.array(self.devices.demand_s) + self.change
        load = demand_s @ self.rows.T
        score = load.max(axis=1) + _SMOOTHING * load.sum(axis=1)
        if self.scale.limited:
            score += self._excess_s(demand_s.sum(axis=1))
        score[~self.free] = np.inf
        nearest = np.argsort(score, kind="stable")[:_CANDIDATES].tolist()
        return next((v for v in nearest if self.free[v] and self.positions.allows(v)), None)

    def _excess_s(self, latency_s: FloatArray) -> FloatArray:
        """Return what broken limits add to each move, shape ``(ops,)``."""
        problem, device = self.problem, np.array(self.devices.device)
        after = self.devices.gpu_bytes + np.where(device == CPU, problem.gpu_bytes, -problem.gpu_bytes)
        return self.goal.excess_of_each_s(latency_s, after)

    def move(self, v: int) -> None:
        """Move an op and lock it."""
        self.devices.flip(v)
        self.positions.flipped(v)
        self.free[v] = False
        graph = self.problem.topology
        touched: set[int] = set()
        for e in (*graph.produced[v], *graph.consumed[v]):
            tensor = self.problem.tensors[e]
            touched.update((tensor.producer, *tensor.consumers))
        for w in touched:
            if self.free[w]:
                self.change[w] = self.devices.difference(w)


def move_ops(goal: Goal, placement: Placement, window: Window, effort: Effort) -> Placement:
    """Return a placement improved by moves of single ops."""
    best = placement
    for _ in range(effort.passes):
        mover = _Mover(goal, best, window)
        best_s = mover.value_s()
        moved: list[int] = []
        keep = 0
        while len(moved) < effort.moves and len(moved) - keep < effort.patience:
            v = mover.choose()
            if v is None:
                break
            mover.move(v)
            moved.append(v)
            value_s = mover.value_s()
            if value_s < best_s * BETTER:
                keep, best_s = len(moved), value_s
        if not keep:
            break
        best = best.copy()
        best[moved[:keep]] ^= 1
    return best


def tidy(goal: Goal, placement: Placement) -> Placement:
    """Return a placement as good, with no op that could give back a stage or the GPU for free.

    Args:
        goal: What must not get worse.
        placement: A feasible placement.
    """
    before = evaluate(goal.problem, placement)
    result = _without_idle_gpu(goal, placement)
    for v in _lone_critical(goal.problem, result):
        trial = result.copy()
        trial[v] ^= 1
        if evaluate(goal.problem, trial).stages < evaluate(goal.problem, result).stages and _as_good(goal, trial, before):
            result = trial
    return result if _as_good(goal, result, before) else placement


def _as_good(goal: Goal, placement: Placement, before: Evaluation) -> bool:
    after = evaluate(goal.problem, placement)
    return (
        goal.allows(after)
        and after.latency_s <= before.latency_s * _ROUNDING
        and after.bottleneck_s <= before.bottleneck_s * _ROUNDING
        and after.stages <= before.stages
    )


def _without_idle_gpu(goal: Goal, placement: Placement) -> Placement:
    """Return the placement with the ops on the CPU that cost no more there, within the stages it has."""
    problem = goal.problem
    before = evaluate(problem, placement)
    devices = Devices(problem, placement)
    positions = Positions(problem, devices.device, Window(low=before.first, high=before.first + before.stages - 1))
    most_s = max((problem.shares @ np.array(devices.demand_s)).tolist()) * _ROUNDING
    for v in np.flatnonzero(problem.movable & (placement == GPU)).tolist():
        change = devices.difference(v)
        after = np.array(devices.demand_s) + change
        free = sum(change) <= before.latency_s * (_ROUNDING - 1) and (problem.shares @ after).max() <= most_s
        if free and positions.allows(v):
            devices.flip(v)
            positions.flipped(v)
    return np.array(devices.device, dtype=np.int8)


def _lone_critical(problem: Problem, placement: Placement) -> list[int]:
    """Return the movable ops that are alone at their stage on every longest chain: no other op can give back a stage.

    A longest chain that does not pass an op, or passes another op of its stage, is as long without it.
    """
    now = evaluate(problem, placement)
    devices = placement.tolist()
    early = earliest(problem, devices, now.first)
    late = latest(problem, devices, now.first + now.stages - 1)
    at: dict[int, list[int]] = {}
    for v, label in enumerate(early):
        if label >= 0 and label == late[v]:
            at.setdefault(label, []).append(v)
    return [ops[0] for _, ops in sorted(at.items()) if len(ops) == 1 and problem.movable[ops[0]]]
