"""Planning bare cost graphs, on one accelerator and on several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cutset.errors import UsageError
from cutset.partitioner.accelerators import device_loads
from cutset.partitioner.cost_graph import CostGraph, parse
from cutset.partitioner.pins import parse_pin
from cutset.partitioner.solve_graph import GraphOptions, solve_graph


def document(**changes: Any) -> dict[str, Any]:
    """Return a chain of six nodes; 4 and 5 stay together."""
    nodes = [
        {"id": v, "name": f"n{v}", "cpuLatency": 20.0, "fpgaLatency": 2.0, "supportedOnFpga": 1, "size": 10.0, "colorClass": v}
        for v in range(6)
    ]
    nodes[5]["colorClass"] = 4
    edges = [{"sourceId": v, "destId": v + 1, "cost": 0.5, "size": 1.0} for v in range(5)]
    return {"maxSizePerFPGA": 100.0, "maxFPGAs": 1, "maxCPUs": 1, "nodes": nodes, "edges": edges} | changes


def graph(*pins: str, **changes: Any) -> CostGraph:
    return parse(document(**changes), where="g.json", pins=tuple(parse_pin(pin) for pin in pins))


def test_one_accelerator_is_planned_and_bounded() -> None:
    plan = solve_graph(graph("n0=cpu", "5=cpu"), GraphOptions(objective="latency", max_stages=3))
    assert plan.placement == {0: "cpu", 1: "gpu", 2: "gpu", 3: "gpu", 4: "cpu", 5: "cpu"}
    assert plan.latency == pytest.approx(60 + 6 + 0.5 + 0.5)
    assert plan.bottleneck == pytest.approx(60)
    assert plan.lower_bound == pytest.approx(plan.latency)
    assert plan.stages == 3


def test_several_accelerators_divide_the_graph_and_replicas_may_serve_it_alike() -> None:
    pair = graph(maxFPGAs=2)
    divided = solve_graph(pair, GraphOptions())
    assert set(divided.placement.values()) == {"gpu:0", "gpu:1"}
    device = np.array([{"cpu": 0, "gpu:0": 1, "gpu:1": 2}[divided.placement[v]] for v in (0, 1, 2, 3, 4)])
    assert device_loads(pair.problem, device, 2).max() == pytest.approx(divided.bottleneck)
    assert divided.bottleneck == pytest.approx(6.5)
    alike = solve_graph(pair, GraphOptions(replicate=True))
    assert (alike.replicas, alike.bottleneck) == (2, pytest.approx(6.0))
    assert alike.alternatives == {"replicas": pytest.approx(6.0), "division": pytest.approx(6.5)}
    assert divided.lower_bound <= alike.bottleneck


def test_memory_of_one_accelerator_rules_replicas_out() -> None:
    plan = solve_graph(graph(maxFPGAs=2, maxSizePerFPGA=45.0, maxCPUs=0), GraphOptions(replicate=True))
    assert plan.replicas == 1
    assert plan.alternatives["replicas"] is None


def test_stage_limits_hold_for_divisions() -> None:
    plan = solve_graph(graph(maxFPGAs=4), GraphOptions(max_stages=2))
    assert plan.stages == 2


def test_exact_proves_the_plan() -> None:
    plan = solve_graph(graph(), GraphOptions(max_stages=3, exact_s=20))
    assert plan.lower_bound == pytest.approx(plan.bottleneck, rel=1e-5)


def test_the_front_needs_one_plan_for_all_requests() -> None:
    plan = solve_graph(graph("n0=cpu"), GraphOptions(points=3))
    assert plan.front
    with pytest.raises(UsageError, match="--replicas"):
        solve_graph(graph(maxFPGAs=2), GraphOptions(points=3))
