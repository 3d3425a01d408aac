"""Many requests of every kind, good and bad, through the emitted server: is every good one answered right, and what is left?

usage: python -m benchmarks.server_soak [--requests N] [--clients N] [--seed N] [-o FILE] [--markdown]

HTTP with JSON, HTTP with binary data and gRPC take turns. Of the requests 1 % are uploads that are broken off, 1 % must be
refused, and 0.1 % end the process of the stage that they reach. Every other answer must be exact. The first tenth warms the
server up; afterwards the memory must stay within 2 %, and at the end, with no client left, the server must have as many
descriptors and processes as when it had answered its first ones. The largest requests are sent before every reading.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.serving_children import SERVE, ready_url, started
from benchmarks.soak_clients import UPLOAD_BYTES, GrpcClient, HttpClient, count_tracebacks
from benchmarks.soak_package import POISON, draw_input, poisonable, write_package
from cutset import serde
from cutset.profilers.environment import environment

KINDS = {"good": 0.979, "aborted": 0.01, "refused": 0.01, "poison": 0.001}
RIGHT = {"good": {"right"}, "aborted": {"aborted"}, "refused": {"refused"}, "poison": {"500", "INTERNAL"}}
"""How a request of each kind must end."""
GROWTH_LIMIT = 0.02
PARTS = 10
FILL_CLIENTS, FILL_SHARE, LARGEST = 8, 0.08, (UPLOAD_BYTES // 8, 2)
"""The largest requests, sent before every reading, each time a share of `FIRST_REQUESTS`.

What a process needs for them it keeps. So a process that is new since the last reading would hold less, and one that got a
large upload by chance more.
"""
FIRST_REQUESTS = 600
"""As many at the start: until then the allocator keeps more with each, up to what eight of them need at once."""
SETTLE_S = 15.0
"""The longest wait for connections and processes to end; idle connections are closed by the server after 5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened.

    Args:
        requests: How many were sent.
        seed: What drew them.
        clients: How many sent at the same time.
        outcomes: How many ended how, by kind of request and how it was sent.
        memory_mib: Of the server, and of the server with its stages' processes, at the start and after each tenth.
        memory_growth: Share by which the memory grew after the first tenth.
        more: Descriptors and processes of the server beyond those that it had at the start.
        said: What the server said to the first request of each kind that did not end as it must.
        tracebacks: How many the server wrote.
        seconds: How long it took.
    """

    requests: int
    seed: int
    clients: int
    outcomes: dict[str, dict[str, int]]
    memory_mib: list[tuple[float, float]]
    memory_growth: float
    more: dict[str, int]
    said: dict[str, str]
    tracebacks: int
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What was not as it has to be, in words."""
        wrong = [
            f"{count} of {kind}: {outcome}"
            for kind, outcomes in self.outcomes.items()
            for outcome, count in outcomes.items()
            if outcome not in RIGHT[kind.split()[0]]
        ]
        grown = [f"memory grew by {self.memory_growth:.1%}"] if self.memory_growth > GROWTH_LIMIT else []
        return [*wrong, *grown, *(f"{count} more {what}" for what, count in self.more.items() if count > 0)]


