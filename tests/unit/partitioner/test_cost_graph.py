"""Reading bare cost graphs."""

from __future__ import annotations

from typing import Any

import pytest

from cutset.errors import PlanError, UsageError
from cutset.partitioner.cost_graph import CostGraph, parse
from cutset.partitioner.pins import parse_pin


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


def test_a_colour_class_is_one_op_and_copies_are_part_of_the_accelerators_load() -> None:
    read = graph()
    assert read.problem.size == 5
    assert read.member.tolist() == [0, 1, 2, 3, 4, 4]
    assert read.problem.gpu_s.tolist() == [2.0, 2.0, 2.0, 2.0, 4.0]
    assert not read.problem.copies_overlap
    assert read.problem.gpu_bytes.sum() == 60


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes": []}, "no nodes"),
        ({"nodes": [{"id": 1}]}, "expected fields"),
        ({"edges": [{"sourceId": 0, "destId": 99, "cost": 1.0}]}, "names the node 99"),
        ({"edges": [{"sourceId": 0, "destId": 1, "cost": -1.0}]}, "negative"),
        ({"maxFPGAs": 0, "maxCPUs": 0}, "0 CPUs and 0 accelerators"),
    ],
)
def test_wrong_files_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        graph(**changes)


def test_pins_that_match_nothing_or_contradict_are_refused() -> None:
    with pytest.raises(UsageError, match="matches no node"):
        graph("nothing=cpu")
    with pytest.raises(PlanError, match="pinned to both devices"):
        graph("n1=cpu", "1=gpu")
    with pytest.raises(PlanError, match="can run on neither device"):
        graph("n4=cpu", "n5=gpu")
