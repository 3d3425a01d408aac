"""Iterated local search: shake a good placement, polish it again, keep what is better.

A bottleneck is a maximum, so many placements are locally best: moving an op pays a copy now and frees another only when
its neighbours follow. Three kinds of kick jump over that: a connected neighbourhood changes sides; an op takes everything
behind it in its stage across the boundary; or stages are drawn anew as ranges of a random order.

Source:
    Lourenço, Martin and Stützle, "Iterated local search", Handbook of Metaheuristics, 2003.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cutset.partitioner.goal import Goal
from cutset.partitioner.phases import earliest
from cutset.partitioner.problem import Placement, Problem
from cutset.partitioner.refine import BETTER, Effort, random_order, refine

LARGEST_KICK = 8
UNLIMITED = 5  # stages to draw where there is no limit
_NEAR = 1.01  # a start may be this much worse than the best: what is locally best lies in clusters


def neighbours(problem: Problem) -> list[list[int]]:
    """Return, for each op, the movable ops that share a tensor with it, sorted."""
    movable = problem.movable.tolist()
    found: list[set[int]] = [set() for _ in range(problem.size)]
    for tensor in problem.tensors:
        ends = [v for v in (tensor.producer, *tensor.consumers) if movable[v]]
        if len(ends) > 2 * LARGEST_KICK:  # an input that everything reads joins nothing
            continue
        for v in ends:
            found[v].update(ends)
    return [sorted(near - {v}) for v, near in enumerate(found)]


def kicked(placement: Placement, near: Sequence[Sequence[int]], movable: Sequence[int], rng: np.random.Generator) -> Placement:
    """Return the placement with the ops of one random connected neighbourhood all moved to one device."""
    start = movable[int(rng.integers(len(movable)))]
    size = int(rng.integers(2, LARGEST_KICK + 1))
    chosen, edge = [start], list(near[start])
    while len(chosen) < size and edge:
        v = edge.pop(int(rng.integers(len(edge))))
        if v not in chosen:
            chosen.append(v)
            edge += near[v]
    result = placement.copy()
    result[chosen] = 1 - placement[start]
    return result


def pushed(goal: Goal, placement: Placement, rng: np.random.Generator) -> Placement:
    """Return the placement with an op and all that follows it, or leads to it, in its stage on the other device."""
    problem = goal.problem
    labels = earliest(problem, placement.tolist(), int(rng.integers(2)))
    start = int(rng.choice(np.flatnonzero(problem.movable)))
    onward = problem.topology.successors if rng.integers(2) else problem.topology.predecessors
    chosen, edge = {start}, [start]
    while edge:
        for w in onward[edge.pop()]:
            if w not in chosen and labels[w] == labels[start]:
                chosen.add(w)
                edge.append(w)
    result = placement.copy()
    result[[v for v in sorted(chosen) if problem.movable[v]]] ^= 1
    return result


def redrawn(goal: Goal, placement: Placement, rng: np.random.Generator) -> Placement:
    """Return alternating ranges of a random topological order; ops with no choice stay where they are."""
    problem = goal.problem
    order = np.array(random_order(problem, rng), dtype=np.int64)
    cuts = np.sort(rng.integers(0, len(order) + 1, size=(goal.max_stages or UNLIMITED) - 1))
    device = (np.searchsorted(cuts, np.arange(len(order)), side="right") + int(rng.integers(2))) & 1
    free = problem.movable[order]
    result = placement.copy()
    result[order[free]] = device[free]
    return result


def explore(
    goal: Goal, placement: Placement, orders: Sequence[Sequence[int]], effort: Effort, rng: np.random.Generator
) -> Placement:
    """Return the placement after `effort.kicks` kicks, at least as good.

    Args:
        goal: What to improve.
        placement: Where to start.
        orders: Topological orders for the sweeps.
        effort: Limits of the search.
        rng: Source of the kicks.
    """
    movable = np.flatnonzero(goal.problem.movable).tolist()
    if not movable:
        return placement
    near = neighbours(goal.problem)
    best, best_s = placement, goal.score_s(placement)
    current = best
    tried = {placement.tobytes()}
    for _ in range(effort.kicks):
        kind = int(rng.integers(3))
        if kind == 0:
            start = kicked(current, near, movable, rng)
        else:
            start = pushed(goal, current, rng) if kind == 1 else redrawn(goal, current, rng)
        if start.tobytes() in tried:
            continue
        tried.add(start.tobytes())
        for found in refine(goal, start, orders, effort):
            value_s = goal.score_s(found)
            if value_s <= best_s * _NEAR:
                current = found
            if value_s < best_s * BETTER:
                best, best_s = found, value_s
    return best
