"""What one client feels while another does its worst: health checks and small requests beside large JSON, poison and the rest.

usage: python -m benchmarks.neighbours [--seconds N] [--rounds N] [--attacks NAME ...] [-o FILE] [--markdown]

A probe asks for the server's health and sends small binary requests, each at a fixed rate, and counts the time from the
moment at which a request was due, so that a stall counts for all requests that it delayed. Quiet windows and windows of one
attack take turns; every other round goes backwards. Asked is a 99th percentile of under 100 ms for the health checks, and of
under 3 times the quiet one for the small requests. The attacker is a process of its own (benchmarks/soak_attacks.py) at a
lower priority: its work would be done elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.serving_children import SERVE, ready_url, started
from benchmarks.soak_attacks import ATTACKS
from benchmarks.soak_clients import HttpClient, get_status
from benchmarks.soak_package import draw_input, poisonable, write_package
from cutset import serde
from cutset.profilers.environment import environment

HEALTH_LIMIT_S = 0.1
RATIO_LIMIT = 3.0
CORES = 2
PROBES_PER_S = 50
QUIET = "quiet"
LEAD_S = 0.5
"""How long an attack has gone on when its window begins."""
RECOVERY_S = 30.0
"""The longest wait for the server after an attack."""


@dataclass(slots=True)
class Window:
    """What a probe saw in one kind of window, over all rounds.

    Args:
        health_s: Seconds to the answer of each health check.
        small_s: Seconds to the answer of each small request.
        otherwise: Answers that were not as they should be, by what came.
        sent: What the attacker sent, or got, by kind.
    """

    health_s: list[float] = field(default_factory=list)
    small_s: list[float] = field(default_factory=list)
    otherwise: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)


def measure(attacks: Sequence[str], seconds: float, rounds: int, place: Path, scale: float = 1.0) -> dict[str, Any]:
    """Start the server, take the windows in turns, and return what the probe saw.

    Args:
        attacks: Names of `ATTACKS`.
        seconds: Length of a window.
        rounds: How often each attack has a window, with a quiet one before each.
        place: An empty folder for the package and the server's log.
        scale: Share of an attack's bytes and connections.
    """
    package = write_package(place / "package", poisonable())
    windows = {name: Window() for name in (QUIET, *attacks)}
    words = [sys.executable, "-c", SERVE, str(package), "--port", "0"]
    with started(words, piped=True, errors=place / "log") as process:
        url = ready_url(process)
        probe(url, Window(), min(seconds, 1.0))  # what is first is slow
        for number in range(rounds):
            for name in list(attacks) if number % 2 == 0 else reversed(list(attacks)):
                probe(url, windows[QUIET], seconds)
                with attacking(name, url, scale, windows[name].sent):
                    time.sleep(LEAD_S)
                    probe(url, windows[name], seconds)
                recover(url)
    quiet = percentile(windows[QUIET].small_s)
    return {name: summary(window, quiet) for name, window in windows.items()}


@contextmanager
def attacking(name: str, url: str, scale: float, sent: Counter[str]) -> Iterator[None]:
    """Run an attack in a process of its own, and count what it sent."""
    words = [sys.executable, "-m", "benchmarks.soak_attacks", name, url, str(scale)]
    root = str(Path(__file__).resolve().parents[1])
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # it has begun
            yield
        finally:
            text, _ = process.communicate()  # the end of its input ends the attack
            sent.update(json.loads(text) if text.strip() else {"died": 1})


def recover(url: str) -> None:
    """Wait until the server has been ready for a while, so that the next quiet window is quiet."""
    where, end = urlsplit(url).netloc, time.monotonic() + RECOVERY_S
    ready_since = time.monotonic()
    while time.monotonic() < min(end, ready_since + 2 * LEAD_S):
        if get_status(where, "/v2/health/ready") != "200":
            ready_since = time.monotonic()
        time.sleep(0.05)


def probe(url: str, window: Window, seconds: float) -> None:
    """Ask for health and send small requests for some seconds, and add what was seen to a window."""
    parts = urlsplit(url)
    array = draw_input(np.random.default_rng(0), 1, 4)
    with closing(HttpClient(url, binary=True)) as client:
        jobs = [
            (lambda: get_status(parts.netloc, "/v2/health/live"), "200", window.health_s),
            (lambda: client.infer(array), "right", window.small_s),
        ]
        threads = [threading.Thread(target=at_rate, args=(*job, window.otherwise, seconds)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def at_rate(call: Callable[[], str], expected: str, times: list[float], otherwise: Counter[str], seconds: float) -> None:
    """Call at a fixed rate, and note how long after it was due each call had its answer."""
    begin = time.perf_counter()
    for number in range(int(seconds * PROBES_PER_S)):
        due = begin + number / PROBES_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
        found = call()
        times.append(time.perf_counter() - due)
        if found != expected:
            otherwise[found] += 1


def percentile(times: Sequence[float], share: float = 0.99) -> float:
    """Return a percentile, rounded up to a time that was measured."""
    return float(np.quantile(times, share, method="higher"))


def summary(window: Window, quiet_s: float) -> dict[str, Any]:
    """Return the 99th percentiles of a window, and whether they are as asked."""
    health_s, small_s = percentile(window.health_s), percentile(window.small_s)
    return {
        "health_p99_ms": health_s * 1e3,
        "health_max_ms": max(window.health_s) * 1e3,
        "small_p50_ms": percentile(window.small_s, 0.5) * 1e3,
        "small_p99_ms": small_s * 1e3,
        "small_p99_ratio": small_s / quiet_s,
        "requests": len(window.small_s),
        "otherwise": dict(window.otherwise),
        "attack": dict(window.sent),
        "as_asked": health_s < HEALTH_LIMIT_S and small_s < RATIO_LIMIT * quiet_s and not window.otherwise,
    }


def table(found: dict[str, Any]) -> str:
    """Return the windows as a Markdown table."""
    lines = [
        "| beside | health p99, ms | small p50, ms | small p99, ms | of quiet | otherwise answered | attack |",
        "|---|--:|--:|--:|--:|---|---|",
    ]
    for name, row in found.items():
        words = [", ".join(f"{count} x {what}" for what, count in row[key].items()) for key in ("otherwise", "attack")]
        numbers = [f"{row[key]:.1f}" for key in ("health_p99_ms", "small_p50_ms", "small_p99_ms", "small_p99_ratio")]
        lines.append(f"| {' | '.join([name.replace('_', ' '), *numbers, *words])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure on two cores, and write one JSON document or a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a window")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write a table to stdout, not JSON")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    result: dict[str, Any] = {"environment": environment(), "load": os.getloadavg(), "cores": CORES}
    with tempfile.TemporaryDirectory() as place:
        result["windows"] = found = measure(arguments.attacks, arguments.seconds, arguments.rounds, Path(place))
    text = serde.dumps(result)
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    sys.stdout.write(f"{table(found)}\n" if arguments.markdown else text)


if __name__ == "__main__":
    main()
