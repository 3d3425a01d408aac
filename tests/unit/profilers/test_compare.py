"""A difference is reported with its sign, and called one only where it is more than noise."""

from dataclasses import replace

import pytest

from cutset.errors import UsageError
from cutset.profilers.compare import compare
from cutset.profilers.merge import merge
from tests.profile_tables import make_group, make_session, make_table


def pair(before, after, **fields):
    """Compare one group of 1 ms, with a second that stays, before and after."""
    rest = make_group("rest", 1e-3)
    return compare(make_table(make_group("n", before, **fields), rest), make_table(make_group("n", after, **fields), rest))


def verdict(found, what="n"):
    return next(group.verdict for group in found.groups if group.what == what)


@pytest.mark.parametrize(("after", "expected"), [(1.03e-3, "same"), (1.15e-3, "same"), (1.5e-3, "slower"), (0.6e-3, "faster")])
def test_more_than_noise(after, expected):
    found = pair(1e-3, after)
    assert verdict(found) == expected
    assert verdict(found, "rest") == "same"
    assert found.groups[0].what == "n", "the largest change comes first"


def test_the_clock_is_too_coarse_for_a_tiny_kernel():
    assert verdict(pair(2e-6, 4e-6)) == "same"


@pytest.mark.parametrize(("samples", "expected"), [(5, "same"), (500, "slower")])
def test_more_repeats_show_smaller_differences(samples, expected):
    before = make_table(make_group("n", 1e-3), sessions=(make_session(1e-3, samples=samples, spread=0.2),))
    after = make_table(make_group("n", 1.2e-3), sessions=(make_session(1.2e-3, samples=samples, spread=0.2),))
    (total,) = compare(before, after).totals
    assert (total.verdict, total.ratio) == (expected, pytest.approx(1.2))


def test_modelled_numbers_differ_when_their_intervals_do_not_meet():
    wide = {"device": "gpu", "source": "modelled", "low_s": 1e-3 / 3, "high_s": 3e-3}
    assert verdict(pair(1e-3, 2e-3, **wide)) == "same"
    assert verdict(pair(1e-3, 2e-3, device="gpu", source="recorded", low_s=None, high_s=None)) == "slower"


def test_hardware_and_versions_that_differ_are_named():
    one, two = make_table(make_group("n"), cpu="Old CPU"), make_table(make_group("n"), cpu="New CPU")
    environment = {**two.environment, "packages": {"onnxruntime": "1.21"}, "load_average": [9.0, 9.0, 9.0]}
    two = replace(two, environment=environment, shapes={"x": (8, 4)}, sessions=(make_session(1e-4, batch=8),))
    found = {change.what: (change.a, change.b) for change in compare(one, two).changes}
    assert found == {
        "cpu": ("Old CPU", "New CPU"),
        "packages.onnxruntime": ("1.20", "1.21"),
        "cpu batch": (1, 8),
        "shape of `x`": ([1, 4], [8, 4]),
    }


def test_the_same_machine_has_no_changes():
    table = make_table(make_group("n"), make_group("n", 1e-5, device="gpu"))
    assert compare(table, table).changes == ()


def test_another_export_is_matched_by_what_it_computes():
    before = make_table(make_group("a", 1e-3, signature="s"), make_group("b", 2e-3, signature="s"), make_group("c"))
    after = make_table(make_group("p", 1e-3, signature="s"), make_group("q", 4e-3, signature="s"), sha256="b" * 64)
    found = compare(before, after)
    assert not found.same_model
    assert {(group.what, group.ratio) for group in found.groups} == {("a", 1.0), ("b", 2.0)}
    assert [group.what for group in found.only_a] == ["c"]
    assert found.changes[0].what == "model"


def test_groups_that_only_one_has():
    before = make_table(make_group("ab", canonical=("a", "b")), make_group("c"), make_group("c", 1e-5, device="gpu"))
    after = make_table(make_group("a"), make_group("b"), make_group("c"), make_group("c", None, device="gpu"))
    found = compare(before, after)
    assert [(group.what, group.device, group.nodes) for group in found.only_a] == [("a", "cpu", 2), ("c", "gpu", 1)]
    assert [group.what for group in found.only_b] == ["a", "b"]


def test_a_merged_profile_is_taken_apart_first():
    merged = merge([make_table(make_group("a")), make_table(make_group("a"), cpu="Other")])
    with pytest.raises(UsageError, match="several machines"):
        compare(merged, merged)