class Soak:
    """Sends numbered requests of kinds drawn at random to one server.

    Args:
        clients: Makers of the clients by how they send.
        count: How many send at the same time.
        seed: Draws kinds, shapes and values; the same number is the same request in every run.
        shares: Of each kind of request.
        shape: Of every good request; None draws one for each.
    """

    def __init__(
        self,
        clients: dict[str, Callable[[], Any]],
        count: int,
        seed: int,
        shares: Mapping[str, float] = KINDS,
        shape: tuple[int, int] | None = None,
    ) -> None:
        self._shape = shape
        self._clients = clients
        self._shares = shares
        self._count = count
        self._seed = seed
        self._numbers = itertools.count()
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.said: dict[str, str] = {}
        self._lock = threading.Lock()

    def send(self, requests: int) -> None:
        """Send the next requests over new connections, wait for all answers, and close the connections."""
        numbers = itertools.islice(self._numbers, requests)
        threads = [threading.Thread(target=self._send_some, args=(numbers,)) for _ in range(self._count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _send_some(self, numbers: Iterator[int]) -> None:
        opened = {name: make() for name, make in self._clients.items()}
        try:
            while True:
                with self._lock:
                    number = next(numbers, None)
                if number is None:
                    return
                kind, way, outcome = self._send_one(number, opened)
                with self._lock:
                    self.outcomes[f"{kind} {way}", outcome] += 1
                    if outcome not in RIGHT[kind]:
                        self.said.setdefault(f"{kind} {way}: {outcome}", opened[way].said)
        finally:
            for client in opened.values():
                client.close()

    def _send_one(self, number: int, opened: dict[str, Any]) -> tuple[str, str, str]:
        random = np.random.default_rng([self._seed, number])
        kind = str(random.choice(list(self._shares), p=list(self._shares.values())))
        way = list(opened)[number % len(opened)]
        array = draw_input(random, *(self._shape or (int(random.integers(1, 6)), int(random.integers(1, 200)))))
        client = opened[way]
        if kind == "good":
            return kind, way, client.infer(array)
        if kind == "poison":
            return kind, way, client.infer(np.full((1, 3), POISON, np.float32))
        return kind, way, (client.abort if kind == "aborted" else client.refuse)(array, random)


def soak(
    requests: int,
    clients: int,
    seed: int,
    place: Path,
    shares: Mapping[str, float] = KINDS,
    first: int = FIRST_REQUESTS,
) -> Report:
    """Start the server, send the requests and return what happened.

    Args:
        requests: How many.
        clients: How many send at the same time, each over one connection of every kind.
        seed: Draws the requests.
        place: An empty folder for the package and the server's log.
        shares: Of each kind of request.
        first: How many of the largest requests come first.
    """
    package = write_package(place / "package", poisonable())
    words = [sys.executable, "-c", SERVE, str(package), "--port", "0", "--grpc-port", "0"]
    log = place / "log"
    begin = time.perf_counter()
    with started(words, piped=True, errors=log) as process:
        url = ready_url(process)
        assert process.stdout is not None
        where = process.stdout.readline().removeprefix("grpc: ").strip()
        makers = {
            "HTTP JSON": lambda: HttpClient(url, binary=False),
            "HTTP binary": lambda: HttpClient(url, binary=True),
            "gRPC": lambda: GrpcClient(where),
        }
        run = Soak(makers, clients, seed, shares)
        largest = Soak({way: makers[way] for way in ("HTTP binary", "gRPC")}, FILL_CLIENTS, seed, {"good": 1.0}, LARGEST)
        largest.send(first)
        server = psutil.Process(process.pid)
        before = await_idle(server)
        memory = [memory_mib(server)]
        for tenth in range(PARTS):
            run.send(requests * (tenth + 1) // PARTS - requests * tenth // PARTS)
            largest.send(int(first * FILL_SHARE))
            settle(server, before)
            memory.append(memory_mib(server))
        after = held(server)
        seconds = time.perf_counter() - begin
    return Report(
        requests=requests, seed=seed, clients=clients, outcomes=by_kind(run.outcomes + largest.outcomes), memory_mib=memory,
        memory_growth=memory[-1][1] / memory[1][1] - 1, more={name: after[name] - before[name] for name in after},
        said=run.said | largest.said, tracebacks=count_tracebacks(log), seconds=seconds,
    )  # fmt: skip


def by_kind(outcomes: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """Return how many requests ended how, by kind, in the order of the kinds."""
    kinds = sorted({kind for kind, _ in outcomes}, key=lambda kind: (list(KINDS).index(kind.split()[0]), kind))
    return {kind: {end: count for (one, end), count in sorted(outcomes.items()) if one == kind} for kind in kinds}


def settle(server: psutil.Process, before: dict[str, int]) -> None:
    """Wait until the server holds no more than before, or will not let go."""
    end = time.monotonic() + SETTLE_S
    while any(count > before[name] for name, count in held(server).items()) and time.monotonic() < end:
        time.sleep(0.2)


def await_idle(server: psutil.Process) -> dict[str, int]:
    """Return what the server holds once the number has not changed for a second."""
    found, same_since = held(server), time.monotonic()
    while time.monotonic() < same_since + 1:
        time.sleep(0.1)
        now = held(server)
        if now != found:
            found, same_since = now, time.monotonic()
    return found


def held(server: psutil.Process) -> dict[str, int]:
    """Return how many descriptors the server has, those of its stages' processes too, and how many processes these are."""
    family = [server, *server.children(recursive=True)]
    counts = []
    for one in family:
        try:
            counts.append(one.num_fds())
        except psutil.NoSuchProcess:  # a moment ago
            continue
    return {"descriptors": sum(counts), "processes": len(counts)}


def memory_mib(server: psutil.Process) -> tuple[float, float]:
    """Return the MiB that the server holds for itself, and that the server and its stages' processes hold."""
    sizes = [one.memory_full_info().uss / 2**20 for one in (server, *server.children(recursive=True))]
    return float(sizes[0]), float(sum(sizes))


def table(report: Report) -> str:
    """Return a report as a Markdown table."""
    lines = ["| requests | ended as they must | otherwise |", "|---|--:|---|"]
    for kind, outcomes in report.outcomes.items():
        right = RIGHT[kind.split()[0]]
        others = ", ".join(f"{count} x {outcome}" for outcome, count in outcomes.items() if outcome not in right)
        lines.append(f"| {kind} | {sum(outcomes[outcome] for outcome in right & outcomes.keys())} | {others} |")
    alone, whole = ([sizes[which] for sizes in report.memory_mib] for which in (0, 1))
    sizes = [f"{of[0]:.1f} to {of[1]:.1f} to {of[-1]:.1f}" for of in (whole, alone)]
    lines += [
        f"| memory at the start, warm, at the end, MiB | {sizes[0]} | {report.memory_growth:+.2%} after warm-up |",
        f"| of it the server's own process | {sizes[1]} | |",
        f"| descriptors, processes | | {report.more['descriptors']:+d}, {report.more['processes']:+d} |",
        f"| seconds | {report.seconds:.0f} | {report.tracebacks} tracebacks |",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run, write the report, and fail if the server did not keep its promises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write a table to stdout, not JSON")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(), "load": os.getloadavg()}
    with tempfile.TemporaryDirectory() as place:
        report = soak(arguments.requests, arguments.clients, arguments.seed, Path(place))
    text = serde.dumps({**result, "soak": report, "faults": report.faults})
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(f"{table(report)}\n" if arguments.markdown else text)
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
