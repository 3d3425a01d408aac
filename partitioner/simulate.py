"""A deterministic discrete-event simulation of the pipeline: what queues, pools and tokens make of the costs.

Requests enter while there is a token, walk the steps in order and are served by shared pools, the latest step first.
Internal queues hold every request that has a token, so nothing can block. Service times are as predicted, without noise.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from cutset.partitioner.problem import FloatArray
from cutset.partitioner.steps import Step, interval_s, tokens_for

WARM_SHARE = 0.25
"""Share of the requests that fill the pipeline and are not counted."""

ENOUGH = 0.97
MOST_TOKENS = 4
REQUESTS_A_TOKEN = 40
"""Requests of a simulation for each token, so that the times it fills and empties are a small part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One batch on one server of a resource, from `start_s` to `end_s`; a bar of the timeline."""

    step: int
    resource: str
    server: int
    requests: tuple[int, ...]
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What the simulated pipeline did once it was full.

    Attributes:
        throughput_per_s: Requests a second.
        latency_mean_s: Seconds from arrival to result.
        latency_p50_s: Median of it.
        latency_p99_s: 99th percentile of it.
        inside: Mean number of requests that have arrived and are not finished.
        utilisation: Busy share of each resource's servers.
        timeline: What each server did from the start, in order of its start.
    """

    throughput_per_s: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p99_s: float
    inside: float
    utilisation: Mapping[str, float]
    timeline: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What comes in.

    Args:
        requests: How many.
        tokens: Most of them inside at once; the others wait outside, in order.
        batch: Most requests that a step takes as one; it takes what waits, without delay.
        arrivals_s: When each arrives, ascending; at time zero all of them by default, which saturates the pipeline.
    """

    requests: int
    tokens: int
    batch: int = 1
    arrivals_s: tuple[float, ...] = ()


def poisson(rate_per_s: float, requests: int, seed: int = 0) -> tuple[float, ...]:
    """Return arrival times of a Poisson process."""
    random, now, times = Random(seed), 0.0, []  # noqa: S311 - no secret
    for _ in range(requests):
        now += random.expovariate(rate_per_s)
        times.append(now)
    return tuple(times)


def simulate(steps: Sequence[Step], servers: Mapping[str, int], load: Load) -> Simulation:
    """Return what the pipeline does under a load.

    Args:
        steps: Work of a request, in order; at least one.
        servers: Servers of each resource, one where it is not named.
        load: What comes in.
    """
    return _Run(steps, servers, load).finish()


def saturated(steps: Sequence[Step], servers: Mapping[str, int], tokens: int, batch: int = 1) -> Simulation:
    """Return what the pipeline does when more requests wait outside than ever get in."""
    return simulate(steps, servers, Load(requests=REQUESTS_A_TOKEN * tokens, tokens=tokens, batch=batch))


def enough_tokens(steps: Sequence[Step], servers: Mapping[str, int], batch: int = 1) -> tuple[int, Simulation]:
    """Return the tokens at which the saturated pipeline reaches `ENOUGH` of its bottleneck, and what it then does.

    Little's law with a margin is enough for most; where two resources are equally busy and their work interlocks badly,
    tokens are added, up to `MOST_TOKENS` times as many.
    """
    limit_s = interval_s(steps, servers, batch)
    full_s = sum(step.seconds(step.most(batch)) for step in steps)
    workers = servers.get("cpu", 1) + ({"cpu", "gpu"} <= {step.resource for step in steps})
    first = tokens = tokens_for(full_s, 1 / limit_s if limit_s else 0.0, workers, batch)
    while True:
        found = saturated(steps, servers, tokens, batch)
        if not limit_s or found.throughput_per_s * limit_s >= ENOUGH or tokens >= MOST_TOKENS * first:
            return tokens, found
        tokens += batch * max(1, tokens // (4 * batch))


def tokens_within(
    steps: Sequence[Step], servers: Mapping[str, int], batch: int, limit_s: float
) -> tuple[int, Simulation] | None:
    """Return the most tokens at which requests that were let in are answered within `limit_s`, and what is then done.

    None if even one batch alone takes longer. Ninety-nine of a hundred count, as the latency of none can be promised.
    """
    tokens, found = enough_tokens(steps, servers, batch)
    if found.latency_p99_s <= limit_s:
        return tokens, found
    best = None
    fits, fails = 0, tokens // batch
    while fails - fits > 1:
        middle = (fits + fails) // 2
        tried = saturated(steps, servers, middle * batch, batch)
        if tried.latency_p99_s <= limit_s:
            fits, best = middle, (middle * batch, tried)
        else:
            fails = middle
    return best


class _Run:
    """The state of one simulation."""

    def __init__(self, steps: Sequence[Step], servers: Mapping[str, int], load: Load) -> None:
        self.steps = steps
        self.load = load
        self.arrived = load.arrivals_s or (0.0,) * load.requests
        self.finished = [0.0] * load.requests
        self.free = {step.resource: list(range(servers.get(step.resource, 1))) for step in steps}
        self.sizes = {resource: len(free) for resource, free in self.free.items()}
        self.of_resource = {
            resource: [index for index in reversed(range(len(steps))) if steps[index].resource == resource]
            for resource in self.free
        }
        self.queues: list[deque[int]] = [deque() for _ in steps]
        self.events: list[tuple[float, int, Span]] = []
        self.tickets = itertools.count()
        self.timeline: list[Span] = []
        self.entered = 0
        self.inside = 0

    def finish(self) -> Simulation:
        """Run until every request is finished."""
        now, done = 0.0, 0
        while done < self.load.requests:
            self._admit(now)
            self._dispatch(now)
            now = self._next(now)
            while self.events and self.events[0][0] <= now:
                done += self._complete(heapq.heappop(self.events)[2])
        return self._summary()

    def _next(self, now: float) -> float:
        """Return when something happens next: a batch ends, or a request arrives that can enter."""
        times = [self.events[0][0]] if self.events else []
        if self.entered < self.load.requests and self.inside < self.load.tokens:
            times.append(max(now, self.arrived[self.entered]))
        return min(times)

    def _admit(self, now: float) -> None:
        while self.entered < self.load.requests and self.inside < self.load.tokens and self.arrived[self.entered] <= now:
            self.queues[0].append(self.entered)
            self.entered += 1
            self.inside += 1

    def _dispatch(self, now: float) -> None:
        for resource, order in self.of_resource.items():
            free = self.free[resource]
            for index in order:
                queue = self.queues[index]
                while queue and free:
                    members = tuple(queue.popleft() for _ in range(min(len(queue), self.steps[index].most(self.load.batch))))
                    end = now + self.steps[index].seconds(len(members))
                    span = Span(
                        step=index, resource=resource, server=heapq.heappop(free), requests=members, start_s=now, end_s=end
                    )
                    self.timeline.append(span)
                    heapq.heappush(self.events, (end, next(self.tickets), span))

    def _complete(self, span: Span) -> int:
        """Move a batch on and return how many requests it finished."""
        heapq.heappush(self.free[span.resource], span.server)
        if span.step + 1 < len(self.steps):
            self.queues[span.step + 1].extend(span.requests)
            return 0
        self.inside -= len(span.requests)
        for request in span.requests:
            self.finished[request] = span.end_s
        return len(span.requests)

    def _summary(self) -> Simulation:
        ends = np.sort(np.array(self.finished))
        begin, end = _window(ends, self.load)
        counted = (ends > begin) & (ends <= end)
        waits = np.array(self.finished) - np.array(self.arrived)
        entered = waits if self.load.arrivals_s else self._stays()
        latencies = entered[(np.array(self.finished) > begin) & (np.array(self.finished) <= end)]
        span_s = end - begin
        p50, p99 = np.percentile(latencies, [50, 99]) if latencies.size else (0.0, 0.0)
        return Simulation(
            throughput_per_s=float(counted.sum()) / span_s if span_s > 0 else float("inf"),
            latency_mean_s=float(latencies.mean()) if latencies.size else 0.0,
            latency_p50_s=float(p50),
            latency_p99_s=float(p99),
            inside=self._mean_inside(begin, end),
            utilisation={name: self._busy(name, begin, end) / (size * span_s or 1.0) for name, size in self.sizes.items()},
            timeline=tuple(self.timeline),
        )

    def _entries(self) -> FloatArray:
        """Return when each request entered: with all waiting outside, the k-th enters as the (k - tokens)-th leaves."""
        if self.load.arrivals_s:
            return np.array(self.arrived)
        ends = np.sort(np.array(self.finished))
        late = ends[: max(0, self.load.requests - self.load.tokens)]
        entries: FloatArray = np.concatenate([np.zeros(self.load.requests - late.size), late])
        return entries

    def _stays(self) -> FloatArray:
        stays: FloatArray = np.array(self.finished) - self._entries()
        return stays

    def _mean_inside(self, begin: float, end: float) -> float:
        if end <= begin:
            return 0.0
        stays = np.minimum(np.array(self.finished), end) - np.maximum(self._entries(), begin)
        return float(np.clip(stays, 0, None).sum() / (end - begin))

    def _busy(self, resource: str, begin: float, end: float) -> float:
        spans = (span for span in self.timeline if span.resource == resource)
        return sum(max(0.0, min(span.end_s, end) - max(span.start_s, begin)) for span in spans)


def _window(ends: FloatArray, load: Load) -> tuple[float, float]:
    """Return the time between which the pipeline is full: not while it fills, nor while it runs empty."""
    first = int(len(ends) * WARM_SHARE)
    last = max(first + 1, len(ends) - load.tokens)
    if load.arrivals_s or last >= len(ends):
        last = len(ends) - 1
    return (float(ends[first]), float(ends[last])) if last > first else (0.0, float(ends[-1]))
