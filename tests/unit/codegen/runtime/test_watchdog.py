"""A run that does not return: its request is answered, the pipeline says so, and recovers when the run returns."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutset.codegen.runtime import ConfigError, DeadlineExceeded, Pipeline
from cutset.codegen.runtime.backends.base import time_limit_s


def test_the_limit_comes_from_the_planned_time(chain):
    stage = chain(1).plan().stages[0]
    assert time_limit_s(stage, None) == 30  # 1 ms
    assert time_limit_s(stage, 0.5) == 0.5
    assert time_limit_s(stage, 0) == math.inf
    package = chain(1)
    package.document["stages"][0]["service_s"] = 0.2
    package.write()
    assert time_limit_s(package.plan().stages[0], None) == 200


@pytest.mark.parametrize("value", [-1, "3", math.inf])
def test_a_limit_is_seconds(chain, value):
    with pytest.raises(ConfigError, match="stage_timeout_s"):
        chain(1).plan().override({"stage_timeout_s": value})


@pytest.mark.parametrize("batch", [1, 8])
def test_a_hung_thread_is_answered_and_told(chain, gate, batch):
    package = chain(1, cpu_workers=1, tokens=3, stage_timeout_s=0.2, max_batch=batch)
    package.document["stages"][0]["batching"] = {"proven": True}
    package.write()
    stage = gate("t0", "t1")
    with Pipeline(package.plan(), [stage]) as pipeline:
        hung = pipeline.submit({"t0": np.float32([1])})
        assert stage.entered.acquire(timeout=20)
        waiting = [pipeline.submit({"t0": np.float32([2])}) for _ in range(2)]
        with pytest.raises(DeadlineExceeded, match=r"stage 0 has not returned within 0\.2 s"):
            hung.result(20)
        assert (pipeline.ready, pipeline.live) == (False, False)
        assert pipeline.stats().inside == 3  # its tensors are still held
        stage.open.set()
        assert [one.result(20)["t1"] for one in waiting] == [2, 2]
        assert pipeline.run({"t0": np.float32([3])})["t1"] == 3
        assert (pipeline.ready, pipeline.live) == (True, True)
        assert pipeline.stats().inside == 0
        assert pipeline.stats().failures == {"deadline": 1}
        assert pipeline.stats().stages[0].failed == 1


def test_runs_within_their_limit_are_left_alone(chain):
    with Pipeline.load(chain(2, cpu_workers=2).folder, stage_timeout_s=5) as pipeline, ThreadPoolExecutor(4) as callers:
        found = list(callers.map(lambda n: pipeline.run({"t0": np.float32([n])})["t2"][0], range(100)))
        assert found == [number + 2 for number in range(100)]
        assert pipeline.live


def test_no_limit_needs_no_thread(chain, gate):
    with Pipeline(chain(1, stage_timeout_s=0).plan(), [gate("t0", "t1")]) as pipeline:
        assert not pipeline._executor._watchdog._thread.is_alive()
