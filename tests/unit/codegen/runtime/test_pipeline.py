"""Requests through real stages under load, and the pipeline's promises about order, room, time and shutdown."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
import weakref
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from cutset.codegen.runtime import Closed, DeadlineExceeded, InputError, Overloaded, Pipeline, StageError

pytestmark = pytest.mark.filterwarnings("ignore::cutset.codegen.runtime.DegradedWarning")


def _value(number):
    return {"t0": np.full(3, number, np.float32)}


def _gated(chain, gate, k=1, **plan):
    package = chain(k, **plan)
    gates = [gate(f"t{i}", f"t{i + 1}", package.document["stages"][i]["device"]) for i in range(k)]
    return Pipeline(package.plan(), gates), gates


@pytest.fixture
def skipping(package):
    """Three stages with a skip tensor, a pass-through output, a dead output and an input nobody reads."""
    tensors = {name: ("float32", ["n"]) for name in ("x", "w", "a", "dead", "b", "c")}
    stages = [
        ("cpu", [helper.make_node("Neg", ["x"], ["a"]), helper.make_node("Abs", ["x"], ["dead"])], ["x"], ["a", "dead"]),
        ("gpu", [helper.make_node("Mul", ["a", "a"], ["b"])], ["a"], ["b"]),
        ("cpu", [helper.make_node("Add", ["a", "b"], ["c"])], ["a", "b"], ["c"]),
    ]
    return package(tensors, stages, inputs=["x", "w"], outputs=["c", "a", "x"])


def test_skip_tensors_and_pass_through_outputs(skipping):
    x = np.array([1.0, 2.0], np.float32)
    with Pipeline.load(skipping.folder) as pipeline:
        result = pipeline.run({"x": x, "w": x})
    assert list(result) == ["c", "a", "x"]
    assert result["c"].tolist() == [0.0, 2.0]
    assert result["a"].tolist() == [-1.0, -2.0]
    assert result["x"].tolist() == x.tolist()


def test_tensors_are_dropped_after_their_last_consumer(chain, gate):
    pipeline, (first, second) = _gated(chain, gate, k=2)
    with pipeline:
        inputs = _value(1)
        alive = weakref.ref(inputs["t0"])
        first.run = lambda feeds: {"t1": feeds["t0"] + 1}
        future = pipeline.submit(inputs)
        del inputs
        assert second.entered.acquire(timeout=10)
        gc.collect()
        assert alive() is None
        second.open.set()
        assert future.result(10)["t2"].tolist() == [2.0] * 3


@pytest.mark.parametrize("devices", [("cpu",), ("cpu", "gpu"), ("gpu", "cpu", "cpu")])
def test_answers_are_not_mixed_up_under_load(chain, devices):
    with Pipeline.load(chain(4, devices=devices, cpu_workers=3, tokens=5).folder) as pipeline, ThreadPoolExecutor(8) as callers:
        results = list(callers.map(lambda number: (number, pipeline.run(_value(number))["t4"]), range(400)))
    for number, result in results:
        assert result.tolist() == [number + 4.0] * 3


def test_map_keeps_the_order_and_bounds_what_is_under_way(chain):
    taken = 0

    def items():
        nonlocal taken
        for number in range(200):
            taken += 1
            yield _value(number)

    with Pipeline.load(chain(2, tokens=3, queue_limit=1).folder) as pipeline:
        for number, result in enumerate(pipeline.map(items())):
            assert result["t2"][0] == number + 2
            assert taken <= number + 1 + 2 * 3


def test_map_raises_in_turn_and_can_be_abandoned(chain):
    with Pipeline.load(chain(1).folder) as pipeline:
        results = pipeline.map([_value(0), {"t0": "no"}])
        with pytest.raises(InputError):
            list(results)
        endless = pipeline.map(iter(lambda: _value(1), None))
        assert next(endless)["t1"][0] == 2
        endless.close()
        assert pipeline.run(_value(5))["t1"][0] == 6


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    k=st.integers(1, 5),
    tokens=st.integers(1, 6),
    queue_limit=st.integers(0, 3),
    workers=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_no_sizes_deadlock(chain, k, tokens, queue_limit, workers, seed):
    """Re-entrant phases over two devices, random stage times, more callers than room."""
    devices = tuple(random.Random(seed).choices(["cpu", "gpu"], k=k))
    package = chain(k, devices=devices, tokens=tokens, queue_limit=queue_limit, cpu_workers=workers)

    class Sleepy:
        substitution = None

        def __init__(self, index):
            self.device, self.index, self.random = devices[index], index, random.Random(seed + index)

        def run(self, feeds):
            time.sleep(self.random.choice([0, 0, 0.001]))
            return {f"t{self.index + 1}": feeds[f"t{self.index}"] + 1}

        def close(self):
            pass

    with Pipeline(package.plan(), [Sleepy(index) for index in range(k)]) as pipeline, ThreadPoolExecutor(6) as callers:
        futures = [callers.submit(pipeline.run, _value(number), 60.0) for number in range(24)]
        _done, late = wait(futures, timeout=60)
        assert not late
        assert [future.result()[f"t{k}"][0] for future in futures] == [number + k for number in range(24)]
    assert pipeline.stats().completed == 24


def test_a_failing_stage_fails_only_its_request(package):
    tensors = {"x": ("float32", ["n"]), "i": ("int64", ["k"]), "y": ("float32", ["k"]), "z": ("float32", ["k"])}
    stages = [
        ("gpu", [helper.make_node("Gather", ["x", "i"], ["y"])], ["x", "i"], ["y"]),
        ("cpu", [helper.make_node("Neg", ["y"], ["z"])], ["y"], ["z"]),
    ]
    folder = package(tensors, stages, inputs=["x", "i"], outputs=["z"], tokens=3, queue_limit=200).folder
    with Pipeline.load(folder) as pipeline:
        futures = [pipeline.submit({"x": [float(n)], "i": [n % 3]}) for n in range(60)]
        for number, future in enumerate(futures):
            if number % 3:
                with pytest.raises(StageError):
                    future.result(10)
            else:
                assert future.result(10)["z"].tolist() == [-number]
        stats = pipeline.stats()
    assert (stats.completed, stats.failed, stats.stages[0].failed, stats.inside) == (20, 40, 40, 0)


def test_a_failed_request_does_not_keep_its_tensors(chain, gate):
    pipeline, (stage,) = _gated(chain, gate)
    with pipeline:

        def fail(feeds):
            raise RuntimeError(f"no {len(feeds)}")

        stage.run = fail
        inputs = _value(1)
        alive = weakref.ref(inputs["t0"])
        future = pipeline.submit(inputs)
        del inputs
        assert isinstance(future.exception(10), StageError)
        assert alive() is None


def test_a_full_pipeline_refuses_submit_and_lets_run_wait(chain, gate):
    pipeline, (stage,) = _gated(chain, gate, tokens=1, queue_limit=2, cpu_workers=1)
    with pipeline, ThreadPoolExecutor(1) as caller:
        held = [pipeline.submit(_value(number)) for number in range(3)]
        with pytest.raises(Overloaded, match="2 requests are waiting") as caught:
            pipeline.submit(_value(3))
        assert caught.value.retry_after_s == pytest.approx(0.003)
        waiting = caller.submit(pipeline.run, _value(4))
        assert pipeline.stats().waiting == 2
        stage.open.set()
        assert [future.result(10)["t1"][0] for future in held] == [0, 1, 2]
        assert waiting.result(10)["t1"][0] == 4


def test_a_waiting_request_can_be_cancelled_and_frees_its_place(chain, gate):
    pipeline, (stage,) = _gated(chain, gate, tokens=1, queue_limit=1, cpu_workers=1)
    with pipeline:
        pipeline.submit(_value(0))
        assert stage.entered.acquire(timeout=10)
        waiting = pipeline.submit(_value(1))
        assert waiting.cancel()
        assert wait([waiting], timeout=10).not_done == set()
        replacement = pipeline.submit(_value(2))
        stage.open.set()
        assert replacement.result(10)["t1"][0] == 2
        with pytest.raises(CancelledError):
            waiting.result(10)
    assert [seen[0] for seen in stage.seen] == [0, 2]


def test_a_running_request_can_be_cancelled_and_leaves_before_its_next_stage(chain, gate):
    pipeline, (first, second) = _gated(chain, gate, k=2)
    with pipeline:
        future = pipeline.submit(_value(0))
        assert first.entered.acquire(timeout=10)
        assert future.cancel()
        first.open.set()
        assert wait([future], timeout=10).not_done == set()
    assert second.seen == []
    assert pipeline.stats().failures == {"cancelled": 1}


def test_an_expired_request_leaves_before_its_next_stage(chain, gate):
    pipeline, (first, second) = _gated(chain, gate, k=2)
    with pipeline:
        future = pipeline.submit(_value(0), deadline=time.monotonic() + 0.05)
        assert first.entered.acquire(timeout=10)
        time.sleep(0.06)
        first.open.set()
        with pytest.raises(DeadlineExceeded, match="before stage 1"):
            future.result(10)
        assert second.seen == []


def test_run_gives_up_in_time_while_inside_and_while_waiting_for_room(chain, gate):
    pipeline, (stage,) = _gated(chain, gate, tokens=1, queue_limit=0, cpu_workers=1)
    with pipeline:
        with pytest.raises(DeadlineExceeded, match="no result within"):
            pipeline.run(_value(0), timeout=0.05)
        with pytest.raises(DeadlineExceeded, match="room"):
            pipeline.run(_value(1), timeout=0.05)
        stage.open.set()
        assert pipeline.run(_value(2), timeout=30)["t1"][0] == 2
    assert [seen[0] for seen in stage.seen] == [0, 2]


def test_close_finishes_what_was_taken_and_takes_nothing_more(chain, gate):
    pipeline, (stage,) = _gated(chain, gate, tokens=1, queue_limit=5, cpu_workers=1)
    futures = [pipeline.submit(_value(number)) for number in range(3)]
    with ThreadPoolExecutor(2) as others:
        closers = [others.submit(pipeline.close) for _ in range(2)]
        while not pipeline.closed:
            time.sleep(0.001)
        with pytest.raises(Closed):
            pipeline.submit(_value(9))
        stage.open.set()
        for closer in closers:
            closer.result(10)
    assert [future.result(0)["t1"][0] for future in futures] == [0, 1, 2]
    pipeline.close()
    with pytest.raises(Closed):
        pipeline.run(_value(9))


def test_close_with_a_limit_fails_what_is_left(chain, gate):
    pipeline, (first, second) = _gated(chain, gate, k=2, tokens=1, queue_limit=5, cpu_workers=1)
    futures = [pipeline.submit(_value(number)) for number in range(2)]
    assert first.entered.acquire(timeout=10)
    threading.Timer(0.3, first.open.set).start()
    pipeline.close(timeout=0.2)
    for future in futures:
        with pytest.raises(Closed):
            future.result(10)
    assert second.seen == []
    for thread in threading.enumerate():
        if thread.name.startswith("cutset-"):
            thread.join(10)


def test_close_under_load_loses_no_request(chain):
    pipeline = Pipeline.load(chain(3, devices=("cpu", "gpu"), tokens=2, queue_limit=4).folder)
    outcomes = []

    def call(number):
        try:
            outcomes.append(pipeline.run(_value(number))["t3"][0] == number + 3)
        except Closed:
            outcomes.append("closed")

    with ThreadPoolExecutor(8) as callers:
        jobs = [callers.submit(call, number) for number in range(200)]
        while len(outcomes) < 20:
            time.sleep(0.001)
        pipeline.close()
        for job in jobs:
            job.result(30)
    assert len(outcomes) == 200
    assert set(outcomes) <= {True, "closed"}
    assert outcomes.count(True) == pipeline.stats().completed >= 20


def test_one_stage_is_replicas_over_one_session(chain):
    with Pipeline.load(chain(1, cpu_workers=1).folder, cpu_workers=3) as pipeline:
        names = {thread.name for thread in threading.enumerate() if thread.name.startswith("cutset-cpu")}
        assert names == {"cutset-cpu-0", "cutset-cpu-1", "cutset-cpu-2"}
        assert pipeline.run({"t0": [1.0]})["t1"].tolist() == [2.0]


def test_statistics_add_up(chain):
    with Pipeline.load(chain(3).folder) as pipeline:
        before = pipeline.stats()
        assert before.stages[0].service.p99_s == 0
        list(pipeline.map(_value(number) for number in range(50)))
        stats = pipeline.stats()
    assert [stage.count for stage in stats.stages] == [50] * 3
    for stage in stats.stages:
        assert 0 < stage.service.p50_s <= stage.service.p99_s
        assert stage.busy_s == pytest.approx(50 * stage.service.mean_s)
        assert 0 < stage.utilisation < 1
        assert stage.queue == 0
    assert stats.utilisation["cpu"] == pytest.approx(sum(stage.utilisation for stage in stats.stages))
    assert stats.latency_sum_s >= sum(stage.busy_s for stage in stats.stages)


@pytest.mark.parametrize("slots", [1, 2])
def test_a_gpu_takes_as_many_requests_at_once_as_its_backend_has_slots(chain, gate, slots):
    """With two, the copies of one request overlap the computation of the other."""
    package = chain(1, devices=("gpu",), tokens=3)
    stage = gate("t0", "t1", "gpu")
    stage.slots = slots
    with Pipeline(package.plan(), [stage]) as pipeline:
        futures = [pipeline.submit(_value(number)) for number in range(3)]
        for _ in range(slots):
            assert stage.entered.acquire(timeout=10)
        assert not stage.entered.acquire(timeout=0.05)
        stage.open.set()
        assert [future.result(10)["t1"][0] for future in futures] == [0, 1, 2]


def test_arun_answers_waits_for_room_and_can_be_cancelled(chain, gate):
    pipeline, (stage,) = _gated(chain, gate, tokens=1, queue_limit=1, cpu_workers=1)

    async def ask():
        tasks = [asyncio.create_task(pipeline.arun(_value(number))) for number in range(4)]
        while not stage.seen or pipeline.stats().waiting < 1:
            await asyncio.sleep(0.001)
        with pytest.raises(DeadlineExceeded):
            await pipeline.arun(_value(9), timeout=0.05)
        stage.open.set()
        answers = await asyncio.gather(*tasks)
        with pytest.raises(InputError):
            await pipeline.arun({})
        return [answer["t1"][0] for answer in answers]

    with pipeline:
        assert asyncio.run(ask()) == [0, 1, 2, 3]


def test_a_cancelled_arun_takes_its_request_out(chain, gate):
    pipeline, (first, second) = _gated(chain, gate, k=2)

    async def ask():
        task = asyncio.create_task(pipeline.arun(_value(0)))
        while not first.seen:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        first.open.set()

    with pipeline:
        asyncio.run(ask())
    assert second.seen == []
    assert pipeline.stats().failures["cancelled"] == 1


def test_an_unsplit_cpu_plan_runs_replicas_on_every_core(chain, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(6)), raising=False)
    package = chain(1, cpu_workers=1, intra_op_threads=2, decision="unsplit-cpu")
    for overrides, workers in (({}, 3), ({"cpu_workers": 1}, 1)):
        with Pipeline.load(package.folder, **overrides) as pipeline:
            assert pipeline.plan.cpu_workers == workers
            assert pipeline.run({"t0": [1.0]})["t1"].tolist() == [2.0]
