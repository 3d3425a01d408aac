"""How many requests a batch and how many CPU workers: a small exhaustive search around the cut.

The cut is found again for each size, because what is cheap on the GPU changes with the batch and what is cheap on the CPU
with the workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cutset.partitioner.atoms import Evidence
from cutset.partitioner.decide import MIN_GAIN, Candidate, Case, best_unsplit, candidate_of, out_of_reach
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.plan import Operating
from cutset.partitioner.simulate import enough_tokens, saturated

NEARLY = 0.05
"""A smaller batch that reaches within this share of the best is preferred: it answers sooner."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sizing:
    """The size to deploy and what else could be had.

    Attributes:
        options: The options with the chosen batch and workers.
        pareto: Sizes and loads of which none answers both faster and more often than another.
    """

    options: PlanOptions
    pareto: tuple[Operating, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Size:
    batch: int
    cpu_workers: int
    case: Case
    candidate: Candidate

    @property
    def score(self) -> float:
        return self.case.score(self.candidate)


def worker_counts(cores: int, threads: int, *, gpu: bool) -> tuple[int, ...]:
    """Return the numbers of CPU workers to try, ascending; with a GPU one core is left to feed it."""
    most = max(1, (cores - gpu) // threads)
    few = [count for count in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128) if count < most]
    return (*few, most)


def size_up(evidences: Mapping[int, Evidence], options: PlanOptions, workers: Sequence[int]) -> Sizing:
    """Return the batch and the workers to deploy.

    The smallest batch that reaches within `NEARLY` of the best, within the latency target if there is one; with the workers
    that reach most there, and the fewest of those.

    Args:
        evidences: Evidence at each batch to try.
        options: What to plan for.
        workers: Numbers of CPU workers to try, ascending.

    Raises:
        PlanError: If pins and limits leave no plan at any size.
    """
    sizes = [size for batch in sorted(evidences) for size in _sizes(evidences[batch], options, batch, workers)]
    able = [size for size in sizes if size.candidate.feasible]
    if not able:
        quickest = min(size.candidate.latency_s for size in sizes)
        raise out_of_reach(options, quickest)
    best = max(size.score for size in able)
    batch = min(size.batch for size in able if size.score >= best * (1 - NEARLY))
    chosen = max((size for size in able if size.batch == batch), key=lambda size: (size.score, -size.cpu_workers))
    machine = replace(options.machine, batch=chosen.batch, cpu_workers=chosen.cpu_workers)
    points = (point for size in sizes for point in points_of(size.case, size.candidate))
    return Sizing(options=replace(options, machine=machine), pareto=front_of(points))


def _sizes(evidence: Evidence, options: PlanOptions, batch: int, workers: Sequence[int]) -> Iterable[_Size]:
    """Yield the plan of one batch for more and more workers, until the CPU is not what limits it."""
    for count in workers:
        machine = replace(options.machine, batch=batch, cpu_workers=count)
        case = Case(evidence=evidence, options=replace(options, machine=machine))
        candidate = _best(case)
        yield _Size(batch=batch, cpu_workers=count, case=case, candidate=candidate)
        if candidate.decision == "unsplit-gpu" or (candidate.decision == "split" and candidate.evaluation.bottleneck != "cpu"):
            return


def _best(case: Case) -> Candidate:
    costed = case.costed()
    split = candidate_of(case, costed, case.solve_or_quickest(costed).placement)
    whole = best_unsplit(case, costed)
    if whole is None or case.score(split) > case.score(whole) * (1 + MIN_GAIN):
        return split
    return whole if whole.feasible else min(split, whole, key=lambda candidate: candidate.latency_s)


def points_of(case: Case, candidate: Candidate) -> list[Operating]:
    """Return what a candidate reaches with one batch at a time, and with ever more inside until the bottleneck is busy."""
    machine = case.options.machine
    batch = machine.batch
    most, loaded = enough_tokens(candidate.steps, candidate.servers, batch)
    found, inside = {most: loaded}, batch
    while inside < most:
        found[inside] = saturated(candidate.steps, candidate.servers, inside, batch)
        inside *= 2
    return [
        Operating(
            batch=batch,
            cpu_workers=candidate.servers.get("cpu", machine.cpu_workers),
            tokens=tokens,
            decision=candidate.decision,
            stages=candidate.evaluation.stages,
            throughput_per_s=reached.throughput_per_s,
            latency_s=reached.latency_mean_s,
        )
        for tokens, reached in sorted(found.items())
        if math.isfinite(reached.throughput_per_s)
    ]


def front_of(points: Iterable[Operating]) -> tuple[Operating, ...]:
    """Return the points that no other beats on both counts, quickest first."""
    front: list[Operating] = []
    for point in sorted(points, key=lambda p: (p.latency_s, -p.throughput_per_s, p.batch, p.cpu_workers)):
        if not front or point.throughput_per_s > front[-1].throughput_per_s * (1 + 1e-9):
            front.append(point)
    return tuple(front)
