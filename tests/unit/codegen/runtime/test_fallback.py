"""What a stage's backend refuses, the next one runs: counted, answered right, and no error of the request."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cutset.codegen.runtime import Pipeline, StageError
from cutset.codegen.runtime.backends.base import BackendDied, BackendError
from cutset.codegen.runtime.backends.fallback import Candidate, FallbackBackend, load_first
from cutset.codegen.runtime.supervised import Supervised
from tests.unit.codegen.runtime.engine_pipeline import engine_package, engines_on_host_memory

F32 = np.dtype("<f4")


class Limited:
    """Adds one to what has at most so many rows."""

    substitution = None

    def __init__(self, most: int, device: str = "gpu", error: type[Exception] = BackendError) -> None:
        self.most, self.device, self.error, self.runs, self.closed = most, device, error, 0, False

    def run(self, feeds):
        self.runs += 1
        if len(feeds["t0"]) > self.most:
            raise self.error(f"at most {self.most} rows")
        return {"t1": feeds["t0"] + 1}

    def close(self):
        self.closed = True


def candidates(*backends: Limited | BackendError):
    """Return a candidate for each backend, and the names of those that were loaded."""
    loaded: list[str] = []

    def load(name, backend):
        loaded.append(name)
        if isinstance(backend, BackendError):
            raise backend
        return backend

    found = [
        Candidate(name=f"b{index}", load=lambda n=f"b{index}", b=backend: load(n, b), failure=f"b{index} does not run it")
        for index, backend in enumerate(backends)
    ]
    return found, loaded


def rows(count: int) -> dict[str, np.ndarray]:
    return {"t0": np.zeros(count, F32)}


def test_a_run_goes_to_the_first_backend_that_takes_it():
    first, second, third = Limited(1), Limited(4), Limited(100, "cpu")
    found, loaded = candidates(first, second, third)
    backend = load_first(found)
    assert backend.run(rows(1))["t1"].tolist() == [1]
    assert (loaded, backend.fallbacks) == (["b0"], {}), "the others are loaded when they are needed"
    for count in (3, 4, 50, 2):
        assert backend.run(rows(count))["t1"].tolist() == [1] * count
    assert (loaded, backend.fallbacks) == (["b0", "b1", "b2"], {"b1": 3, "b2": 1})
    with pytest.raises(BackendError, match="at most 100 rows"):
        backend.run(rows(101))
    assert backend.fallbacks == {"b1": 3, "b2": 1}, "a run that nobody did counts for nobody"
    backend.close()
    assert [one.closed for one in (first, second, third)] == [True] * 3


def test_a_backend_that_does_not_load_is_passed_over_with_its_reason():
    found, loaded = candidates(BackendError("no GPU"), Limited(1), BackendError("no room"), Limited(9, "cpu"))
    backend = load_first(found)
    assert (backend.device, backend.substitution) == ("gpu", "b0 does not run it: no GPU")
    for _ in range(2):
        assert len(backend.run(rows(2))["t1"]) == 2
    assert loaded == ["b0", "b1", "b2", "b3"], "what does not load is asked once"
    assert backend.fallbacks == {"b3": 2}
    with pytest.raises(BackendError, match="no kernel"):
        load_first(candidates(BackendError("no GPU"), BackendError("no kernel"))[0])


def test_behind_the_cpu_there_is_nothing():
    found, loaded = candidates(Limited(1, "cpu"), Limited(9, "cpu"))
    backend = load_first(found)
    with pytest.raises(BackendError, match="at most 1 rows"):
        backend.run(rows(2))
    assert loaded == ["b0"]


def test_a_lost_backend_is_no_refusal():
    found, loaded = candidates(Limited(1, error=BackendDied), Limited(9, "cpu"))
    with pytest.raises(BackendDied):
        load_first(found).run(rows(2))
    assert loaded == ["b0"]


def test_the_log_says_it_once(caplog):
    backend = load_first(candidates(Limited(1), Limited(9, "cpu"))[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            backend.run(rows(2))
    assert [record.getMessage() for record in caplog.records] == ["a stage ran on b1, as later ones may: at most 1 rows"]


def test_threads_load_a_late_backend_once():
    found, loaded = candidates(Limited(1), Limited(9, "cpu"))
    backend = load_first(found)
    with ThreadPoolExecutor(8) as threads:
        assert all(len(one["t1"]) == 2 for one in threads.map(lambda _: backend.run(rows(2)), range(40)))
    assert (loaded, backend.fallbacks) == (["b0", "b1"], {"b1": 40})


def test_the_count_outlives_the_backend():
    def load():
        first = Limited(1)
        return FallbackBackend(first, None, candidates(Limited(3, error=BackendDied))[0])

    supervised = Supervised(load)
    supervised.run(rows(2))
    with pytest.raises(BackendDied, match="at most 3 rows"):
        supervised.run(rows(4))
    assert supervised.replaced == 1
    assert supervised.fallbacks == {"b0": 1}


@pytest.mark.parametrize(("cuda", "name"), [(True, "onnxruntime-cuda"), (False, "onnxruntime-cpu")])
def test_a_request_outside_the_range_of_an_engine_is_answered(package, cuda, name):
    """By onnxruntime on the same GPU, or on the CPU where the GPU has no room; with whole batches in between."""
    folder = engine_package(package)
    shapes = [(3, 3), (8, 3), (9, 3), (2, 5), (0, 3), (1, 3), (0, 0)]
    outside = sum(not (1 <= n <= 8 and m == 3) for n, m in shapes)
    with engines_on_host_memory(cuda=cuda) as engines, Pipeline.load(folder) as pipeline:
        for shape in shapes:
            x = np.random.default_rng(0).normal(size=shape).astype(F32)
            found = pipeline.run({"x": x})
            np.testing.assert_array_equal(found["y"], 2 * x)
            np.testing.assert_array_equal(found["z"], x)
        (stage,) = pipeline.stats().stages
        assert (stage.device, stage.count, stage.failed) == ("gpu", len(shapes), 0)
        assert stage.fallbacks == {name: outside}
        assert sum(context.runs for context in engines[0].contexts) == len(shapes) - outside
        engines[0].contexts[0].refuse = True
        pipeline.run({"x": np.ones((3, 3), F32)})
        assert pipeline.stats().stages[0].fallbacks == {name: outside + 1}, "an engine that fails is helped out, too"


def test_what_no_backend_runs_is_the_request_s_own_error(package):
    folder = engine_package(package)
    with engines_on_host_memory(cuda=False), Pipeline.load(folder) as pipeline:
        pipeline._executor._phases[0].backend._held.backend._others[-1]._failure = "lost"
        with pytest.raises(StageError, match="lost"):
            pipeline.run({"x": np.ones((9, 3), F32)})
        assert pipeline.run({"x": np.ones((1, 3), F32)})["y"].tolist() == [[2, 2, 2]]
