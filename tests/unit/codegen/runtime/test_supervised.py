"""A dead backend is replaced once a death, requests that did not kill are answered, and what dies for ever is given up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutset.codegen.runtime import ConfigError, Pipeline, StageError
from cutset.codegen.runtime.backends.base import BackendDied, BackendError, BackendGone
from cutset.codegen.runtime.supervised import Supervised, Turns

POISON = -1.0


class Mortal:
    """Answers until it has died; a poisonous row kills it."""

    device, substitution = "cpu", None

    def __init__(self, lives=10**9):
        self.left, self.closed = lives, False

    def run(self, feeds):
        if self.left <= 0:
            raise BackendDied("gone")
        if np.any(feeds["t0"] == POISON):
            self.left = 0
            raise BackendDied("killed")
        self.left -= 1
        return {"t1": feeds["t0"] + 1}

    def close(self):
        self.closed = True


class Tired(Mortal):
    """Dies after ten runs, each time of a request that saw no death yet; later runs find it gone."""

    def __init__(self, killers):
        super().__init__(10)
        self.killers, self.dead = killers, False

    def run(self, feeds):
        if self.dead:
            raise BackendGone("gone")
        if self.left <= 0 and feeds["t0"][0] not in self.killers:
            self.killers.add(feeds["t0"][0])
            self.dead = True
            raise BackendDied("killed")
        self.left -= 1
        return {"t1": feeds["t0"] + 1}


class Shared(Mortal):
    """Two runs at once; what kills one of them kills both, and later runs find it gone."""

    device, slots = "gpu", 2

    def __init__(self):
        super().__init__()
        self.inside = threading.Semaphore(0)
        self.died = threading.Event()
        self.alone = []

    def run(self, feeds):
        if self.died.is_set():
            raise BackendGone("gone")
        if feeds["t0"][0] == POISON:
            self.inside.acquire(timeout=0.2)  # a good run beside it, where there is one
            self.died.set()
            raise BackendDied("killed")
        self.inside.release()
        if self.died.wait(0.2):
            raise BackendDied("killed by the other")
        return {"t1": feeds["t0"] + 1}


def row(value):
    return {"t0": np.float32([value])}


def test_requests_outlive_the_backend(chain):
    made, killers = [], set()

    def load():
        made.append(Tired(killers))
        return made[-1]

    plan = chain(1, cpu_workers=3).plan()
    with Pipeline(plan, [Supervised(load)]) as pipeline, ThreadPoolExecutor(6) as callers:
        results = list(callers.map(lambda n: pipeline.run(row(n))["t1"][0], range(60)))
        assert results == [number + 1 for number in range(60)]
        assert pipeline.ready
        assert pipeline.stats().stages[0].replaced == len(made) - 1 >= 5
        assert [backend.closed for backend in made[:-1]] == [True] * (len(made) - 1)


def test_a_request_that_kills_twice_is_failed_and_others_are_answered(chain):
    made = []

    def load():
        made.append(Mortal())
        return made[-1]

    with Pipeline(chain(1).plan(), [Supervised(load)]) as pipeline:
        for round_ in range(1, 4):
            with pytest.raises(StageError, match="ended the stage's backend 2 times"):
                pipeline.run(row(POISON))
            assert len(made) == 1 + 2 * round_
            assert pipeline.run(row(1))["t1"] == 2
            assert (pipeline.ready, pipeline.live) == (True, True)


def test_the_members_of_a_batch_are_run_alone(chain):
    """The batch is one death of each member, so the poisonous member's own run is its second, and its last."""
    package = chain(1, cpu_workers=1, max_batch=8, tokens=4)
    package.document["stages"][0]["batching"] = {"proven": True}
    package.write()
    loaded, gate = [], threading.Event()

    class Gated(Mortal):
        def run(self, feeds):
            gate.wait(20)
            return super().run(feeds)

    def load():
        loaded.append(Gated())
        return loaded[-1]

    with Pipeline(package.plan(), [Supervised(load)]) as pipeline:
        first = pipeline.submit(row(0))  # holds the worker, so that the others wait together
        rest = [pipeline.submit(row(value)) for value in (1, POISON, 2)]
        gate.set()
        assert first.result(20)["t1"] == 1
        assert rest[0].result(20)["t1"] == 2
        with pytest.raises(StageError, match="2 times"):
            rest[1].result(20)
        assert rest[2].result(20)["t1"] == 3
        assert pipeline.ready
    assert len(loaded) == 3


def test_a_run_beside_the_killer_is_not_blamed(chain):
    package = chain(1, devices=("gpu",), tokens=2)
    with Pipeline(package.plan(), [Supervised(Shared, turns=Turns())]) as pipeline:
        for _ in range(5):
            good, poison = pipeline.submit(row(1)), pipeline.submit(row(POISON))
            assert good.result(20)["t1"] == 2
            with pytest.raises(StageError, match="2 times"):
                poison.result(20)


def test_three_deaths_in_a_row_are_not_live_until_a_run_succeeds(chain):
    now, lives = [0.0], [0]
    stage = Supervised(lambda: Mortal(lives[0]), clock=lambda: now[0])
    with Pipeline(chain(1).plan(), [stage]) as pipeline:
        for deaths in (2, 4, 6):
            with pytest.raises(StageError, match="2 times: gone"):
                pipeline.run(row(1))
            assert pipeline.ready is pipeline.live is (deaths < 3)
        with pytest.raises(StageError, match="died 6 times in a row"):
            pipeline.run(row(1))
        assert stage.replaced == 5  # no load while it pauses
        lives[0], now[0] = 5, 2.0
        assert pipeline.run(row(1))["t1"] == 2
        assert (pipeline.ready, pipeline.live) == (True, True)


def test_a_good_request_behind_two_that_kill_is_answered(chain):
    """Four deaths in a row ask for a new process, but until one comes nobody else's request fails."""
    with Pipeline(chain(1).plan(), [Supervised(Mortal)]) as pipeline:
        for _ in range(2):
            with pytest.raises(StageError, match="2 times"):
                pipeline.run(row(POISON))
        assert not pipeline.live
        assert pipeline.run(row(1))["t1"] == 2
        assert (pipeline.ready, pipeline.live) == (True, True)


def test_one_that_cannot_be_loaded_again_is_given_up(chain):
    loads = iter([Mortal(1)])

    def load():
        try:
            return next(loads)
        except StopIteration:
            raise ConfigError("the file is gone") from None

    with Pipeline(chain(1).plan(), [Supervised(load)]) as pipeline:
        assert pipeline.run(row(1))["t1"] == 2
        with pytest.raises(StageError, match="cannot be loaded again: the file is gone"):
            pipeline.run(row(1))
        assert (pipeline.ready, pipeline.live) == (False, False)


def test_nothing_is_loaded_after_the_end():
    made = []

    def load():
        made.append(Mortal())
        return made[-1]

    stage = Supervised(load)
    stage.close()
    with pytest.raises(BackendError, match="closed"):
        stage.run(row(POISON))
    assert [backend.closed for backend in made] == [True]


def test_a_run_alone_waits_for_the_others_and_they_for_it():
    turns, inside, seen = Turns(), [0, 0], []

    def work(number):
        alone = number % 5 == 0
        with turns.take(alone=alone):
            inside[alone] += 1
            time.sleep(0.0005)
            seen.append(inside[1] > 1 or (inside[1] and inside[0]))
            inside[alone] -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(100)))
    assert len(seen) == 100
    assert not any(seen)
