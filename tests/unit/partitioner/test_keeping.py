"""The price of keeping a placement is what evaluating it says; the one that was planned is free."""

import itertools
import math

import pytest

from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Machine
from cutset.partitioner.keeping import price_of_keeping
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan_evidence


@pytest.fixture(scope="module")
def outcome(chain):
    case = chain([1, 5, 5, 1], [9, 0.5, 0.5, 9], refused={"a": "never"})
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    return plan_evidence(evidence, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1)))


def test_what_was_planned_is_free(outcome):
    assert outcome.plan.decision == "split"
    assert price_of_keeping(outcome, outcome.plan.placement) == 0
    assert price_of_keeping(outcome, {}) == 0


def test_no_placement_is_cheaper_than_free(outcome):
    names = list(outcome.plan.placement)
    prices = {
        devices: price_of_keeping(outcome, dict(zip(names, devices, strict=True)))
        for devices in itertools.product(("cpu", "gpu"), repeat=len(names))
    }
    assert min(prices.values()) == 0
    assert all(price == math.inf for devices, price in prices.items() if devices[0] == "gpu"), "what a device refuses"
    assert prices["cpu", "cpu", "cpu", "cpu"] > 1
