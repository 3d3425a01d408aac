"""Groups of two profiles are matched by nodes in one file, by what they compute in two."""

from cutset.profilers.matching import matched
from tests.profile_tables import make_group, make_table

OTHER = {"sha256": "b" * 64}


def pairs(a, b):
    return [(pair.a.canonical, pair.b.canonical, pair.same_work) for pair in matched(a, b)]


def test_one_file():
    a = make_table(make_group("ab", canonical=("a", "b")), make_group("c"))
    b = make_table(make_group("ab", canonical=("b", "a")), make_group("d"))
    assert pairs(a, b) == [(("a", "b"), ("b", "a"), True)]


def test_a_layer_that_was_put_between_like_ones_is_the_new_one():
    a = make_table(*(make_group(name, signature="s") for name in ("l0", "l1", "l2")))
    b = make_table(*(make_group(name, signature="s") for name in ("l0", "l0b", "l1", "l2")), **OTHER)
    assert pairs(a, b) == [((name,), (name,), True) for name in ("l0", "l1", "l2")]


def test_other_names_are_matched_in_order():
    a = make_table(make_group("x", signature="s"), make_group("y", signature="s"))
    b = make_table(make_group("p", signature="s"), make_group("q", signature="s"), **OTHER)
    assert pairs(a, b) == [(("x",), ("p",), True), (("y",), ("q",), True)]


def test_nodes_that_compute_something_else():
    a, b = make_table(make_group("n", signature="s")), make_table(make_group("n", signature="t"), **OTHER)
    assert pairs(a, b) == [(("n",), ("n",), False)]


def test_devices_are_apart():
    a, b = make_table(make_group("n")), make_table(make_group("n", device="gpu"))
    assert pairs(a, b) == []
