"""Disturbed runs do not count, and the affine fit finds the line that made the numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.profilers.timing import (
    CALM,
    MIN_RUNS,
    SETTLED_RUNS,
    Run,
    fit_affine,
    repeat,
    settled,
    summarise,
    time_once,
    undisturbed,
)


def runs(*, quiet, disturbed=0, wall=1.0, cpu=0.5):
    return [Run(wall_s=wall + i, cpu_s=cpu + i, quiet=True) for i in range(quiet)] + [
        Run(wall_s=100.0 + i, cpu_s=cpu, quiet=False) for i in range(disturbed)
    ]


def test_five_quiet_runs_decide_by_the_wall():
    found = summarise(runs(quiet=5, disturbed=20))
    assert (found.median, found.clock, found.samples, found.runs) == (3.0, "wall", 5, 25)
    assert found.p10 == pytest.approx(1.4)
    assert found.p90 == pytest.approx(4.6)


def test_with_four_quiet_runs_the_cpu_clock_decides():
    found = summarise(runs(quiet=4, disturbed=6))
    assert (found.clock, found.samples, found.runs) == ("cpu", 10, 10)
    assert found.median == 0.5


def test_several_threads_never_use_the_caller_s_cpu_time():
    found = summarise(runs(quiet=2, disturbed=3), threads=2)
    assert (found.clock, found.median, found.samples) == ("wall", 100.0, 5)
    assert summarise(runs(quiet=5, disturbed=3), threads=2).median == 3.0


@pytest.mark.parametrize(("budget_s", "max_runs", "made"), [(0.0, 30, MIN_RUNS), (60.0, 7, 7), (0.0, 1, MIN_RUNS)])
def test_runs_made(budget_s, max_runs, made):
    calls = []
    found = repeat(lambda: calls.append(1), budget_s=budget_s, max_runs=max_runs, warmup=3)
    assert len(found) == made
    assert len(calls) == made + 3


def test_calm_runs_alone_count_where_there_are_enough():
    made = [*runs(quiet=8), *runs(quiet=0, disturbed=1)]
    slowness = np.array([1.0, CALM, CALM + 0.01, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0])
    assert undisturbed(made, slowness).tolist() == [True, True, False, True, True, True, False, False, False]
    slowness[0] = 2.0
    assert undisturbed(made, slowness).tolist() == [True] * 8 + [False]


class Slow:
    """A gauge that finds the machine as slow as its readings say."""

    def slowness(self, readings):
        return np.array(readings)


def test_on_a_disturbed_machine_nothing_settles():
    def made(count, slowness):
        return [Run(wall_s=1.0, cpu_s=1.0, quiet=True, gauge_s=slowness)] * count

    assert settled(made(SETTLED_RUNS, 1.0), Slow())
    assert settled(made(SETTLED_RUNS, 2.0), None)
    assert not settled(made(SETTLED_RUNS - 1, 1.0) + made(100, 2.0), Slow())
    assert settled(made(SETTLED_RUNS, 1.0) + made(100, 2.0), Slow())


def test_a_run_has_plausible_times():
    found = time_once(lambda: sum(range(20_000)))
    assert found.cpu_s > 0
    assert found.wall_s > 0


POSITIVE = st.floats(1e-6, 1e3)


@given(a=st.one_of(st.just(0.0), POSITIVE), c=POSITIVE, batches=st.sets(st.integers(1, 256), min_size=2, max_size=4))
def test_the_fit_recovers_an_exact_line(a, c, batches):
    batches = sorted(batches)
    found = fit_affine(batches, [a + c * b for b in batches])
    predicted = [found[0] + found[1] * b for b in batches]
    assert predicted == pytest.approx([a + c * b for b in batches], rel=1e-6)
    assert found == pytest.approx((a, c), rel=1e-3, abs=1e-5 * (a + c))


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(1e-4, 10)), min_size=2, max_size=5, unique_by=lambda pair: pair[0]))
def test_the_fixed_part_is_never_negative(pairs):
    batches, seconds = [b for b, _ in pairs], [t for _, t in pairs]
    assert fit_affine(batches, seconds)[0] >= 0


def test_a_superlinear_cost_is_fitted_through_the_origin():
    a, c = fit_affine([1, 2, 4], [1.0, 3.0, 9.0])
    assert a == 0
    ratios = np.array([1 / 1, 2 / 3, 4 / 9])
    assert c == pytest.approx(ratios.sum() / (ratios**2).sum())
    error = [((1 - k * ratios) ** 2).sum() for k in (c * 0.99, c, c * 1.01)]
    assert error[1] < min(error[0], error[2])
