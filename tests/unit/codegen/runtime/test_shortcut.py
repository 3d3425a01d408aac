"""An event loop computes what is short, on its own thread, and keeps away from what is not."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import Future

import numpy as np
import pytest

from cutset.codegen.runtime import Pipeline
from cutset.codegen.runtime.errors import Closed, DeadlineExceeded, InputError, Overloaded, StageError
from cutset.codegen.runtime.schedule import build_phases
from cutset.codegen.runtime.shortcut import LIMIT_S, Shortcut
from cutset.codegen.runtime.statistics import StageRecorders

LONG_S = 30 * LIMIT_S


class Stage:
    """Takes as long as it is told, and remembers which threads ran it."""

    device = "cpu"
    substitution = None

    def __init__(self) -> None:
        self.seconds = 0.0
        self.error = ""
        self.hold: threading.Event | None = None
        self.held = threading.Event()
        self.threads: list[int] = []

    def run(self, feeds):
        self.threads.append(threading.get_ident())
        if self.error:
            raise RuntimeError(self.error)
        if self.hold:
            self.held.set()
            assert self.hold.wait(10)
        if self.seconds:
            time.sleep(self.seconds)
        return {"t1": feeds["t0"]}

    def close(self) -> None:
        pass


def answer(pipeline, inputs, deadline=None):
    found = pipeline.answer(inputs, deadline)
    return found.result(10) if isinstance(found, Future) else found


def test_short_stages_run_on_the_thread_that_asks_and_long_ones_do_not(chain):
    stage, inputs = Stage(), {"t0": np.zeros(3, np.float32)}
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        answer(pipeline, inputs)
        assert threading.get_ident() not in stage.threads  # nothing is known yet
        for _ in range(200):  # a busy machine may take long over one of them
            assert answer(pipeline, inputs)["t1"] is inputs["t0"]
        assert stage.threads.count(threading.get_ident()) > 20
        stage.seconds = LONG_S
        stage.threads.clear()
        for _ in range(100):
            answer(pipeline, inputs)
        assert 1 <= stage.threads.count(threading.get_ident()) <= 8  # twice as many go elsewhere each time
        stage.threads.clear()
        pipeline.submit(inputs).result(10)
        assert threading.get_ident() not in stage.threads


def test_what_was_never_short_is_never_tried(chain):
    stage, inputs = Stage(), {"t0": np.zeros(3, np.float32)}
    stage.seconds = LONG_S
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        for _ in range(20):
            answer(pipeline, inputs)
    assert threading.get_ident() not in stage.threads


def test_penalties_double_are_bounded_and_forgotten(chain):
    recorders = StageRecorders()
    plan = chain(1).plan()
    shortcut = Shortcut(plan, build_phases(plan, [Stage()]), [recorders])
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


@pytest.mark.parametrize("waiting", ["a process", "company", "a device"])
def test_what_would_be_waited_for_is_waited_for_elsewhere(chain, waiting):
    package = chain(1, **({"max_delay_s": 0.001} if waiting == "company" else {}))
    if waiting == "a process":
        package.document["stages"][0]["execution"] = "process"
        package.write()
    recorders = StageRecorders()
    recorders.service.add(0.0)
    plan, stage = package.plan(), Stage()
    if waiting == "a device":
        stage.device = "gpu"
    assert not Shortcut(plan, build_phases(plan, [stage]), [recorders]).open()


def test_an_error_is_raised_here_too_and_the_next_request_is_answered(chain):
    stage, inputs = Stage(), {"t0": np.zeros(3, np.float32)}
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        for _ in range(20):
            answer(pipeline, inputs)
        stage.error = "odd"
        for _ in range(5):
            with pytest.raises(StageError, match="odd"):
                answer(pipeline, inputs)
        stage.error = ""
        with pytest.raises(InputError):
            pipeline.answer({})
        with pytest.raises(DeadlineExceeded):
            answer(pipeline, inputs, time.monotonic() - 1)
        assert answer(pipeline, inputs)["t1"] is inputs["t0"]
        stats = pipeline.stats()
        assert (stats.completed, stats.failed, stats.inside) == (21, 7, 0)
    with pytest.raises(Closed):
        pipeline.answer(inputs)


def test_a_failure_keeps_no_tensor_alive(chain, monkeypatch):
    stage = Stage()
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        monkeypatch.setattr(pipeline._shortcut, "open", lambda: True)  # a busy machine may have closed it just now
        array = np.zeros(3, np.float32)
        alive, stage.error = weakref.ref(array), "odd"
        gc.disable()
        try:
            with pytest.raises(StageError, match="odd"):
                pipeline.answer({"t0": array})
            assert stage.threads == [threading.get_ident()]
            del array
            assert alive() is None
        finally:
            gc.enable()


def test_what_finds_the_workers_or_the_door_busy_waits_its_turn(chain):
    stage, inputs = Stage(), {"t0": np.zeros(3, np.float32)}
    with Pipeline(chain(1, cpu_workers=1, tokens=2, queue_limit=1).plan(), [stage]) as pipeline:
        for _ in range(20):
            answer(pipeline, inputs)
        stage.hold = threading.Event()
        under_way = [pipeline.submit(inputs)]
        assert stage.held.wait(10)
        under_way += [pipeline.answer(inputs), pipeline.answer(inputs)]  # one inside, one in the line
        assert all(isinstance(found, Future) for found in under_way)
        with pytest.raises(Overloaded):
            pipeline.answer(inputs)
        stage.hold.set()
        for found in under_way:
            assert found.result(10)["t1"] is inputs["t0"]
