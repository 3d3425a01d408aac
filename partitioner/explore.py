"""Iterated local search: shake a good placement, polish it again, keep what is better.

A bottleneck is a maximum, so many placements are locally best: moving an op pays a copy now and frees another only when
its neighbours follow. Flipping a random neighbourhood of ops jumps over that.

Source:
    Lourenço, Martin and Stützle, "Iterated local search", Handbook of Metaheuristics, 2003.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cutset.partitioner.goal import Goal
from cutset.partitioner.problem import Placement, Problem
from cutset.partitioner.refine import BETTER, Effort, refine

LARGEST_KICK = 8
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
        start = kicked(current, near, movable, rng)
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
