"""The order in which a pool's workers take requests."""

from __future__ import annotations

import threading

from cutset.codegen.runtime.context import Context, ImmediateResult
from cutset.codegen.runtime.pool import WorkerPool


def _context(name, phase):
    context = Context({"name": name}, None, ImmediateResult())
    context.phase = phase
    return context


def test_later_phases_first_and_first_come_first_served_within_one():
    order, release, held = [], threading.Event(), threading.Event()

    def advance(context, pool):
        order.append(context.tensors["name"])
        held.set()
        assert release.wait(10)

    pool = WorkerPool("test", threads=1, phases=[1] * 3, advance=advance)
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
    pool = WorkerPool("test", threads=4, phases=[1] * 5, advance=lambda context, pool: taken.append(context.tensors["name"]))
    for number in range(500):
        pool.put(_context(number, number % 5))
    pool.stop()
    assert sorted(taken) == list(range(500))


def test_a_phase_of_batches_starts_beside_another_run_only_when_one_is_full():
    """The first runs at once; of the next five, four are a batch of their own; the last waits for whoever comes free."""
    order, release, begun = [], threading.Event(), threading.Semaphore(0)

    def advance(context, pool):
        members = [context]
        pool.gather(1, lambda other: members.append(other) is None, full=lambda: len(members) == 4, until=None)
        order.append([member.tensors["name"] for member in members])
        begun.release()
        assert release.wait(10)

    pool = WorkerPool("test", threads=3, phases=[1, 4], advance=advance)
    pool.put(_context("a", 1))
    assert begun.acquire(timeout=10)
    for name in "bcd":
        pool.put(_context(name, 1))
    assert pool.depth(1) == 3, "not worth a run beside another"
    pool.put(_context("e", 1))
    assert begun.acquire(timeout=10)
    pool.put(_context("f", 1))
    assert order == [["a"], ["b", "c", "d", "e"]]
    assert pool.depth(1) == 1
    release.set()
    pool.stop()
    assert sorted(map(tuple, order)) == [("a",), ("b", "c", "d", "e"), ("f",)]


def test_more_than_a_batch_is_shared_out_at_once():
    taken, begun, release = [], threading.Semaphore(0), threading.Event()

    def advance(context, pool):
        members = [context]
        pool.gather(0, lambda other: members.append(other) is None, full=lambda: len(members) == 2, until=None)
        taken.extend(member.tensors["name"] for member in members)
        begun.release()
        assert release.wait(10)

    pool = WorkerPool("test", threads=3, phases=[2], advance=advance)
    for number in range(6):
        pool.put(_context(number, 0))
    for _ in range(3):
        assert begun.acquire(timeout=10)
    release.set()
    pool.stop()
    assert sorted(taken) == list(range(6))
