"""Many requests of every kind through one pipeline whose workers are killed now and then: is every answer right?

usage: python -m benchmarks.soak [--requests N] [--seed N] [-o FILE]

Of the requests 1 % are malformed, 1 % are cancelled, and 0.1 % make a stage raise; every 10,000 a process of the middle
stage is killed. Every other answer must equal numpy's. At the end nothing may be left: no thread, file or child, and the
memory must be what it was after the first tenth.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from concurrent.futures import CancelledError, Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.soak_package import write_package
from cutset.codegen.runtime import InputError, Overloaded, Pipeline, StageError

KILL_EVERY = 10_000
IN_FLIGHT = 64
MARK = -1e30
HOOK = f"""
def run(feeds):
    if (feeds["b"] <= {MARK}).any():
        raise ValueError("the marked request")
    return {{"c": feeds["b"] * 2}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What happened.

    Args:
        requests: How many were sent.
        seed: What drew them.
        outcomes: How many ended how; `wrong` and `lost` must not be there.
        killed: Processes that were killed.
        replaced: Times the stage's processes were loaded anew.
        memory_growth: Share by which the memory of parent and children grew from the first tenth to the end.
        left: Threads, files and children more than before; must be empty.
        seconds: How long it took.
    """

    requests: int
    seed: int
    outcomes: dict[str, int]
    killed: int
    replaced: int
    memory_growth: float
    left: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


class Soak:
    """One run over a loaded pipeline."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        self._pipeline = pipeline
        self._random = np.random.default_rng(seed)
        self._under_way: deque[tuple[str, np.ndarray, Future[Any]]] = deque()
        self.outcomes: Counter[str] = Counter()

    def send(self) -> None:
        """Send one request of a kind drawn at random, waiting for room."""
        kind = str(self._random.choice(["plain", "malformed", "cancelled", "raising"], p=[0.979, 0.01, 0.01, 0.001]))
        array = self._random.random((int(self._random.integers(1, 6)), int(self._random.integers(0, 200))), np.float32)
        if kind == "malformed":
            self._refused(array)
            return
        if kind == "raising":
            array = np.full((1, 3), 10 * MARK, np.float32)
        while len(self._under_way) >= IN_FLIGHT:
            self._settle()
        while True:
            try:
                future = self._pipeline.submit({"a": array})
                break
            except Overloaded:
                self._settle()
        if kind == "cancelled":
            future.cancel()
        self._under_way.append((kind, array, future))

    def finish(self) -> None:
        """Wait for what is under way."""
        while self._under_way:
            self._settle()

    def _refused(self, array: np.ndarray) -> None:
        bad = self._random.choice(["dtype", "rank", "name", "missing"])
        inputs = {
            "dtype": {"a": array.astype(np.float64)}, "rank": {"a": array[0]}, "name": {"a": array, "z": array}, "missing": {},
        }[str(bad)]  # fmt: skip
        try:
            self._pipeline.submit(inputs)
        except InputError:
            self.outcomes["refused"] += 1
        else:
            self.outcomes["wrong"] += 1

    def _settle(self) -> None:
        kind, array, future = self._under_way.popleft()
        try:
            found = future.result(60)["d"]
        except CancelledError:
            outcome = "cancelled" if kind == "cancelled" else "wrong"
        except StageError as error:
            outcome = "raised" if kind == "raising" and "the marked request" in str(error) else "wrong"
        except TimeoutError:
            outcome = "lost"
        else:
            right = kind != "raising" and np.array_equal(found, (array + np.float32(1)) * np.float32(2) - np.float32(3))
            outcome = "right" if right else "wrong"
        self.outcomes[outcome] += 1


def soak(requests: int, seed: int, folder: Path, kill_every: int = KILL_EVERY) -> Report:
    """Send the requests and return what happened.

    Args:
        requests: How many.
        seed: Draws their kinds, shapes and values.
        folder: Where the package is written.
        kill_every: A process is killed each time as many were sent.
    """
    process = psutil.Process()
    begin, before = time.perf_counter(), held(process)
    killed, settled_bytes = 0, 0
    with Pipeline.load(write_package(folder, HOOK)) as pipeline:
        run = Soak(pipeline, seed)
        for number in range(1, requests + 1):
            run.send()
            if number % kill_every == kill_every // 2:  # the memory is read between two deaths
                killed += kill_one(process)
            if number == requests // 10:
                settled_bytes = memory(process)
        run.finish()
        growth = memory(process) / settled_bytes - 1
        replaced = pipeline.stats().stages[1].replaced
    gc.collect()
    left = {name: count - before[name] for name, count in held(process).items() if count > before[name]}
    return Report(
        requests=requests, seed=seed, outcomes=dict(run.outcomes), killed=killed, replaced=replaced, memory_growth=growth,
        left=left, seconds=time.perf_counter() - begin,
    )  # fmt: skip


def kill_one(process: psutil.Process) -> int:
    """Kill a child and return how many were."""
    children = process.children()
    if not children:
        return 0
    os.kill(children[0].pid, signal.SIGKILL)
    return 1


def memory(process: psutil.Process) -> int:
    """Return the bytes that the process and its children hold for themselves."""
    gc.collect()
    total = 0
    for one in (process, *process.children()):
        try:
            total += one.memory_full_info().uss
        except psutil.NoSuchProcess:  # killed a moment ago
            continue
    return total


def held(process: psutil.Process) -> dict[str, int]:
    """Return how many threads, open files, children and named shared-memory segments the process has."""
    return {
        "threads": threading.active_count(),
        "files": process.num_fds(),
        "children": len(process.children()),
        "segments": sum("/dev/shm" in line for line in Path("/proc/self/maps").read_text().splitlines()),  # noqa: S108 - looked for
    }


def main() -> None:
    """Run, write the report, and fail if it is not clean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        report = soak(arguments.requests, arguments.seed, Path(place) / "package")
    text = json.dumps(asdict(report), indent=2)
    if arguments.output:
        arguments.output.write_text(text + "\n", "utf-8")
    sys.stdout.write(text + "\n")
    bad = {"wrong", "lost"} & set(report.outcomes)
    sys.exit(1 if bad or report.left or report.memory_growth > 0.02 else 0)


if __name__ == "__main__":
    main()
