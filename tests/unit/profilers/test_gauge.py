"""What slows the whole machine is divided out of a measurement, and nothing else is."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.profilers.gauge import POWER_APART, USUAL_POWER, Gauge, slowdown
from cutset.profilers.timing import CALM, SETTLED_RUNS, Run, at_own_speed, await_calm, repeat, settled, summarise


def test_a_reading_is_a_plausible_time():
    speed = Gauge()
    assert speed.own_s == 0.0
    readings = [speed.read() for _ in range(20)]
    assert min(readings) <= speed.own_s <= max(readings)
    assert 1e-6 < speed.own_s < 0.1


def test_an_earlier_process_may_have_seen_the_machine_quicker():
    speed = Gauge()
    speed.remember(1e-9)
    speed.remember(0.0)
    speed.read()
    assert speed.own_s == 1e-9
    assert speed.slowness([2e-9, 1e-12]) == pytest.approx([2.0, 1.0])


@given(st.lists(st.floats(1.0, 3.0), min_size=1, max_size=40))
def test_a_program_suffers_less_than_the_gauge_and_never_gains(slowness):
    by = slowdown(np.array(slowness))
    assert np.all((by >= 1.0) & (by <= np.array(slowness)))
    assert slowdown(np.ones(3)).tolist() == [1.0] * 3


class Script(Gauge):
    """A gauge that reads what it is told."""

    def __init__(self, readings):
        super().__init__()
        self.script = iter(readings)

    def read(self):
        self._readings.append(next(self.script))
        return self._readings[-1]


def test_runs_on_a_slow_machine_count_as_if_it_had_been_left_alone():
    speed = Script([1.0] * 10 + [2.0] * 20)
    for _ in range(30):
        speed.read()
    runs = [Run(wall_s=0.1, cpu_s=0.1, quiet=True, gauge_s=1.0)] * 10
    runs += [Run(wall_s=0.168, cpu_s=0.168, quiet=True, gauge_s=2.0)] * 20
    assert summarise(runs).median == pytest.approx(0.168)
    assert summarise(at_own_speed(runs, speed)).median == pytest.approx(0.1, rel=0.02)


def test_what_was_made_in_calm_moments_counts_alone_where_it_is_enough():
    """A correction is never exact: these took longer in disturbed moments than what the gauge explains."""
    speed = Script([1.0])
    speed.read()
    disturbed = [Run(wall_s=0.4, cpu_s=0.4, quiet=True, gauge_s=2.0)] * 60
    for calm, median in ((SETTLED_RUNS, 0.1), (SETTLED_RUNS - 1, 0.4 / 2.0**USUAL_POWER)):
        found = at_own_speed([*disturbed, *[Run(wall_s=0.1, cpu_s=0.1, quiet=True, gauge_s=1.0)] * calm], speed)
        assert summarise(found).median == pytest.approx(median)
        assert summarise(found).runs == 60 + calm


def test_the_interval_holds_what_the_correction_may_be_off():
    """Equal runs: the interval is as wide as programs differ, and on a disturbed machine no number of them settles it."""
    speed = Script([1.0])
    speed.read()
    for slowness, sure in ((1.0, True), (1.15, True), (CALM, False), (2.0, False)):
        runs = [Run(wall_s=0.1, cpu_s=0.1, quiet=True, gauge_s=slowness)] * 1000
        found = summarise(at_own_speed(runs, speed))
        assert found.low == pytest.approx(found.median / slowness**POWER_APART)
        assert found.high == pytest.approx(found.median * slowness**POWER_APART)
        assert found.settled == settled(runs, speed) == sure


def test_what_networks_take_on_a_slowed_machine_lies_in_the_interval():
    """Whatever a program's own power is, from the least to the most that was seen, the truth is inside."""
    speed = Script([1.0])
    speed.read()
    for power in (USUAL_POWER - POWER_APART, USUAL_POWER, USUAL_POWER + POWER_APART):
        for slowness in (1.3, 1.6, 2.0):
            found = summarise(at_own_speed([Run(wall_s=slowness**power, cpu_s=1.0, quiet=True, gauge_s=slowness)] * 10, speed))
            assert found.low <= 1 + 1e-9
            assert found.high >= 1 - 1e-9


def test_the_gauge_is_read_between_the_runs():
    speed = Script(np.arange(1.0, 100.0))
    runs = repeat(lambda: None, budget_s=0.0, warmup=0, speed=speed)
    assert [run.gauge_s for run in runs] == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_a_calm_moment_is_waited_for_as_long_as_there_is_time():
    speed = Script([2.0, 1.9, 1.1, 2.0])
    speed.remember(1.0)
    await_calm(speed, until=math.inf)
    assert next(speed.script) == 2.0  # the third reading was calm
    await_calm(speed, until=time.perf_counter())  # nor is it read when the time is up
    assert list(speed.script) == []
