"""What is given is filled up to a number of rows that the stage was loaded for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cutset.codegen.runtime.backends.base import BackendDied, BackendError
from cutset.codegen.runtime.backends.device import Parts, as_array
from cutset.codegen.runtime.backends.sized import SizedBackend, sizes_up_to
from cutset.codegen.runtime.schedule import tokens


class Doubling:
    """A stage y = 2 x that remembers what it was given."""

    device, slots, substitution = "gpu", 3, None

    def __init__(self, rows: int | None) -> None:
        self.rows, self.given, self.closed = rows, [], False

    def run(self, feeds):
        x = as_array(feeds["x"])
        assert self.rows in (None, len(x))
        self.given.append(x)
        return {"y": 2 * x}

    def close(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("most", "sizes"), [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_sizes(most, sizes):
    assert sizes_up_to(most) == sizes


@pytest.mark.parametrize("rows", range(1, 12))
def test_rows_are_filled_with_valid_ones_and_cut_off_again(rows):
    loaded: dict[int | None, Doubling] = {}
    backend = SizedBackend(lambda size: loaded.setdefault(size, Doubling(size)), 8)
    x = np.arange(1, 1 + 2 * rows).reshape(rows, 2)
    for value in (x, Parts([x[:1], x[1:]]) if rows > 1 else x):
        np.testing.assert_array_equal(backend.run({"x": value})["y"], 2 * x)
    size = next((size for size in (1, 2, 4, 8) if size >= rows), None)
    assert [one.rows for one in loaded.values() if one.given] == [size]
    for given in loaded[size].given:
        assert (given[rows:] == x[0]).all()
    backend.close()
    assert all(one.closed for one in loaded.values())


def test_no_rows_run_where_any_number_of_rows_does():
    loaded: dict[int | None, Doubling] = {}
    backend = SizedBackend(lambda size: loaded.setdefault(size, Doubling(size)), 2)
    assert backend.run({"x": np.zeros((0, 2))})["y"].shape == (0, 2)
    assert [one.rows for one in loaded.values() if one.given] == [None]


def test_a_device_too_small_for_all_sizes():
    def load(rows):
        if rows in (None, 4):
            raise BackendError("out of memory")
        return Doubling(rows)

    backend = SizedBackend(load, 8)
    assert (backend.max_batch, list(backend.sized)) == (2, [1, 2])
    with pytest.raises(BackendError, match="out of memory"):
        backend.run({"x": np.zeros((3, 2))})
    with pytest.raises(BackendError, match="not even one"):
        SizedBackend(lambda rows: (_ for _ in ()).throw(BackendError("not even one")), 8)


def test_a_device_that_is_lost_while_it_loads():
    loaded = []

    def load(rows):
        if rows == 4:
            raise BackendDied("gone")
        loaded.append(Doubling(rows))
        return loaded[-1]

    with pytest.raises(BackendDied, match="gone"):
        SizedBackend(load, 8)
    assert [one.closed for one in loaded] == [True, True]


def test_inputs_of_different_rows():
    backend = SizedBackend(Doubling, 2)
    with pytest.raises(BackendError, match="the same number"):
        backend.run({"x": np.zeros((1, 2)), "w": np.zeros((2, 2))})


@pytest.mark.parametrize(("planned", "most", "inside"), [(1, 1, 30), (1, 8, 240), (8, 8, 30), (8, 1, 30), (8, 16, 60)])
def test_a_plan_that_knows_of_batches_counts_their_requests(planned, most, inside):
    plan = SimpleNamespace(tokens=30, planned_rows=planned)
    assert tokens(plan, (SimpleNamespace(max_batch=1), SimpleNamespace(max_batch=most))) == inside
