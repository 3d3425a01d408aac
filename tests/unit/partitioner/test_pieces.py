"""Groups that may not run in one place: what they fall into, and what each piece takes from the CPU."""

from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.partitioner.atoms import Evidence, atoms_of, broken_pieces
from cutset.partitioner.pieces import deciding_pieces, pieces_of, priced
from cutset.partitioner.pins import parse_pin, resolve
from tests.profile_tables import make_group, make_table
from tests.unit.conftest import save_model  # noqa: F401

BOTH, CPU_ONLY, GPU_ONLY = (True, True), (True, False), (False, True)
FLOAT = TensorProto.FLOAT
MS = 1e-3


@st.composite
def graphs(draw):
    """Draw a random acyclic graph of sums, as (inputs of each node by index)."""
    size = draw(st.integers(2, 9))
    return [draw(st.lists(st.integers(0, node - 1), max_size=3)) if node else [] for node in range(size)]


@pytest.fixture(scope="module")
def built(save_model):  # noqa: F811
    def build(reads):
        nodes = [
            helper.make_node("Sum", [f"v{i}" for i in inputs] or ["x"], [f"v{index}"], name=f"n{index}")
            for index, inputs in enumerate(reads)
        ]
        outputs = [(f"v{index}", FLOAT, [2]) for index in range(len(reads))]
        return load(save_model(nodes, [("x", FLOAT, [2])], outputs))

    return build


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(reads=graphs(), data=st.data())
def test_pieces_are_connected_alike_and_can_run_one_after_another(built, reads, data):
    graph = built(reads)
    kinds = {node.name: data.draw(st.sampled_from([BOTH, CPU_ONLY])) for node in graph.nodes}
    parts = pieces_of(graph, tuple(kinds), kinds)
    assert sorted(name for part in parts for name in part) == sorted(kinds)
    assert all(len({kinds[name] for name in part}) == 1 for part in parts)
    home = {name: index for index, part in enumerate(parts) for name in part}
    edges = [(f"n{source}", f"n{node}") for node, inputs in enumerate(reads) for source in inputs]
    crossing = nx.DiGraph((home[a], home[b]) for a, b in edges if home[a] != home[b])
    assert nx.is_directed_acyclic_graph(crossing)
    for part in parts:
        inside = nx.Graph((a, b) for a, b in edges if {a, b} <= set(part))
        inside.add_nodes_from(part)
        assert nx.is_connected(inside)


def test_a_piece_that_may_leave_is_worth_what_leaving_saves():
    group = make_group("a", 10 * MS, canonical=("a", "b", "c"), unfused_s={"a": 4 * MS, "b": 9 * MS, "c": 3 * MS})
    table = make_table(group, pieces=(make_group("a", 1 * MS),))
    kinds = {"a": CPU_ONLY, "b": BOTH, "c": BOTH}
    found = priced([("a",), ("b",), ("c",)], kinds, group, table)
    assert [piece.cpu_s for piece in found] == pytest.approx([1 * MS, 9 * MS * 9 / 12, 9 * MS * 3 / 12])
    assert sum(piece.cpu_s for piece in found) == pytest.approx(group.latency_s), "as long as all stay, they run fused"


def test_a_group_that_saves_nothing_by_falling_apart_stays_whole():
    group = make_group("a", 2 * MS, canonical=("a", "b"), unfused_s={"a": 3 * MS, "b": 1 * MS})
    assert priced([("a",), ("b",)], {"a": CPU_ONLY, "b": BOTH}, group, make_table(group)) is None


def test_what_is_cut_in_any_case_costs_what_it_costs_alone():
    group = make_group("a", 2 * MS, canonical=("a", "b", "c"), unfused_s={"a": 3 * MS, "b": 1 * MS, "c": 1 * MS})
    kinds = {"a": CPU_ONLY, "b": BOTH, "c": GPU_ONLY}
    parts = [("a",), ("b",), ("c",)]
    found = priced(parts, kinds, group, make_table(group))
    assert [piece.cpu_s for piece in found[:2]] == [3 * MS, 1 * MS]
    assert deciding_pieces(parts, kinds) == [("a",), ("b",)]
    assert deciding_pieces(parts, {**kinds, "c": BOTH}) == [("a",)]
    assert deciding_pieces([("a", "b")], {"a": BOTH, "b": BOTH}) == []


def evidence(case, *pins, pieces=()):
    table = replace(case.table(), pieces=pieces)
    pinned = resolve(case.graph, [parse_pin(pin) for pin in pins])
    return Evidence(graph=case.graph, table=table, support=case.support(), pins=pinned)


def test_the_dearest_groups_come_first(chain):
    case = chain([1, 2, 4, 8], [1, 1, 1, 1], groups=["ab", "cd"], refused={"a": "no", "d": "no"})
    assert broken_pieces(evidence(case)) == [("d",), ("a",)]
    assert broken_pieces(evidence(case, "b=gpu")) == [("d",), ("a",)]


def test_a_measured_piece_replaces_the_unfused_price(chain):
    case = chain([4, 8], [1, 1], groups=["ab"], refused={"a": "no kernel"})
    unfused, measured = (
        atoms_of(evidence(case, pieces=pieces)) for pieces in ((), (make_group("a", 5 * MS, canonical=("a",)),))
    )
    assert [atom.cpu_s for atom in unfused] == pytest.approx([6 * MS, 6 * MS])
    assert [atom.cpu_s for atom in measured] == pytest.approx([5 * MS, 7 * MS])


def test_a_whole_group_on_the_cpu_says_whose_fault_it_is(chain):
    case = chain([4, 1], [1, 1], groups=["ab"], refused={"a": "no kernel"})
    (atom,) = atoms_of(evidence(case))
    assert (atom.nodes, atom.cpu_s, atom.gpu_s, atom.reason) == (("a", "b"), 5 * MS, float("inf"), "no kernel")
