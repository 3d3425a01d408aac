"""An event loop computes what is short, on its own thread, and keeps away from what is not."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.shortcut import LIMIT_S, Shortcut
from cutset.codegen.runtime.statistics import StageRecorders

LONG_S = 30 * LIMIT_S


class Stage:
    """Takes as long as it is told, and remembers which threads ran it."""

    device = "cpu"
    substitution = None

    def __init__(self) -> None:
        self.seconds = 0.0
        self.threads: list[int] = []

    def run(self, feeds):
        self.threads.append(threading.get_ident())
        if self.seconds:
            time.sleep(self.seconds)
        return {"t1": feeds["t0"]}

    def close(self) -> None:
        pass


def test_short_stages_run_on_the_thread_that_asks_and_long_ones_do_not(chain):
    stage, inputs = Stage(), {"t0": np.zeros(3, np.float32)}
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        pipeline.submit(inputs, here=True).result(10)
        assert threading.get_ident() not in stage.threads  # nothing is known yet
        for _ in range(200):  # a busy machine may take long over one of them
            assert pipeline.submit(inputs, here=True).result(10)["t1"] is inputs["t0"]
        assert stage.threads.count(threading.get_ident()) > 20
        stage.seconds = LONG_S
        stage.threads.clear()
        for _ in range(100):
            pipeline.submit(inputs, here=True).result(10)
        assert 1 <= stage.threads.count(threading.get_ident()) <= 8  # twice as many go elsewhere each time
        stage.threads.clear()
        pipeline.submit(inputs).result(10)
        assert threading.get_ident() not in stage.threads


def test_what_was_never_short_is_never_tried(chain):
    stage, inputs = Stage(), {"t0": np.zeros(3, np.float32)}
    stage.seconds = LONG_S
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        for _ in range(20):
            pipeline.submit(inputs, here=True).result(10)
    assert threading.get_ident() not in stage.threads


def test_penalties_double_are_bounded_and_forgotten(chain):
    recorders = StageRecorders()
    shortcut = Shortcut(chain(1).plan(), [recorders])
    assert not shortcut.open()
    recorders.service.add(LIMIT_S / 2)
    assert shortcut.open()

    def closed_for():
        count = 0
        while not shortcut.open():
            count += 1
        return count

    found = []
    for _ in range(20):
        shortcut.took(LONG_S)
        found.append(closed_for())
    assert found == [min(2**n, 2**16) for n in range(1, 21)]
    for _ in range(2**16):
        shortcut.took(LIMIT_S)
    shortcut.took(LONG_S)
    assert closed_for() == 2


@pytest.mark.parametrize("waiting", ["a process", "company"])
def test_what_would_be_waited_for_is_waited_for_elsewhere(chain, waiting):
    package = chain(1, **({"max_delay_s": 0.001} if waiting == "company" else {}))
    if waiting == "a process":
        package.document["stages"][0]["execution"] = "process"
        package.write()
    recorders = StageRecorders()
    recorders.service.add(0.0)
    assert not Shortcut(package.plan(), [recorders]).open()
