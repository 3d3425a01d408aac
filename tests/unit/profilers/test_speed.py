"""The same work tells how fast a machine was, whatever a few groups did meanwhile."""

from dataclasses import replace

import pytest

from cutset.profilers.repeats import Repeats, combine, comparable, pool
from cutset.profilers.speed import Speed, at_speed, same_work
from tests.profile_tables import make_group, make_session, make_table

TIMES = (1e-3, 2e-3, 3e-3, 4e-3)


def table(factor=1.0, extra=(), loaded=None, **fields):
    groups = [make_group(f"n{index}", value * factor) for index, value in enumerate(TIMES)]
    busy = () if loaded is None else (replace(make_session(loaded), workers=2),)
    return make_table(*groups, *extra, loaded=busy, **fields)


def total(found):
    return sum(group.latency_s for group in found.groups_on("cpu"))


def test_the_same_work():
    speed = same_work(table(), table(1.5))
    assert speed == Speed(factor=pytest.approx(1.5), error=pytest.approx(0, abs=1e-9), share=1.0, known=True)


def test_a_dearer_group_does_not_move_it():
    dearer = table(1.5, extra=[make_group("new", 5e-3)], sha256="b" * 64)
    assert same_work(table(), dearer).factor == pytest.approx(1.5)
    uneven = replace(dearer, groups=(replace(dearer.groups[0], latency_s=9e-3), *dearer.groups[1:]))
    assert same_work(table(), uneven).factor == pytest.approx(1.5)


def test_how_unevenly_the_groups_follow_is_its_error():
    def uneven(step):
        groups = [make_group(f"n{index}", value * (1.3 + step * index)) for index, value in enumerate(TIMES)]
        return same_work(table(), make_table(*groups)).error

    assert 0 < uneven(0.02) < uneven(0.1)


@pytest.mark.parametrize(
    "other",
    [
        make_table(make_group("n0"), make_group("n1")),
        make_table(*(make_group(f"other{index}") for index in range(9)), sha256="b" * 64),
        make_table(*(make_group(f"n{index}", 1e-6) for index in range(4))),
        make_table(*(make_group(f"n{index}", value, source="modelled") for index, value in enumerate(TIMES))),
    ],
    ids=["few", "other work", "too short for the clock", "not measured"],
)
def test_too_little_work_is_no_measure(other):
    assert not same_work(table(), other).known


def test_at_another_speed():
    slow = table(2.0, loaded=0.05, affine=(1.0, 2.0))
    found = at_speed(slow, {"cpu": Speed(factor=2.0, error=0.03, known=True)})
    assert total(found) == pytest.approx(total(table()))
    latency = found.session("cpu").latency_s
    assert (latency.median, latency.low, latency.high) == (pytest.approx(1e-2), pytest.approx(0.97e-2), pytest.approx(1.03e-2))
    assert found.session("cpu", loaded=True).latency_s.median == pytest.approx(0.025)
    assert found.affine == (0.5, 1.0)


def test_contention_is_that_of_the_other():
    found = at_speed(table(loaded=0.05), {}, contention_of=table(loaded=0.012))
    assert found.session("cpu", loaded=True).latency_s.median == pytest.approx(0.012)


def test_other_devices_and_models_of_one_stay():
    gpu = make_group("n0", 1e-5, device="gpu", source="modelled")
    found = at_speed(table(2.0, extra=[gpu]), {"cpu": Speed(factor=2.0), "gpu": Speed(factor=3.0)})
    assert found.groups_on("gpu") == (gpu,)


def test_repeats_become_one_at_the_speed_of_the_fastest():
    found = combine([table(1.5), table(), table(1.2)])
    assert found.speeds == (pytest.approx(1.5), pytest.approx(1.0), pytest.approx(1.2))
    assert total(found.table) == pytest.approx(total(table()))
    assert total(found.table) == pytest.approx(found.table.session("cpu").latency_s.median)


def test_the_median_of_repeats_leaves_out_what_happened_once():
    once = table()
    once = replace(once, groups=(replace(once.groups[0], latency_s=8e-3), *once.groups[1:]))
    pooled = pool([table(), once, table()])
    assert pooled.groups[0].latency_s == pytest.approx(1e-3)
    assert pool([once]) is once


def test_two_machines_of_one_speed():
    a, b, speed = comparable(Repeats(table=table()), Repeats(table=table(1.5)))
    assert total(b) == pytest.approx(total(a))
    assert speed.factor == pytest.approx(1.5)


def test_another_version_leaves_the_speed_in_the_noise():
    newer = table(1.5)
    newer = replace(newer, environment=newer.environment | {"packages": {"onnxruntime": "9"}})
    a, b, speed = comparable(Repeats(table=table(), speeds=(1.0, 1.4)), Repeats(table=newer, speeds=(0.9, 1.0)))
    assert not speed.known
    assert total(b) == pytest.approx(1.5 * total(a))
    assert a.session("cpu").latency_s.high == pytest.approx(1.4e-2)
    assert b.session("cpu").latency_s.low == pytest.approx(0.9 * 1.5e-2)
