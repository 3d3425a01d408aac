"""Open-loop load: requests come at random moments, whether or not earlier ones are answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cutset.codegen.runtime.dtypes import Value
from cutset.codegen.runtime.errors import Overloaded
from cutset.codegen.runtime.pipeline import Pipeline
from cutset.partitioner.simulate import poisson

BINS = 24
"""Bins of the histogram, each as wide as the others on a scale of ratios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoad:
    """What requests at a rate got.

    Args:
        rate_per_s: Requests offered a second.
        offered: How many.
        refused: How many found the pipeline full.
        failed: How many had no result for another reason.
        throughput_per_s: Answers a second.
        p50_s: Median time from arrival to answer.
        p90_s: 90th percentile of it.
        p99_s: 99th percentile of it.
        edges_s: Edges of the histogram's bins, one more than bins.
        counts: Answers in each bin.
    """

    rate_per_s: float
    offered: int
    refused: int
    failed: int
    throughput_per_s: float
    p50_s: float
    p90_s: float
    p99_s: float
    edges_s: tuple[float, ...]
    counts: tuple[int, ...]


def open_loop(pipeline: Pipeline, sample: Mapping[str, Value], rate_per_s: float, duration_s: float, seed: int = 0) -> OpenLoad:
    """Return what Poisson arrivals get: a request's time counts from when it was due, however late it was sent.

    Args:
        pipeline: What answers.
        sample: The request.
        rate_per_s: Requests a second.
        duration_s: How long, about.
        seed: Of the arrival times.
    """
    due = poisson(rate_per_s, max(2, int(rate_per_s * duration_s)), seed)
    times: list[float] = []
    lock = threading.Lock()
    pending: list[Future[Any]] = []
    refused = 0

    def answered(since: float, future: Future[Any]) -> None:
        if not future.cancelled() and future.exception() is None:
            with lock:
                times.append(time.perf_counter() - since)

    begin = time.perf_counter()
    for moment in due:
        time.sleep(max(0.0, begin + moment - time.perf_counter()))
        try:
            future = pipeline.submit(sample)
        except Overloaded:
            refused += 1
            continue
        pending.append(future)
        future.add_done_callback(partial(answered, begin + moment))
    for future in pending:
        future.exception()
    elapsed_s = time.perf_counter() - begin
    with lock:
        return _summary(rate_per_s, len(due), refused, times, elapsed_s)


def _summary(rate_per_s: float, offered: int, refused: int, times: Sequence[float], elapsed_s: float) -> OpenLoad:
    edges, counts = histogram(times)
    p50, p90, p99 = (float(np.percentile(times, q)) for q in (50, 90, 99)) if times else (0.0, 0.0, 0.0)
    return OpenLoad(
        rate_per_s=rate_per_s,
        offered=offered,
        refused=refused,
        failed=offered - refused - len(times),
        throughput_per_s=len(times) / elapsed_s,
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        edges_s=edges,
        counts=counts,
    )


def histogram(times: Sequence[float]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Return edges and counts of `BINS` bins between the least and the longest time, in equal ratios."""
    if not times:
        return (), ()
    low, high = min(times), max(times) * (1 + 1e-9)
    edges = np.geomspace(low, high if high > low else low * 1.01, BINS + 1)
    counts = np.histogram(times, edges)[0]
    return tuple(edges.tolist()), tuple(counts.tolist())
