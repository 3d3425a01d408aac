"""Groups that compute the same share one cost, as far as noise explains their difference; the sum never changes."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.profilers.compare import CLOCK_S, KERNEL_NOISE
from cutset.profilers.pooling import pooled
from tests.profile_tables import make_group


def layers(*seconds, signature="layer"):
    return [make_group(f"{signature}{index}", value, signature=signature) for index, value in enumerate(seconds)]


def times(groups):
    return [group.latency_s for group in groups]


def test_repeated_layers_get_their_mean_with_their_intervals():
    found = pooled(layers(1.00e-3, 1.06e-3, 1.03e-3))
    assert times(found) == pytest.approx([1.03e-3] * 3)
    assert [(group.low_s, group.high_s) for group in found] == [pytest.approx((0.9 * 1.03e-3, 1.1 * 1.03e-3))] * 3
    assert [group.nodes for group in found] == [("layer0",), ("layer1",), ("layer2",)]


def test_what_differs_by_more_than_noise_stays_apart():
    assert times(pooled(layers(1e-3, 2e-3, 1.02e-3))) == pytest.approx([1.01e-3, 2e-3, 1.01e-3])


def test_other_work_unknown_sizes_and_unsupported_groups_are_left_alone():
    groups = [*layers(1e-3), *layers(1.01e-3, signature="other"), *layers(1e-3, 1.01e-3, signature=""), *layers(None, None)]
    assert pooled(groups) == tuple(groups)


def test_below_the_clock_s_resolution_all_are_alike():
    assert times(pooled(layers(0.0, CLOCK_S))) == pytest.approx([CLOCK_S / 2] * 2)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1e-2)), max_size=12))
def test_sums_stay_and_order_is_kept(entries):
    groups = [make_group(f"n{index}", seconds, signature=name) for index, (name, seconds) in enumerate(entries)]
    found = pooled(groups)
    assert [group.nodes for group in found] == [group.nodes for group in groups]
    for name in "ab":
        before, after = ([group.latency_s for group in of if group.signature == name] for of in (groups, found))
        assert sum(after) == pytest.approx(sum(before))
        ordered = sorted(zip(before, after, strict=True))
        assert [one for _, one in ordered] == sorted(after)
        for (low, at_low), (high, at_high) in pairwise(ordered):
            together = high <= low * (1 + KERNEL_NOISE) + CLOCK_S
            assert not together or at_low == at_high
