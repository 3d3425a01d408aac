"""The network's shape and capacities."""

from __future__ import annotations

import math

import networkx as nx
import numpy as np
import pytest

from cutset.partitioner.cut import minimum_cut
from cutset.partitioner.network import (
    CAP_CUT,
    CAP_INF,
    SINK,
    SOURCE,
    Network,
    as_digraph,
    chain_template,
    free_template,
    price,
)
from cutset.partitioner.phases import Window
from cutset.partitioner.problem import Problem, Tensor

PROBLEM = Problem(
    names=("in", "a", "b", "c"),
    cpu_s=np.array([1.0, 8.0, 8.0, np.inf]),
    gpu_s=np.array([np.inf, 1.0, 1.0, 1.0]),
    tensors=(
        Tensor(name="x", producer=0, consumers=(1, 2), h2d_s=2.0, d2h_s=2.0),
        Tensor(name="y", producer=2, consumers=(3,), h2d_s=1.0, d2h_s=3.0),
    ),
)


def test_an_op_tied_to_a_device_is_a_terminal() -> None:
    boundary = free_template(PROBLEM).boundary[:, 0].tolist()
    assert (boundary[0], boundary[3]) == (SOURCE, SINK)
    assert len({boundary[1], boundary[2], SOURCE, SINK}) == 4


def test_every_edge_has_an_integer_capacity_within_thirty_bits() -> None:
    graph = as_digraph(price(free_template(PROBLEM), np.ones(4), ceiling_s=12.0))
    capacities = [data["capacity"] for *_, data in graph.edges(data=True)]
    assert capacities
    assert all(type(capacity) is int and 0 <= capacity <= CAP_INF for capacity in capacities)


@pytest.mark.parametrize("flow", ["scipy", "networkx"])
def test_the_cut_is_certified_by_its_own_arcs(flow: str) -> None:
    network = price(free_template(PROBLEM), np.ones(4), ceiling_s=12.0)
    cut = minimum_cut(network, flow)
    for source in (cut.source_side, ~cut.sink_side):
        assert source[SOURCE]
        assert not source[SINK]
        crossing = source[network.tail] & ~source[network.head]
        assert int(network.capacity[crossing].sum()) == cut.value
    # All ops but `in` belong on the GPU: 1 + 1 + 1 + 1 and one copy of x.
    assert network.offset_s + cut.value / network.scale == pytest.approx(6.0)


def test_both_engines_equal_networkx_own_minimum_cut() -> None:
    network = price(free_template(PROBLEM), np.array([0.2, 0.5, 0.1, 0.2]), ceiling_s=5.0)
    value = nx.maximum_flow_value(as_digraph(network), SOURCE, SINK)
    assert minimum_cut(network, "scipy").value == minimum_cut(network, "networkx").value == value


@pytest.mark.parametrize("flow", ["scipy", "networkx"])
def test_parallel_arcs_add_up_and_infinite_ones_do_not_overflow(flow: str) -> None:
    network = Network(
        node_count=4,
        tail=np.array([SOURCE, SOURCE, 2, 2, 3]),
        head=np.array([2, 2, 3, 3, SINK]),
        capacity=np.array([CAP_CUT // 2, CAP_CUT // 2, CAP_INF, CAP_INF, CAP_INF]),
        scale=1.0,
        offset_s=0.0,
    )
    cut = minimum_cut(network, flow)
    assert cut.value == CAP_CUT
    assert cut.source_side.tolist() == [True, False, False, False]


def test_a_chain_is_refused_where_tied_ops_do_not_fit() -> None:
    assert chain_template(PROBLEM, Window(low=1, high=2)) is None
    template = chain_template(PROBLEM, Window(low=0, high=1))
    assert template is not None
    assert template.placement(template.feasible).tolist() == [0, 0, 0, 1]


def test_a_chain_charges_a_tensor_at_each_boundary_it_spans() -> None:
    chain = Problem(
        names=("a", "b", "c"),
        cpu_s=np.ones(3),
        gpu_s=np.ones(3),
        tensors=(
            Tensor(name="x", producer=0, consumers=(1, 2), h2d_s=2.0, d2h_s=5.0),
            Tensor(name="y", producer=1, consumers=(2,), h2d_s=0.0, d2h_s=0.0),
        ),
    )
    template = chain_template(chain, Window(low=0, high=2))
    assert template is not None
    demand = template.demands(np.array([0, 1, 2]), transfer_weight=0.5)
    assert demand.tolist() == [2.0, 1.0, 1.0, 2.5]
    assert math.isclose(free_template(chain).demands(np.array([0, 1, 0]))[3], 0.0)
