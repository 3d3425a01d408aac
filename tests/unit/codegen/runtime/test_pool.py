"""The order in which a pool's workers take requests."""

from __future__ import annotations

import threading

from cutset.codegen.runtime.context import Context
from cutset.codegen.runtime.pool import WorkerPool


def _context(name, phase):
    context = Context({"name": name}, None)
    context.phase = phase
    return context


def test_later_phases_first_and_first_come_first_served_within_one():
    order, release, held = [], threading.Event(), threading.Event()

    def advance(context, pool):
        order.append(context.tensors["name"])
        held.set()
        assert release.wait(10)

    pool = WorkerPool("test", threads=1, phases=3, advance=advance)
    pool.put(_context("held", 0))
    assert held.wait(10)
    for name, phase in [("a0", 0), ("b2", 2), ("c1", 1), ("d2", 2), ("e0", 0)]:
        pool.put(_context(name, phase))
    assert [pool.depth(phase) for phase in range(3)] == [2, 1, 2]
    release.set()
    pool.stop()
    assert order == ["held", "b2", "d2", "c1", "a0", "e0"]


def test_every_request_is_taken_once_by_several_workers():
    taken = []
    pool = WorkerPool("test", threads=4, phases=5, advance=lambda context, pool: taken.append(context.tensors["name"]))
    for number in range(500):
        pool.put(_context(number, number % 5))
    pool.stop()
    assert sorted(taken) == list(range(500))
