"""A dead backend is replaced once a death, requests inside it are answered, and a hopeless one is given up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutset.codegen.runtime import ConfigError, Pipeline, StageError
from cutset.codegen.runtime.backends.base import BackendDied
from cutset.codegen.runtime.supervised import Supervised


class Mortal:
    """Answers until it has died."""

    device, substitution = "cpu", None

    def __init__(self, lives):
        self.left, self.closed = lives, False

    def run(self, feeds):
        if self.left <= 0:
            raise BackendDied("gone")
        self.left -= 1
        return {"t1": feeds["t0"] + 1}

    def close(self):
        self.closed = True


def test_requests_outlive_the_backend(chain):
    made = []

    def load():
        made.append(Mortal(10))
        return made[-1]

    plan = chain(1, cpu_workers=3).plan()
    with Pipeline(plan, [Supervised(load)]) as pipeline, ThreadPoolExecutor(6) as callers:
        results = list(callers.map(lambda n: pipeline.run({"t0": np.float32([n])})["t1"][0], range(60)))
        assert results == [number + 1 for number in range(60)]
        assert pipeline.ready
        assert pipeline.stats().stages[0].replaced == len(made) - 1 >= 5
        assert [backend.closed for backend in made[:-1]] == [True] * (len(made) - 1)


def test_one_that_dies_again_and_again_is_given_up(chain):
    with Pipeline(chain(1).plan(), [Supervised(lambda: Mortal(0))]) as pipeline:
        for _ in range(4):
            with pytest.raises(StageError):
                pipeline.run({"t0": np.float32([1])})
        assert not pipeline.ready
        with pytest.raises(StageError, match="given up after 3 deaths"):
            pipeline.run({"t0": np.float32([1])})
        assert pipeline.stats().stages[0].replaced == 3


def test_one_that_cannot_be_loaded_again_is_given_up(chain):
    loads = iter([Mortal(1)])

    def load():
        try:
            return next(loads)
        except StopIteration:
            raise ConfigError("the file is gone") from None

    with Pipeline(chain(1).plan(), [Supervised(load)]) as pipeline:
        assert pipeline.run({"t0": np.float32([1])})["t1"][0] == 2
        with pytest.raises(StageError, match="cannot be loaded again: the file is gone"):
            pipeline.run({"t0": np.float32([1])})
        assert not pipeline.ready
