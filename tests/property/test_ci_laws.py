"""Laws of judging: a machine's speed is no regression, more work is one, limits and files change nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from cutset.codegen.ci.baseline import Baseline, read_baseline, updated, write_baseline
from cutset.codegen.ci.judge import judge
from cutset.codegen.ci.limits import CHECKS
from tests.ci_records import case_of, judged, parse_limits, plan, record, worse
from tests.profile_tables import make_group, make_session, make_table

QUICK = settings(max_examples=40, deadline=None)
FACTORS = st.floats(0.4, 2.5)
TIMES = st.lists(st.floats(5e-4, 2e-3), min_size=20, max_size=40)
JITTER = 0.02
"""So much any group may be off by itself: both bounds of the ratio of a total to the median group are then within 4.1 %."""


def table(times, *, extra=(), sha256="a" * 64):
    groups = [make_group(f"n{index}", value) for index, value in enumerate(times)]
    groups += [make_group(name, value) for name, value in extra]
    total = sum(group.latency_s for group in groups)
    return make_table(*groups, sha256=sha256, sessions=(make_session(total),))


@st.composite
def disturbed(draw):
    """Return times, and the same on a machine of another speed whose every group is off a little by itself."""
    times, factor = draw(TIMES), draw(FACTORS)
    off = draw(st.lists(st.floats(1 - JITTER, 1 + JITTER), min_size=len(times), max_size=len(times)))
    return times, [value * factor * share for value, share in zip(times, off, strict=True)], factor


@QUICK
@given(disturbed())
def test_the_speed_of_a_machine_is_no_regression(case):
    before, after, _ = case
    assert worse(record(table(before)), record(table(after))) == set()


@QUICK
@given(disturbed(), st.floats(0.12, 1.0))
def test_more_work_is_one_and_is_named(case, share):
    before, after, factor = case
    extra = [("planted", share * sum(before) * factor)]
    found = judged(record(table(before)), record(table(after, extra=extra, sha256="b" * 64)))["cost"]
    assert found.verdict == "worse"
    assert found.causes[0].startswith("`planted` is new")


@QUICK
@given(disturbed(), st.floats(0.12, 0.9))
def test_the_other_way_round_it_is_better(case, share):
    before, after, factor = case
    extra = [("planted", share * sum(before) * factor)]
    found = judged(record(table(after, extra=extra, sha256="b" * 64)), record(table(before)))
    assert found["cost"].change < 0
    assert "worse" not in {finding.verdict for finding in found.values()}


@QUICK
@given(TIMES, TIMES, st.lists(st.floats(0, 0.5), min_size=2, max_size=2))
def test_a_wider_limit_fails_no_more(before, after, limits):
    narrow, wide = sorted(limits)
    names = [name for name, check in CHECKS.items() if check.kind == "share"]

    def failed(limit):
        given = [f"{name}={limit}" for name in names]
        return worse(record(table(before)), record(table(after), plan=plan(throughput_per_s=150.0)), *given)

    assert failed(wide) <= failed(narrow)


@QUICK
@given(TIMES, TIMES, FACTORS)
def test_a_baseline_judges_the_same_from_its_file(before, after, speed):
    then, now = record(table(before), speeds=(1.0, speed)), record(table(after))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "baseline.json"
        write_baseline(path, updated(Baseline(), then))
        (read,) = read_baseline(path).entries
    limits = parse_limits(())
    assert judge(case_of(read, now, limits)) == judge(case_of(then, now, limits))


@QUICK
@given(TIMES)
def test_a_record_is_as_good_as_itself(times):
    one = record(table(times))
    assert {finding.verdict for finding in judge(case_of(one, replace(one), parse_limits(())))} == {"same"}
