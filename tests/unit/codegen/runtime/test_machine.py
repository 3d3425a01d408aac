"""Any order of submitting, cancelling, failing and closing: every request ends as it must, and nothing hangs."""

from __future__ import annotations

import contextlib
import threading
import time
from concurrent.futures import CancelledError, wait
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cutset.codegen.runtime import Closed, DeadlineExceeded, Overloaded, Pipeline, StageError
from cutset.codegen.runtime.config import PlanConfig, StageConfig, TensorConfig

PATIENCE_S = 30
FAIL = -1.0


class Stepped:
    """A stage that runs once for each step it is given."""

    substitution = None

    def __init__(self, index, device, steps):
        self.index, self.device, self.steps = index, device, steps

    def run(self, feeds):
        assert self.steps.acquire(timeout=PATIENCE_S)
        value = feeds[f"t{self.index}"]
        if (value == FAIL).any():
            raise ValueError("told to fail")
        return {f"t{self.index + 1}": value + 1}

    def close(self):
        pass


def make_plan(devices, batched, tokens, queue_limit, workers):
    tensors = [TensorConfig(name=f"t{index}", dtype="float32", shape=("n",)) for index in (0, len(devices))]
    stages = tuple(
        StageConfig(
            index=index, device=device, backend="stepped", model=Path(), inputs=(f"t{index}",), outputs=(f"t{index + 1}",),
            service_s=1e-4, batchable=index in batched,
        )
        for index, device in enumerate(devices)
    )  # fmt: skip
    return PlanConfig(
        name="m", inputs=(tensors[0],), outputs=(tensors[1],), stages=stages, decision="split", cpu_workers=workers,
        intra_op_threads=1, tokens=tokens, queue_limit=queue_limit, custom_ops=(), max_batch=3,
    )  # fmt: skip


class PipelineMachine(RuleBasedStateMachine):
    """A pipeline whose stages run when they are told to, beside a record of what was asked of it."""

    def __init__(self):
        super().__init__()
        self.pipeline = None
        self.asked = []
        self.closer = None
        self.refused_as_closed = 0

    @initialize(
        devices=st.lists(st.sampled_from(["cpu", "gpu"]), min_size=1, max_size=4),
        batched=st.sets(st.integers(0, 3)),
        tokens=st.integers(1, 4),
        queue_limit=st.integers(0, 3),
        workers=st.integers(1, 3),
    )
    def load(self, devices, batched, tokens, queue_limit, workers):
        self.steps = threading.Semaphore(0)
        self.plan = make_plan(devices, batched, tokens, queue_limit, workers)
        stages = [Stepped(index, device, self.steps) for index, device in enumerate(devices)]
        self.pipeline = Pipeline(self.plan, stages)
        self.window = tokens * max([1, *(3 for index in batched if index < len(devices))])

    @rule(value=st.integers(0, 50), fail=st.booleans(), late=st.booleans(), rows=st.integers(1, 2))
    def submit(self, value, fail, late, rows):
        array = np.full(rows, FAIL if fail else float(value), np.float32)
        deadline = time.monotonic() if late else None
        try:
            future = self.pipeline.submit({"t0": array}, deadline)
        except Overloaded:
            return
        except Closed:
            self.refused_as_closed += 1
            return
        self.asked.append((array, fail, late, future))

    @rule(which=st.integers(0, 99))
    def cancel(self, which):
        if self.asked:
            self.asked[which % len(self.asked)][-1].cancel()

    @rule(count=st.integers(1, 4))
    def step(self, count):
        self.steps.release(count)

    @precondition(lambda self: self.closer is None)
    @rule()
    def close(self):
        self.closer = threading.Thread(target=self.pipeline.close)
        self.closer.start()
        while not self.pipeline.closed:
            time.sleep(0.0005)

    @invariant()
    def no_more_inside_than_there_are_tokens(self):
        if self.pipeline is not None:
            stats = self.pipeline.stats()
            assert 0 <= stats.inside <= self.window
            assert 0 <= stats.waiting <= self.plan.queue_limit

    def teardown(self):
        if self.pipeline is None:
            return
        assert self.closer is not None or self.refused_as_closed == 0
        self.steps.release(10_000)
        if self.closer is None:
            self.close()
        self.closer.join(PATIENCE_S)
        assert not self.closer.is_alive(), "close hangs"
        assert wait([entry[-1] for entry in self.asked], timeout=PATIENCE_S).not_done == set(), "a request hangs"
        for array, fail, late, future in self.asked:
            with contextlib.suppress(CancelledError):
                error = future.exception(0)
                if late:
                    assert isinstance(error, DeadlineExceeded)
                elif fail:
                    assert isinstance(error, StageError)
                else:
                    assert error is None
                    assert future.result(0)[f"t{len(self.plan.stages)}"].tolist() == (array + len(self.plan.stages)).tolist()
        assert self.pipeline.stats().inside == self.pipeline.stats().waiting == 0


TestPipelineMachine = PipelineMachine.TestCase
TestPipelineMachine.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
