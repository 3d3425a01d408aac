"""How many CPU workers, requests a batch and replicas a load takes, and what it costs: a plan's steps under other sizes.

The placement stays as it was deployed; each row is checked by the simulator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cutset.partitioner.cost import contention
from cutset.partitioner.simulate import Load, Simulation, enough_tokens, poisson, simulate, tokens_within
from cutset.partitioner.steps import Step, demand_of, interval_s, latency_s
from cutset.profilers.table import CostTable

REQUESTS = 4000
"""Requests of a simulated load; forty of them decide the 99th percentile."""

BUSY = 0.97
"""A GPU is kept busy when it works this share of the time."""

MOST_REPLICAS = 8
"""Replicas tried beyond those that the mean rate takes."""


def busy_with(plan: Mapping[str, Any], steps: Sequence[Step], table: CostTable, workers: int) -> tuple[Step, ...]:
    """Return a plan's steps when so many workers are busy: those on the CPU slow each other down as far as was measured.

    Args:
        plan: ``plan.json``; one for latency was priced for a request alone.
        steps: Its steps.
        table: The costs behind it.
        workers: Cores that compute at once.
    """
    priced_for = plan["cpu_workers"] if plan["objective"] == "throughput" else 1
    slower = contention(table, workers) / contention(table, priced_for)
    return tuple(replace(step, each_s=step.each_s * slower) if step.resource == "cpu" else step for step in steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked of the capacity table.

    Args:
        workers: Numbers of CPU workers to try.
        batches: Batch sizes to try.
        gpus: GPUs of one replica.
        threads: Cores of one CPU worker.
        rate_per_s: Requests that arrive in a second, None to saturate.
        slo_s: Seconds within which 99 of 100 requests are to be answered, None for no target.
        core_per_hour: Price of a CPU core.
        gpu_per_hour: Price of a GPU.
    """

    workers: tuple[int, ...]
    batches: tuple[int, ...]
    gpus: int = 1
    threads: int = 1
    rate_per_s: float | None = None
    slo_s: float | None = None
    core_per_hour: float | None = None
    gpu_per_hour: float | None = None

    @property
    def priced(self) -> bool:
        """Whether a price was given."""
        return self.core_per_hour is not None or self.gpu_per_hour is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size and what it does.

    Attributes:
        cpu_workers: CPU workers of one replica.
        batch: Most requests in a batch.
        tokens: Requests let in at once.
        limit_per_s: Requests a second that the busiest resource allows.
        throughput_per_s: Requests a second of one saturated replica, simulated.
        loaded_latency_s: 99th percentile from entry to answer at saturation, simulated.
        utilisation: Busy share of each resource at saturation, simulated.
        bottleneck: The busiest of them.
        replicas: Replicas for the rate, None where none was asked or no number met the target.
        latency_p50_s: Median from arrival to answer at the rate, simulated.
        latency_p99_s: 99th percentile of it.
        cost_per_million: Price of a million requests at the rate, or at saturation; None without prices.
    """

    cpu_workers: int
    batch: int
    tokens: int
    limit_per_s: float
    throughput_per_s: float
    loaded_latency_s: float
    utilisation: Mapping[str, float]
    bottleneck: str
    replicas: int | None = None
    latency_p50_s: float | None = None
    latency_p99_s: float | None = None
    cost_per_million: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The table, the row to take, and the cores that keep one GPU busy.

    Attributes:
        rows: One a size, by batch and workers.
        recommended: The cheapest that meets the target, None if none does.
        cores_per_gpu: CPU cores whose work lasts as long as one GPU's; None without GPU work.
        gpu_busy_at: CPU workers at which the simulated GPU is busy, None where a copy limits it.
    """

    rows: tuple[Row, ...]
    recommended: Row | None
    cores_per_gpu: float | None
    gpu_busy_at: int | None


StepsAt = Callable[[int], Sequence[Step]]
"""Returns the steps when so many CPU workers are busy: they slow each other down."""


def capacity(steps_at: StepsAt, question: Question) -> Capacity:
    """Return what each size does under the load that is asked about."""
    found = (_row(steps_at(count), count, batch, question) for batch in question.batches for count in question.workers)
    rows = tuple(row for row in found if row is not None)
    steps, batch = steps_at(1), max(question.batches)
    ratio = cores_per_gpu(steps, batch, question.threads)
    return Capacity(
        rows=rows,
        recommended=_recommended(rows, question),
        cores_per_gpu=ratio,
        gpu_busy_at=None if ratio is None else _busy_at(steps_at, batch, math.ceil(ratio / question.threads)),
    )


