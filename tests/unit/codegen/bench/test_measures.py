"""The arithmetic of a benchmark, on times that are made up, and its loads on things that sleep."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cutset.codegen.bench.bench import utilisation
from cutset.codegen.bench.openloop import BINS, histogram, open_loop
from cutset.codegen.bench.prediction import predicted_here, slowed_by
from cutset.codegen.bench.rounds import resource_rates, run_rounds
from cutset.codegen.bench.subjects import Subject
from cutset.codegen.report.timeline import lay_out
from cutset.codegen.runtime.bench import load, rate
from cutset.codegen.runtime.errors import Overloaded
from cutset.codegen.runtime.pipeline import Pipeline
from cutset.errors import ProfileError
from cutset.partitioner.simulate import Span
from cutset.profilers.table import CostTable, Latency, ModelFile, SessionCost
from tests.reports import planned


def test_a_resource_alone_does_its_stages_one_after_the_other() -> None:
    rates = {"stage_0": 100.0, "stage_1": 50.0, "stage_2": 25.0}
    found = resource_rates(rates, {"stage_0": "cpu", "stage_1": "gpu", "stage_2": "cpu"})
    assert found == {"cpu": pytest.approx(1 / (0.01 + 0.04)), "gpu": pytest.approx(50.0)}


def test_utilisation_is_busy_time_over_all_workers() -> None:
    spans = [
        Span(step=0, resource="cpu", server=0, requests=(0,), start_s=0.0, end_s=4.0),
        Span(step=1, resource="gpu", server=0, requests=(0,), start_s=0.0, end_s=1.0),
        Span(step=1, resource="gpu", server=0, requests=(1,), start_s=3.0, end_s=4.0),
    ]
    found = utilisation(spans, {"cpu": 2, "gpu": 1})
    assert found["devices"] == {"cpu": 0.5, "gpu": 0.5}
    assert found["stages"] == {0: 0.5, 1: 0.5}
    line = lay_out(spans, ["first", "second"], (0.0, 4.0))
    assert [(name, busy) for name, busy, _ in line.rows] == [("CPU worker 1", "100.0 %"), ("GPU", "50.0 %")]
    assert len(line.bars) == 3


def test_the_histogram_holds_every_answer() -> None:
    times = [0.001, 0.002, 0.004, 0.1, 0.1]
    edges, counts = histogram(times)
    assert (len(edges), len(counts), sum(counts)) == (BINS + 1, BINS, len(times))
    ratios = [b / a for a, b in itertools.pairwise(edges)]
    assert ratios == pytest.approx([ratios[0]] * BINS)
    assert histogram([]) == ((), ())
    assert sum(histogram([0.5])[1]) == 1


def test_answers_are_counted_once_every_caller_has_had_one() -> None:
    first = threading.Barrier(3)
    called: list[int] = []

    def caller() -> Any:
        state = {"first": True}

        def call() -> None:
            called.append(1)
            if state.pop("first", False):
                first.wait(10)
            time.sleep(0.002)

        return call

    found = load(caller, 3, 0.1)
    assert found.failed == 0
    assert found.p50_s >= 0.002
    assert 0 < found.throughput_per_s <= 3 / 0.002
    assert len(called) >= 3


@pytest.mark.parametrize("burst", [1, 2, 3])
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_the_rate_of_answers_does_not_depend_on_how_they_come_in_bursts(burst: int, cut: int) -> None:
    ends = [0.1 * (number - number % burst) + 0.01 * (number % burst) for number in range(36 + cut)]
    assert rate(ends, 4.0) == pytest.approx(10.0, rel=0.01)


def test_a_rate_of_one_answer_is_over_the_whole_time() -> None:
    assert rate([1.0], 4.0) == 0.25
    assert rate([], 4.0) == 0.0
    assert rate([], 0.0) == 0.0


def test_failures_are_counted_and_end_nothing() -> None:
    def refuse() -> None:
        time.sleep(0.001)
        raise RuntimeError("no")

    found = load(lambda: refuse, 2, 0.02)
    assert found.failed >= 2
    assert found.throughput_per_s == 0


def test_rounds_measure_all_in_turn_until_the_time_is_up() -> None:
    order: list[str] = []

    def subject(name: str) -> Subject:
        def call() -> None:
            if order[-1:] != [name]:
                order.append(name)
            time.sleep(0.001)

        return Subject(name=name, title=name, caller=lambda: call, concurrency=1)

    told: list[str] = []
    found = run_rounds([subject("pipeline"), subject("stage_0")], {"stage_0": "cpu"}, 0.8, told.append)
    assert found.count + found.disturbed == len(told) >= 2
    low, high = found.interval
    assert low <= found.ratio <= high
    assert set(found.loads) == {"pipeline", "stage_0"}
    assert found.ratio > 0
    assert order.count("stage_0") >= 2


def test_what_is_compared_has_neighbouring_turns() -> None:
    order: list[str] = []

    def subject(name: str, seconds: float = 0.001) -> Subject:
        def call() -> None:
            if order[-1:] != [name]:
                order.append(name)
            time.sleep(seconds)

        return Subject(name=name, title=name, caller=lambda: call, concurrency=1)

    subjects = [subject("unsplit_replicas"), subject("stage_0"), subject("pipeline"), subject("stage_1", 0.01), subject("http")]
    found = run_rounds(subjects, {"stage_0": "cpu", "stage_1": "gpu"}, 0.5, lambda _text: None)
    once = ["unsplit_replicas", "stage_0", "pipeline", "stage_1", "http"]
    way = ["http", "unsplit_replicas", "pipeline", "stage_1", "stage_0"]
    assert order[: len(once)] == once
    assert order[len(once) :][:9] == [*way[::-1], *way[1:]]
    assert found.gain("stage_1") > 2


class Queue:
    """A pipeline that answers at once, and refuses every third request."""

    def __init__(self) -> None:
        self.sent = 0

    def submit(self, _sample: Any) -> Future[Any]:
        self.sent += 1
        if self.sent % 3 == 0:
            raise Overloaded(waiting=1, retry_after_s=1.0)
        future: Future[Any] = Future()
        if self.sent % 3 == 1:
            future.set_result({})
        else:
            future.set_exception(RuntimeError("broken"))
        return future


def test_an_open_loop_tells_refused_from_failed() -> None:
    found = open_loop(cast("Pipeline", Queue()), {}, 3000.0, 0.01)
    assert found.offered == 30
    assert (found.refused, found.failed, sum(found.counts)) == (10, 10, 10)


def test_without_a_gpu_the_prediction_is_the_cpus(cnn_path: Path) -> None:
    pins = {"op:Conv": "gpu", "op:Relu": "cpu"}
    shape = (1, 3, 16, 16)
    case = planned(cnn_path, {"x": np.zeros(shape, np.float32)}, pins=pins)
    document, table, _ = case
    on_gpu = [stage["index"] for stage in document["stages"] if stage["device"] == "gpu"]
    planned_per_s = predicted_here(document, table, [])
    assert planned_per_s == pytest.approx(document["prediction"]["throughput_per_s"], rel=0.05)
    here = predicted_here(document, table, on_gpu)
    cpu_s = sum(step["each_s"] for step in document["steps"] if step["resource"] == "cpu")
    assert 0 < here <= 1 / cpu_s * 1.01


def test_a_subject_too_slow_for_its_share_of_the_time_is_an_error_and_no_ratio() -> None:
    slow = Subject(name="pipeline", title="the pipeline", caller=lambda: lambda: time.sleep(0.4), concurrency=1)
    with pytest.raises(ProfileError, match="the pipeline answered nothing") as caught:
        run_rounds([slow], {}, 0.2, lambda _text: None)
    assert "--seconds" in str(caught.value.hint)


def test_the_unsplit_model_tells_how_slow_the_machine_is() -> None:
    """Alone 10 ms, on both cores 12: 2 / 12 ms a second, of which 125 were seen."""

    def session(seconds: float, workers: int) -> SessionCost:
        latency = Latency(median=seconds, p10=seconds, p90=seconds, samples=9, runs=9)
        return SessionCost(device="cpu", backend="b", batch=1, threads=1, latency_s=latency, source="measured", workers=workers)

    table = CostTable(
        model=ModelFile(file="m.onnx", sha256="s", nodes=1), target=None, environment={}, shapes={}, groups=(), transfers=(),
        sessions=(session(10e-3, 1),), loaded=(session(12e-3, 2),),
    )  # fmt: skip
    assert slowed_by({"decision": "split"}, table, 2, 125.0) == pytest.approx(2 / 12e-3 / 125)
    assert slowed_by({"decision": "split"}, table, 1, 100.0) == pytest.approx(1.0)
    assert slowed_by({"decision": "unsplit-cpu"}, table, 2, 125.0) is None, "it would be held against itself"
    assert slowed_by({"decision": "split"}, table, 2, None) is None
