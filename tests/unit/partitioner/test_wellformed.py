"""The specification of a plan names each way of not being one."""

from dataclasses import replace

import pytest

from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan
from cutset.partitioner.wellformed import problems


@pytest.fixture
def case(chain):
    return chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})


@pytest.fixture
def good(case):
    made = plan(case.graph, case.table(), case.support(), {}, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=2)))
    assert made.decision == "split"
    return made


def stage(made, index, **changes):
    """Return the plan with one stage changed."""
    stages = list(made.stages)
    stages[index] = replace(stages[index], **changes)
    return replace(made, stages=tuple(stages))


BROKEN = {
    "a node left out": (lambda p: stage(p, 2, nodes=()), "do not cover every placeable node exactly once"),
    "a node twice": (lambda p: stage(p, 2, nodes=("c", "a")), "do not cover every placeable node exactly once"),
    "an unknown node": (lambda p: stage(p, 2, nodes=("c", "ghost")), "a node that the model does not have"),
    "stages out of order": (lambda p: replace(p, stages=p.stages[::-1]), "which no earlier stage writes"),
    "an input too few": (lambda p: stage(p, 1, inputs=()), "node `b` in stage 1 reads `v_a`, which the stage does not receive"),
    "an input from nowhere": (
        lambda p: stage(p, 1, inputs=("v_a", "v_b")),
        "reads `v_b`, which no earlier stage writes",
    ),
    "an output too few": (lambda p: stage(p, 0, outputs=()), "stage 1 reads `v_a`, which no earlier stage writes"),
    "an output of others": (lambda p: stage(p, 1, outputs=("v_b", "y")), "stage 1 writes `y`, which it does not make"),
    "no graph output": (lambda p: stage(p, 2, outputs=()), "graph output `y` is written by no stage"),
    "a node without a place": (lambda p: replace(p, placement={"a": "gpu", "b": "cpu"}), "node `c` has no placement"),
    "an unknown device": (lambda p: replace(p, placement={**p.placement, "c": "tpu"}), "node `c` has no placement"),
    "the wrong stage": (lambda p: stage(p, 0, device="cpu"), "node `a` is placed on gpu and lies in a cpu stage"),
    "a broken pin": (lambda p: replace(p, pins={"a": "cpu"}), "node `a` is pinned to cpu and placed on gpu"),
    "a decision that lies": (
        lambda p: replace(p, decision="unsplit-cpu"),
        "is unsplit-cpu but there are 3 stages",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plan(case, good, kind):
    breaks, words = BROKEN[kind]
    found = problems(case.graph, breaks(good))
    assert any(words in line for line in found), found


def test_a_good_plan(case, good):
    assert problems(case.graph, good) == []
