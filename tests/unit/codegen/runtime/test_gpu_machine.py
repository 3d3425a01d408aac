"""Any order of requests, failures, cancellations, the loss of the GPU and closing: right answers, nothing used too early."""

from __future__ import annotations

import gc
import time
from concurrent.futures import CancelledError, wait
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cutset.codegen.runtime import DeadlineExceeded, Overloaded, Pipeline, StageError
from tests.unit.codegen.runtime.conftest import Package
from tests.unit.codegen.runtime.gpu_pipeline import expected, on_host_memory, three_stages

PATIENCE_S = 30
ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.integers(0, 200), st.integers(1, 3)),
    st.tuples(st.just("late"), st.integers(0, 200), st.just(1)),
    st.tuples(st.just("cancel"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("wait"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("hold"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("fail"), st.just(0), st.just(0)),
    st.tuples(st.just("lose"), st.just(0), st.just(0)),
)
BUSY = [("submit", number, 1 + number % 3) for number in range(30)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpu")
    return {rows: three_stages(partial(Package, place / str(rows)), rows) for rows in (1, "n")}


class Story:
    """What is asked of a pipeline, and what may come of it."""

    def __init__(self, pipeline: Pipeline, devices: list, rows: int | str) -> None:
        self.pipeline, self.devices, self.rows = pipeline, devices, rows
        self.asked, self.kept, self.failures, self.may_fail = [], [], 0, False

    def fail(self) -> None:
        """Called by each run of the GPU."""
        if self.failures:
            self.failures -= 1
            raise RuntimeError("told to fail")

    def do(self, action: str, number: int, rows: int) -> None:
        if action in {"submit", "late"}:
            x = np.full((rows if self.rows == "n" else 1, 2), number, np.float32) + np.arange(2, dtype=np.float32)
            try:
                future = self.pipeline.submit({"x": x}, time.monotonic() if action == "late" else None)
            except Overloaded:
                return
            self.asked.append((x, action == "late", future))
        elif action == "fail":
            self.failures += 1
            self.may_fail = True
        elif action == "lose" and len(self.devices) == 1:
            self.devices[0].kill()
            self.may_fail = True
        elif self.asked:
            future = self.asked[number % len(self.asked)][-1]
            if action == "cancel":
                future.cancel()
            else:
                wait([future], timeout=PATIENCE_S)
            if action == "hold" and not future.cancelled() and not future.exception(0):
                self.kept.append((self.asked[number % len(self.asked)][0], future.result(0)))

    def check(self) -> None:
        """Check every answer; a failure is one that was told to be."""
        assert not wait([future for *_, future in self.asked], timeout=PATIENCE_S).not_done, "a request hangs"
        for x, late, future in self.asked:
            try:
                found = future.result(0)
            except CancelledError:
                continue
            except DeadlineExceeded:
                assert late
                continue
            except StageError as error:
                assert self.may_fail
                assert "told to fail" in str(error) or "was lost" in str(error)  # noqa: PT017
                continue
            self.kept.append((x, found))
        for x, found in self.kept:
            assert {name: value.tolist() for name, value in found.items()} == {
                name: value.tolist() for name, value in expected(x).items()
            }


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    actions=st.lists(ACTIONS, max_size=30),
    rows=st.sampled_from([1, "n"]),
    pace=st.none() | st.integers(0, 1000),
    tokens=st.integers(1, 6),
    max_batch=st.integers(1, 4),
)
@example(actions=BUSY, rows="n", pace=None, tokens=6, max_batch=4)
@example(actions=BUSY, rows=1, pace=3, tokens=6, max_batch=1)
@example(actions=[*BUSY, ("fail", 0, 0), *BUSY, ("lose", 0, 0), *BUSY], rows="n", pace=1, tokens=6, max_batch=4)
@example(actions=[*BUSY, ("lose", 0, 0), *BUSY], rows=1, pace=None, tokens=6, max_batch=4)
def test_any_order_of_events(folders: dict[int | str, Path], actions, rows, pace, tokens, max_batch):
    stories: list[Story] = []

    def fail():
        if stories:
            stories[0].fail()

    with on_host_memory(pace=pace, fail=fail) as (devices, _):
        pipeline = Pipeline.load(folders[rows], tokens=tokens, max_batch=max_batch, queue_limit=100, cpu_workers=2)
        story = Story(pipeline, devices, rows)
        stories.append(story)
        try:
            for action in actions:
                story.do(*action)
        finally:
            pipeline.close()
        story.check()
    stories.clear()
    for device in devices:
        device.stop()
        assert device.violations == []
    gc.collect()
    assert devices[-1].dead or devices[-1].live() == 0, "everything was given back"
