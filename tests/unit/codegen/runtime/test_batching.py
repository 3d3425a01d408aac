"""Rows of several requests in one run: who shares a run, what each gets back, and whose failure it is."""

from __future__ import annotations

import threading
import time
from concurrent.futures import wait

import numpy as np
import pytest

from cutset.codegen.runtime import Pipeline, StageError
from cutset.codegen.runtime.batching import Batch, batch_key
from cutset.codegen.runtime.context import Context, ImmediateResult


class Doubler:
    """Doubles what it is given once it is let, and remembers the rows of each run; a negative row is refused."""

    substitution = None

    def __init__(self, device="cpu", limit=None):
        self.device, self.max_batch = device, limit
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.rows = []

    def run(self, feeds):
        self.entered.release()
        assert self.open.wait(30)
        value = feeds["t0"]
        self.rows.append(len(value))
        if (value < 0).any():
            raise ValueError("a negative row")
        return {"t1": value * 2}

    def close(self):
        self.open.set()


def batching(chain, backend, **plan):
    package = chain(1, tokens=16, queue_limit=64, cpu_workers=1, **plan)
    package.document["stages"][0]["batching"] = {"proven": True}
    package.write()
    return Pipeline(package.plan(), [backend])


def value(number, rows=1):
    return {"t0": np.full(rows, number, np.float32)}


def test_what_waits_shares_a_run_up_to_max_batch(chain):
    stage = Doubler()
    with batching(chain, stage, max_batch=4) as pipeline:
        first = pipeline.submit(value(0))
        assert stage.entered.acquire(timeout=10)
        futures = [pipeline.submit(value(number, rows)) for number, rows in ((1, 1), (2, 2), (3, 2), (4, 1), (5, 9))]
        stage.open.set()
        assert first.result(10)["t1"].tolist() == [0]
        assert [future.result(10)["t1"].tolist() for future in futures] == [[2], [4] * 2, [6] * 2, [8], [10] * 9]
        stats = pipeline.stats().stages[0]
    assert stage.rows == [1, 4, 2, 9], "4 = 1 + 2 + 1, in order of arrival; 2 did not fit any more; 9 runs alone"
    assert (stats.count, stats.runs, stats.mean_rows) == (6, 4, 4.0)


def test_a_lone_request_does_not_wait(chain):
    stage = Doubler()
    stage.open.set()
    with batching(chain, stage, max_batch=8) as pipeline:
        assert [pipeline.run(value(number))["t1"][0] for number in range(5)] == [0, 2, 4, 6, 8]
    assert stage.rows == [1] * 5


def test_the_first_waits_for_company_only_when_told_to(chain):
    stage = Doubler()
    stage.open.set()
    with batching(chain, stage, max_batch=3, max_delay_s=5.0) as pipeline:
        futures = [pipeline.submit(value(number)) for number in range(3)]
        assert wait(futures, timeout=4).not_done == set(), "a full batch does not wait for the delay's end"
    assert stage.rows == [3]
    late = Doubler()
    late.open.set()
    with batching(chain, late, max_batch=3, max_delay_s=0.05) as pipeline:
        assert pipeline.run(value(1))["t1"].tolist() == [2]
    assert late.rows == [1]


def test_by_default_only_a_gpu_batches(chain):
    for device, expected in (("cpu", [1] * 5), ("gpu", [1, 4])):
        stage = Doubler(device)
        with batching(chain, stage, devices=(device,)) as pipeline:
            futures = [pipeline.submit(value(0))]
            assert stage.entered.acquire(timeout=10)
            futures += [pipeline.submit(value(number)) for number in range(4)]
            stage.open.set()
            wait(futures, timeout=10)
        assert stage.rows == expected


def test_a_backend_bounds_the_batch(chain):
    stage = Doubler(limit=2)
    with batching(chain, stage, max_batch=8) as pipeline:
        futures = [pipeline.submit(value(0))]
        assert stage.entered.acquire(timeout=10)
        futures += [pipeline.submit(value(number)) for number in range(4)]
        stage.open.set()
        wait(futures, timeout=10)
    assert stage.rows == [1, 2, 2]


def test_a_failure_stays_with_its_request(chain):
    stage = Doubler()
    with batching(chain, stage, max_batch=8) as pipeline:
        held = pipeline.submit(value(0))
        assert stage.entered.acquire(timeout=10)
        futures = [pipeline.submit(value(number)) for number in (1, -1, 2)]
        stage.open.set()
        held.result(10)
        assert [futures[index].result(10)["t1"][0] for index in (0, 2)] == [2, 4]
        assert isinstance(futures[1].exception(10), StageError)
    assert stage.rows == [1, 3, 1, 1, 1]


def test_cancelled_and_expired_requests_are_left_out_of_a_batch(chain):
    stage = Doubler()
    with batching(chain, stage, max_batch=8) as pipeline:
        held = pipeline.submit(value(0))
        assert stage.entered.acquire(timeout=10)
        kept = pipeline.submit(value(1))
        cancelled = pipeline.submit(value(2))
        expired = pipeline.submit(value(3), deadline=time.monotonic())
        assert cancelled.cancel()
        stage.open.set()
        wait([held, kept, cancelled, expired], timeout=10)
        assert pipeline.stats().failures == {"cancelled": 1, "deadline": 1}
    assert stage.rows == [1, 1]


@pytest.mark.parametrize(
    ("feeds", "rows"),
    [
        ([np.zeros((2, 3), np.float32)], 2),
        ([np.zeros((2, 3), np.float32), np.zeros(2, np.int64)], 2),
        ([np.zeros((2, 3), np.float32), np.zeros(3, np.int64)], None),
        ([np.zeros((0, 3), np.float32)], None),
        ([np.zeros((2, 0), np.float32)], None),
        ([np.float32(1)], None),
        ([["a sequence"]], None),
    ],
)
def test_rows_of_a_request(feeds, rows):
    found = batch_key(feeds)
    assert (found and found[1]) == rows


def test_shapes_and_types_are_kept_apart():
    def context(array):
        return Context({"x": array}, None, ImmediateResult())

    batch = Batch(context(np.zeros((1, 3), np.float32)), ["x"], 8)
    assert not batch.take(context(np.zeros((1, 4), np.float32)))
    assert not batch.take(context(np.zeros((1, 3), np.float64)))
    assert batch.take(context(np.ones((2, 3), np.float32)))
    assert batch.feeds()["x"].shape == (3, 3)
    assert [share["y"].tolist() for share in batch.split({"y": np.arange(3)})] == [[0], [1, 2]]
    assert batch.split({"y": np.arange(4)}) is None


@pytest.mark.parametrize("max_batch", [1, 8])
def test_statistics_have_the_rows_that_came_none_among_them(chain, max_batch):
    stage = Doubler()
    stage.open.set()
    with batching(chain, stage, max_batch=max_batch) as pipeline:
        for rows in (0, 5, 1, 20):
            pipeline.run(value(1, rows))
        assert stage.rows == [0, 5, 1, 20]
        found = pipeline.distributions()[1][0]["rows"]
        assert (found.total, found.counts[-1], found.counts[0]) == (26, 4, 2)
        assert pipeline.stats().stages[0].mean_rows == 6.5
