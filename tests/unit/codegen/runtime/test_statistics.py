"""What a recorder says is what was added, whenever and from whichever thread it was added and asked."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.codegen.runtime.statistics import ROW_BOUNDS, Recorder

SIZES = st.lists(st.floats(0.0, 300.0), max_size=200)


@given(SIZES, st.sets(st.integers(0, 199)))
def test_it_says_what_was_added(sizes, asked_after):
    recorder = Recorder(ROW_BOUNDS)
    assert (recorder.count, recorder.total, recorder.least) == (0, 0.0, math.inf)
    for number, size in enumerate(sizes):
        recorder.add(size)
        if number in asked_after:
            assert recorder.count == number + 1
    assert recorder.count == len(sizes)
    assert recorder.total == pytest.approx(sum(sizes))
    assert recorder.least == min(sizes, default=math.inf)
    found = recorder.distribution()
    assert found.counts == tuple(sum(size <= bound for size in sizes) for bound in (*ROW_BOUNDS, math.inf))
    if sizes:
        service = recorder.service()
        assert service.mean_s == pytest.approx(sum(sizes) / len(sizes))
        assert service.p50_s == sorted(sizes)[len(sizes) // 2]


def test_percentiles_are_of_the_last_runs():
    recorder = Recorder()
    for size in [5.0] * 3000 + [1.0] * 2048:
        recorder.add(size)
    assert recorder.service().p99_s == 1.0
    assert recorder.count == 5048


def test_nothing_is_lost_between_threads():
    recorder = Recorder()

    def work(_number):
        for _ in range(5000):
            recorder.add(1.0)
        return recorder.count

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(work, range(4)))
    assert max(seen) == recorder.count == recorder.total == 20000
