"""One regression test for each way in which min-cut planners are known to go wrong."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.errors import PlanError
from cutset.graph.load import load
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Machine, build_problem
from cutset.partitioner.cut import Oracle, minimum_cut
from cutset.partitioner.evaluation import demands, evaluate
from cutset.partitioner.exhaustive import enumerate_placements
from cutset.partitioner.network import CAP_INF, SINK, SOURCE, Network, as_digraph, free_template, price
from cutset.partitioner.problem import Placement, Problem, Tensor
from cutset.partitioner.solve import solve
from cutset.profilers.table import TransferModel


def place(*devices: int) -> Placement:
    return np.array(devices, dtype=np.int8)


def fan(**changes: object) -> Problem:
    """Return one producer read by three ops, in tenths that no binary fraction holds."""
    problem = Problem(
        names=("a", "b", "c", "d"),
        cpu_s=np.array([0.1, 0.3, 0.7, 0.1]),
        gpu_s=np.array([0.3, 0.1, 0.1, 0.1]),
        tensors=(Tensor(name="t", producer=0, consumers=(1, 2, 3), h2d_s=0.1, d2h_s=0.2),),
    )
    return replace(problem, **changes)  # type: ignore[arg-type]


def test_floats_never_reach_networkx() -> None:
    for weight in (0.1, 1 / 3, 0.7):
        network = price(free_template(fan()), np.full(4, weight), ceiling_s=1.2 * weight)
        capacities = [data["capacity"] for *_, data in as_digraph(network).edges(data=True)]
        assert all(type(capacity) is int for capacity in capacities)
        assert minimum_cut(network, "networkx").value == minimum_cut(network, "scipy").value


def test_scipy_is_never_given_what_it_would_truncate() -> None:
    # 2^32 + 5 would become 5 in scipy's 32 bits.
    network = Network(
        node_count=3,
        tail=np.array([SOURCE, SOURCE, 2]),
        head=np.array([2, 2, SINK]),
        capacity=np.array([2**31, 2**31 + 5, 7]),
        scale=1.0,
        offset_s=0.0,
    )
    assert minimum_cut(network, "scipy").value == 7


def test_costs_of_2_to_the_33rd_are_rescaled() -> None:
    big = 2.0**33
    problem = fan(cpu_s=np.array([0.1, 0.3, 0.7, 0.1]) * big, gpu_s=np.array([0.3, 0.1, 0.1, 0.1]) * big)
    network = price(free_template(problem), np.ones(4), ceiling_s=big)
    assert network.capacity.max() <= CAP_INF
    every = enumerate_placements(problem)
    assert solve(problem, objective="latency").evaluation.latency_s == pytest.approx(every.best(every.latency_s))


def test_an_impossible_placement_costs_infinity_and_never_nan() -> None:
    problem = fan(gpu_s=np.array([np.inf, 0.1, 0.1, np.inf]), copies_overlap=False)
    for devices in (place(1, 1, 1, 1), place(0, 0, 0, 1), place(0, 1, 1, 0)):
        for case in (problem, replace(problem, copies_overlap=True)):
            evaluation = evaluate(case, devices)
            assert not math.isnan(evaluation.bottleneck_s + evaluation.latency_s + demands(case, devices).sum())


def test_a_price_of_zero_on_a_pinned_resource_moves_nothing_there() -> None:
    # Everything would be free on the GPU at these prices; `a` cannot run there all the same.
    problem = fan(gpu_s=np.array([np.inf, 0.1, 0.1, 0.1]))
    oracle = Oracle(template=free_template(problem))
    for flow in ("scipy", "networkx"):
        answer = replace(oracle, flow=flow).cheapest(np.array([1.0, 0.0, 0.0, 0.0]), ceiling_s=1.2)
        assert answer.value_s == pytest.approx(0.1)
        assert all(labels[0] == 0 for labels in answer.labels)


def test_an_op_that_uses_one_tensor_twice_receives_it_once() -> None:
    twice = fan(tensors=(Tensor(name="t", producer=0, consumers=(1, 1, 2, 3), h2d_s=0.1, d2h_s=0.2),))
    assert demands(twice, place(0, 1, 0, 0)).tolist() == demands(fan(), place(0, 1, 0, 0)).tolist()


def test_an_output_that_is_also_consumed_comes_home_once() -> None:
    output = Problem(
        names=("a", "b", "<output>"),
        cpu_s=np.array([1.0, 1.0, 0.0]),
        gpu_s=np.array([1.0, 1.0, np.inf]),
        tensors=(
            Tensor(name="t", producer=0, consumers=(1, 2), h2d_s=0.1, d2h_s=0.2),
            Tensor(name="u", producer=1, consumers=(2,), h2d_s=0.1, d2h_s=0.2),
        ),
        pseudo=frozenset({2}),
    )
    assert demands(output, place(1, 1, 0)).tolist() == pytest.approx([0.0, 2.0, 0.0, 0.4])
    assert demands(output, place(1, 0, 0)).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.2])


def test_a_tensor_without_bytes_still_costs_its_call() -> None:
    copy = TransferModel(direction="h2d", pinned=True, fixed_s=1e-5, bytes_per_s=1e10, source="modelled")
    assert copy.seconds(0) == 1e-5


def test_constants_are_no_transfers(chain, save_model) -> None:
    nodes = [
        helper.make_node("Neg", ["w"], ["k"], name="made of weights"),
        helper.make_node("Add", ["x", "k"], ["s"], name="a"),
        helper.make_node("Mul", ["s", "w"], ["y"], name="b"),
    ]
    info = TensorProto.FLOAT, [4]
    graph = load(save_model(nodes, [("x", *info)], [("y", *info)], {"w": np.ones(4, np.float32)}))
    case = replace(chain([1, 1], [1, 1]), graph=graph)
    evidence = Evidence(graph=graph, table=case.table(), support=case.support(), pins={})
    costed = build_problem(evidence, Machine(cpu_workers=1, cores=1))
    assert {tensor.name for tensor in costed.problem.tensors} == {"x", "s", "y"}


def test_an_op_that_only_the_cpu_runs_in_the_middle_is_named_as_what_forces_five_stages() -> None:
    names = ("<input>", "decode", "backbone", "nonzero", "head", "encode", "<output>")
    problem = Problem(
        names=names,
        cpu_s=np.array([0, 1, np.inf, 1, np.inf, 1, 0]),
        gpu_s=np.array([np.inf, np.inf, 1, np.inf, 1, np.inf, np.inf]),
        tensors=tuple(Tensor(name=f"t{v}", producer=v, consumers=(v + 1,), h2d_s=0.1, d2h_s=0.1) for v in range(6)),
        pseudo=frozenset({0, 6}),
    )
    with pytest.raises(PlanError, match=r"needs 5(.|\n)*`backbone` \(GPU only\) -> `nonzero` \(CPU only\) -> `head`"):
        solve(problem, max_stages=3)
    assert solve(problem, max_stages=5).evaluation.stages == 5
