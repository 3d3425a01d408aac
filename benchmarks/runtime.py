"""How much of the machine the emitted pipeline and its server reach, and how other servers compare.

usage: python -m benchmarks.runtime [-o FILE] [--markdown] [--only SECTION ...] [--networks NAME ...] [--peers NAME ...]
       [--seconds N] [--rounds N]

Sections: overhead, efficiency, latency, batching, fronts, servers. Every number is one of a ratio whose two sides were
measured in turns in one run. The second device is the CPU provider on the other core. `servers` makes a virtual
environment with the other servers in build/peers, once.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import benchmarks.serving_models as models
from benchmarks.servers_compared import PEERS, fronts, servers
from benchmarks.serving_children import serving_with_stand_in
from benchmarks.serving_turns import CALLERS, NETWORKS, PHOTO, Bench, http_load, timed
from cutset import serde
from cutset.codegen.bench.standin import Deployed, keep
from cutset.codegen.runtime import DegradedWarning, Pipeline
from cutset.codegen.runtime.bench import load, rate
from cutset.codegen.runtime.config import PlanConfig, StageConfig, TensorConfig, read_plan
from cutset.profilers.environment import environment
from cutset.profilers.session import open_session


class Empty:
    """A stage that does nothing."""

    substitution = None

    def __init__(self, index: int, device: str) -> None:
        self.index, self.device = index, device

    def run(self, feeds: Any) -> dict[str, Any]:
        """Hand the input on."""
        return {f"t{self.index + 1}": feeds[f"t{self.index}"]}

    def close(self) -> None:
        """Nothing is held."""


def overhead(_bench: Bench) -> list[dict[str, Any]]:
    """Return the microseconds a phase that empty stages take, alone and with many requests under way."""
    rows = []
    for phases, devices in ((1, ("cpu",)), (2, ("cpu", "gpu")), (5, ("cpu", "gpu"))):
        kinds = [devices[index % len(devices)] for index in range(phases)]
        with Pipeline(empty_plan(kinds), [Empty(index, kind) for index, kind in enumerate(kinds)]) as pipeline:
            inputs = {"t0": np.zeros(4, np.float32)}
            alone = sorted(timed(lambda: pipeline.run(inputs)) for _ in range(3000))  # noqa: B023 - used at once
            asked = sorted(timed(lambda: pipeline.submit(inputs).result()) for _ in range(3000))  # noqa: B023
            count = 10_000
            begin = time.perf_counter()
            for _ in pipeline.map(inputs for _ in range(count)):
                pass
            busy_s = (time.perf_counter() - begin) / count
        rows.append(
            {
                "phases": phases,
                "run_us_a_phase": statistics.median(alone) * 1e6 / phases,
                "submit_us_a_phase": statistics.median(asked) * 1e6 / phases,
                "saturated_us_a_phase": busy_s * 1e6 / phases,
            }
        )
    return rows


def empty_plan(devices: list[str]) -> PlanConfig:
    """Return a plan of stages that need no file."""
    tensors = [TensorConfig(name=f"t{index}", dtype="float32", shape=("n",)) for index in (0, len(devices))]
    stages = tuple(
        StageConfig(
            index=index, device=device, backend="empty", model=Path(), inputs=(f"t{index}",), outputs=(f"t{index + 1}",),
            service_s=1e-5,
        )
        for index, device in enumerate(devices)
    )  # fmt: skip
    return PlanConfig(
        name="m", inputs=(tensors[0],), outputs=(tensors[1],), stages=stages, decision="split", cpu_workers=1,
        intra_op_threads=1, tokens=8, queue_limit=64, custom_ops=(),
    )  # fmt: skip


def efficiency(bench: Bench) -> list[dict[str, Any]]:
    """Return pipeline throughput over that of the slowest device alone, in process and over HTTP.

    A worker of its own stands in for the GPU, on the other core.
    """
    return [efficiency_of(bench, network, stages) for network in bench.networks for stages in (2, 5)]


def efficiency_of(bench: Bench, network: str, stages: int) -> dict[str, Any]:
    """Return the efficiency of one split."""
    folder = bench.package(network, stages)
    plan = read_plan(folder)
    chain = [open_session(stage.model) for stage in plan.stages]
    with ExitStack() as stack:
        deployed = Deployed(folder)
        stack.callback(deployed.close)
        url = stack.enter_context(serving_with_stand_in(folder))
        found = bench.in_turns(
            {
                "cpu": lambda: lesser_rate(plan, chain, ["cpu"], bench.seconds),
                "gpu": lambda: lesser_rate(plan, chain, ["gpu"], bench.seconds),
                "both at once": lambda: lesser_rate(plan, chain, ["cpu", "gpu"], bench.seconds),
                "process": lambda: map_rate(deployed.pipeline, bench.seconds),
                "http": lambda: http_load(url, folder, CALLERS, bench.seconds).throughput_per_s,
            }
        )
    slowest = [min(pair) for pair in zip(found["cpu"], found["gpu"], strict=True)]
    row: dict[str, Any] = {"network": network, "stages": stages, "rates": {f"{side}/s": rates for side, rates in found.items()}}
    for side in ("process", "http"):
        for name, limit in ((side, slowest), (f"{side} / both", found["both at once"])):
            row[name] = statistics.median(rate / most for rate, most in zip(found[side], limit, strict=True))
    return row


def lesser_rate(plan: PlanConfig, chain: list[Any], devices: Sequence[str], seconds: float) -> float:
    """Return the least rate of the devices' stages, all at once, with nothing between them, on the cores that they have there.

    What the two cores share (memory, caches, a core's two threads) slows both; no pipeline could be faster than both at once.
    """
    with ThreadPoolExecutor(len(devices)) as pool:
        return min(pool.map(lambda device: own_rate(plan, chain, device, seconds), devices))


def own_rate(plan: PlanConfig, chain: list[Any], device: str, seconds: float) -> float:
    """Return how many requests a second one device's stages take, on this thread."""
    values: dict[str, Any] = {models.INPUT: PHOTO}
    work = []
    for stage, opened in zip(plan.stages, chain, strict=True):
        feeds = {name: values[name] for name in stage.inputs}
        if stage.device == device:
            work.append((opened, list(stage.outputs), feeds))
        values.update(zip(stage.outputs, opened.run(list(stage.outputs), feeds), strict=True))
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        for opened, outputs, feeds in work:
            keep(stand_in=device == "gpu")
            opened.run(outputs, feeds)
        count += 1
    return count / (time.perf_counter() - begin)


def map_rate(pipeline: Pipeline, seconds: float) -> float:
    """Return the pipeline's throughput with as many requests under way as it takes.

    Counted are the answers from the moment at which as many have come as fit inside: a pipeline that fills or runs empty
    works in another rhythm.
    """
    ends: list[float] = []
    stop = math.inf

    def offered() -> Iterator[dict[str, Any]]:
        while time.perf_counter() < stop:
            yield {models.INPUT: PHOTO}

    for _ in pipeline.map(offered()):
        ends.append(time.perf_counter())
        if len(ends) == pipeline.window:
            stop = ends[-1] + seconds
    return rate([end for end in ends[pipeline.window - 1 :] if end <= stop], seconds)


def latency(bench: Bench) -> list[dict[str, Any]]:
    """Return one request's latency over the sum of its stages', run one after the other without a pipeline."""
    rows = []
    for stages in (2, 5):
        folder = bench.package("small-cnn", stages)
        plan = read_plan(folder)
        chain = [open_session(stage.model) for stage in plan.stages]

        def by_hand(plan: PlanConfig = plan, chain: list[Any] = chain) -> float:
            begin, values = time.perf_counter(), {models.INPUT: PHOTO}
            for stage, opened in zip(plan.stages, chain, strict=True):
                feeds = {name: values[name] for name in stage.inputs}
                values.update(zip(stage.outputs, opened.run(list(stage.outputs), feeds), strict=True))
            return time.perf_counter() - begin

        with loaded(folder) as pipeline:
            pairs = [(by_hand(), timed(lambda: pipeline.run({models.INPUT: PHOTO}))) for _ in range(300)]
        apart, whole = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append({"stages": stages, "sum_ms": apart * 1e3, "run_ms": whole * 1e3, "ratio": whole / apart})
    return rows


def batching(bench: Bench) -> list[dict[str, Any]]:
    """Return what `max_batch` 8 gives over 1 on a small network, at high load and at low."""
    network = models.small_network(bench.place / "small.onnx", width=1024, layers=3)
    sample = np.random.default_rng(0).random((1, 1024), np.float32)
    folder = models.write_package(bench.place / "small", network, sample, decision="split")
    with ExitStack() as stack:
        pipelines = {size: stack.enter_context(Pipeline.load(folder, max_batch=size, tokens=32)) for size in (1, 8)}
        inputs = {models.INPUT: sample}
        sides = {
            f"{size}x{callers}": lambda p=pipeline, c=callers: load(lambda: lambda: p.run(inputs), c, bench.seconds)
            for size, pipeline in pipelines.items()
            for callers in (1, 32)
        }
        found = bench.in_turns(sides)
    middle = {
        name: {
            "throughput_per_s": statistics.median(turn.throughput_per_s for turn in turns),
            "p50_ms": statistics.median(turn.p50_s for turn in turns) * 1e3,
        }
        for name, turns in found.items()
    }
    return [{"max_batch": name.split("x")[0], "callers": name.split("x")[1], **entry} for name, entry in middle.items()]


@contextmanager
def loaded(folder: Path) -> Iterator[Pipeline]:
    """Yield the pipeline of a package, warm; without a GPU its GPU stages run on the CPU, which is what is wanted here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)
        pipeline = Pipeline.load(folder)
    with pipeline:
        for _ in range(5):
            pipeline.run({models.INPUT: PHOTO})
        yield pipeline


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    flat = [
        {
            key: value
            for name, entry in row.items()
            for key, value in (
                [(key, statistics.median(values)) for key, values in entry.items()]
                if isinstance(entry, dict)
                else [(name, entry)]
            )
        }
        for row in rows
    ]
    lines = ["| " + " | ".join(flat[0]) + " |", "|" + "--:|" * len(flat[0])]
    lines += [
        "| " + " | ".join(f"{value:.3g}" if isinstance(value, float) and value < 100 else f"{value:.0f}"
        if isinstance(value, float) else str(value) for value in row.values()) + " |"
        for row in flat
    ]  # fmt: skip
    return "\n".join(lines)


SECTIONS = {section.__name__: section for section in (overhead, efficiency, latency, batching, fronts, servers)}


def main() -> None:
    """Measure and write one JSON document, or the tables alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--markdown", action="store_true", help="write the tables to stdout, not JSON")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="of efficiency and servers")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS), help="other servers to compare with")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    threading.stack_size(2**20)
    result: dict[str, Any] = {"environment": environment(), "load": os.getloadavg()}
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(Path(place), arguments.seconds, arguments.rounds, arguments.networks, arguments.peers)
        for name in arguments.only:
            result[name] = SECTIONS[name](bench)
            if arguments.markdown:
                sys.stdout.write(f"{name}\n\n{table(result[name])}\n\n")
                sys.stdout.flush()
    text = serde.dumps(result)
    if arguments.output:
        arguments.output.write_text(text, "utf-8")
    if not arguments.markdown:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
