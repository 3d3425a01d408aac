"""The bound on memory held in common: never exceeded by two, never stuck, and everything comes back."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.codegen.runtime import budget as module
from cutset.codegen.runtime.budget import BudgetExceeded, MemoryBudget, default_limit
from cutset.codegen.runtime.service import verdict


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 120)), max_size=40))
def test_the_sum_is_bounded_and_a_refusal_changes_nothing(steps):
    budget = MemoryBudget(100)
    leases = [budget.lease() for _ in range(4)]
    for number, size in steps:
        before = [lease.size_bytes for lease in leases]
        others = sum(before) - before[number]
        fits = size <= before[number] or others == 0 or others + size <= 100
        if fits:
            leases[number].resize(size)
            before[number] = size
        else:
            with pytest.raises(BudgetExceeded, match="--max-held-mb"):
                leases[number].resize(size)
        assert [lease.size_bytes for lease in leases] == before
        assert budget.held_bytes == sum(before)
    for lease in leases:
        lease.release()
        lease.release()
    assert budget.held_bytes == 0


def test_a_request_that_fails_gives_everything_back():
    budget = MemoryBudget(100)

    def fail():
        with budget.lease() as lease:
            lease.grow(60)
            lease.grow(30)
            assert budget.held_bytes == 90
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    assert budget.held_bytes == 0


def test_threads_lose_no_byte():
    budget = MemoryBudget(10**9)

    def work():
        with budget.lease() as lease:
            for _ in range(2000):
                lease.grow(1)
            lease.resize(7)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert budget.held_bytes == 0


def test_a_refusal_says_when_to_ask_again():
    found = verdict(BudgetExceeded("full"))
    assert (found.http, found.grpc, found.retry_after_s) == (503, "RESOURCE_EXHAUSTED", 1.0)


@pytest.mark.parametrize(("text", "expected"), [("max\n", None), ("4096\n", 1024), ("not a number", None)])
def test_the_default_is_a_quarter_of_what_the_container_has(tmp_path, monkeypatch, text, expected):
    (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr(module, "_CGROUP_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "none")))
    machine = module.os.sysconf("SC_PAGE_SIZE") * module.os.sysconf("SC_PHYS_PAGES")
    assert default_limit(10) == (expected or machine // 4)
    assert default_limit(machine) == machine