def cores_per_gpu(steps: Sequence[Step], batch: int, threads: int = 1) -> float | None:
    """Return how many CPU cores do their part of a request in the time that one GPU does its own."""
    demand = demand_of(steps, batch)
    return threads * demand.get("cpu", 0.0) / demand["gpu"] if demand.get("gpu") else None


def _busy_at(steps_at: StepsAt, batch: int, first: int) -> int | None:
    """Return the fewest workers from `first` on, twice as many at most, that keep the simulated GPU busy."""
    for count in range(max(1, first), 2 * first + 2):
        _, found = enough_tokens(steps_at(count), {"cpu": count}, batch)
        if found.utilisation["gpu"] >= BUSY:
            return count
    return None


def _row(steps: Sequence[Step], count: int, batch: int, question: Question) -> Row | None:
    """Return what a size does, None if it answers even a lone batch too late."""
    servers = {"cpu": count, "gpu": question.gpus}
    admitted = _admitted(steps, servers, batch, question.slo_s)
    if admitted is None:
        return None
    tokens, loaded = admitted
    row = Row(
        cpu_workers=count,
        batch=batch,
        tokens=tokens,
        limit_per_s=1 / interval_s(steps, servers, batch),
        throughput_per_s=loaded.throughput_per_s,
        loaded_latency_s=loaded.latency_p99_s,
        utilisation=loaded.utilisation,
        bottleneck=max(loaded.utilisation, key=lambda name: loaded.utilisation[name]),
    )
    return _priced(_at_rate(row, steps, servers, question), question, uses_gpu="gpu" in demand_of(steps, batch))


def _admitted(
    steps: Sequence[Step], servers: Mapping[str, int], batch: int, slo_s: float | None
) -> tuple[int, Simulation] | None:
    if slo_s is None:
        return enough_tokens(steps, servers, batch)
    return tokens_within(steps, servers, batch, slo_s) if latency_s(steps, 1) <= slo_s else None


def _at_rate(row: Row, steps: Sequence[Step], servers: Mapping[str, int], question: Question) -> Row:
    """Return the row with the fewest replicas that serve the rate in time, each getting its share of random arrivals."""
    if question.rate_per_s is None:
        return row
    least = max(1, math.ceil(question.rate_per_s / row.throughput_per_s * (1 + 1e-9)))
    for replicas in range(least, least + MOST_REPLICAS):
        arrivals = poisson(question.rate_per_s / replicas, REQUESTS)
        load = Load(requests=REQUESTS, tokens=row.tokens, batch=row.batch, arrivals_s=arrivals)
        found = simulate(steps, servers, load)
        if question.slo_s is None or found.latency_p99_s <= question.slo_s:
            return replace(row, replicas=replicas, latency_p50_s=found.latency_p50_s, latency_p99_s=found.latency_p99_s)
    return row


def _priced(row: Row, question: Question, *, uses_gpu: bool) -> Row:
    rate = question.rate_per_s or row.throughput_per_s
    replicas = row.replicas if question.rate_per_s is not None else 1
    if not question.priced or replicas is None:
        return row
    cores = (question.core_per_hour or 0.0) * row.cpu_workers * question.threads
    gpus = (question.gpu_per_hour or 0.0) * question.gpus if uses_gpu else 0.0
    return replace(row, cost_per_million=replicas * (cores + gpus) / (rate * 3600) * 1e6)


def _recommended(rows: Sequence[Row], question: Question) -> Row | None:
    """Return the cheapest row that serves the rate; without a rate the smallest that does nearly as much as any."""
    if question.rate_per_s is not None:
        able = [row for row in rows if row.replicas is not None]
        return min(able, key=lambda row: (_cost(row), row.batch), default=None)
    best = max((row.throughput_per_s for row in rows), default=0.0)
    near = [row for row in rows if row.throughput_per_s >= best * 0.95]
    return min(near, key=lambda row: (_cost(row), row.batch), default=None)


def _cost(row: Row) -> float:
    """Return the price, or without prices the workers of all replicas."""
    return row.cost_per_million if row.cost_per_million is not None else float(row.cpu_workers * (row.replicas or 1))
