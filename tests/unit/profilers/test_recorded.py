"""Finding a recorded group again: by what it computes, by its nodes, in parts, and not at all."""

from dataclasses import replace

import pytest

from cutset.profilers.recorded import Recording, carried
from tests.profile_tables import make_group, make_table


def recorded(*groups, same_run=False):
    return Recording(make_table(*groups), same_run=same_run)


def gpu(name, latency_s=1e-4, **fields):
    return make_group(name, latency_s, device="gpu", **fields)


def test_what_computes_the_same_costs_the_same_whatever_its_name():
    there = gpu("there", 3e-4, signature="s", canonical=("p", "q"), unfused_s={"p": 1e-4, "q": 4e-4}, batch=8)
    here = make_group("here", signature="s", canonical=("a", "b"), flops=7, bytes=9)
    found = recorded(there).find(here)
    assert (found.nodes, found.canonical, found.device, found.batch) == (("a", "b"), ("a", "b"), "gpu", 1)
    assert (found.latency_s, found.low_s, found.high_s) == pytest.approx((3e-4, 2.7e-4, 3.3e-4))
    assert found.unfused_s == {"a": 1e-4, "b": 4e-4}
    assert (found.source, found.backend, found.flops, found.bytes) == ("recorded", "tensorrt", 7, 9)


def test_several_that_compute_the_same_keep_their_sum():
    times = [1e-4, 2e-4, 6e-4]
    recording = recorded(*(gpu(f"n{index}", time, signature="s") for index, time in enumerate(times)))
    found = recording.find(make_group("m", signature="s"))
    assert 3 * found.latency_s == pytest.approx(sum(times))
    assert (found.low_s, found.high_s) == pytest.approx((0.9e-4, 6.6e-4))


def test_of_several_the_one_of_the_same_nodes_in_the_same_run():
    recording = recorded(gpu("n0", 1e-4, signature="s"), gpu("n1", 5e-4, signature="s"), same_run=True)
    assert recording.find(make_group("n1", signature="s")).latency_s == 5e-4


def test_names_say_nothing_of_another_run():
    group = make_group("n", signature="here")
    assert recorded(gpu("n", signature="there")).find(group) is None
    assert recorded(gpu("n", signature="there"), same_run=True).find(group) is not None


def test_no_signature_is_like_no_other():
    assert recorded(gpu("n", signature="")).find(make_group("m", signature="")) is None


def test_recorded_groups_that_are_one_group_here_add_up():
    one, two = gpu("a", 1e-4), gpu("bc", 2e-4, canonical=("b", "c"), unfused_s={"b": 3e-4})
    found = recorded(one, two, same_run=True).find(make_group("abc", canonical=("c", "a", "b")))
    assert (found.latency_s, found.low_s, found.high_s) == pytest.approx((3e-4, 2.7e-4, 3.3e-4))
    assert found.unfused_s == {"a": 1e-4, "b": 3e-4, "c": 2e-4}, "what was not recorded alone costs its whole group"


def test_a_part_of_a_recorded_group_is_not_found():
    recording = recorded(gpu("abc", canonical=("a", "b", "c")), same_run=True)
    assert recording.find(make_group("ab", canonical=("a", "b"))) is None
    assert recording.find(make_group("abcd", canonical=("a", "b", "c", "d"))) is None


def test_a_refusal_is_replayed_with_its_reason():
    refused = gpu("a", None, reason="the builder refuses it")
    for group in (make_group("x", signature="signature of a"), make_group("ab", canonical=("a", "b"))):
        found = recorded(refused, gpu("b"), same_run=True).find(group)
        assert (found.latency_s, found.reason, found.source) == (None, "the builder refuses it", "recorded")


def test_what_was_modelled_stays_modelled():
    assert [carried(source) for source in ("measured", "recorded", "modelled")] == ["recorded", "recorded", "modelled"]
    mixed = recorded(gpu("a", signature="s"), gpu("b", signature="s", source="modelled"))
    assert mixed.find(make_group("x", signature="s")).source == "modelled"
    parts = recorded(gpu("a"), gpu("b", source="modelled"), same_run=True)
    assert parts.find(make_group("ab", canonical=("a", "b"))).source == "modelled"


def test_a_cost_without_an_interval_has_no_width():
    found = recorded(replace(gpu("a", 2e-4), low_s=None, high_s=None)).find(make_group("x", signature="signature of a"))
    assert (found.low_s, found.high_s) == (2e-4, 2e-4)
