"""Answers about a plan: what crosses, what holds a stage, what a change buys; from a file as from the planner."""

from dataclasses import fields, replace

import numpy as np
import pytest

from cutset import serde
from cutset.errors import UsageError
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Machine
from cutset.partitioner.explain import best_reach, crossings, forced_stages, trade_offs, what_ifs
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan_evidence
from cutset.partitioner.problem import Problem
from cutset.partitioner.study import dump_study, read_study, study_of

MS = 1e-3


@pytest.fixture(scope="module")
def outcome(chain):
    """a and c-d are fast on the GPU, b runs on the CPU alone and sits between them."""
    case = chain([10, 1, 10, 10], [0.1, 0.1, 0.1, 0.1], refused={"b": "no kernel for it"})
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    return plan_evidence(evidence, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=2)))


@pytest.fixture(scope="module")
def study(outcome):
    return study_of(outcome)


def test_a_study_is_read_back_as_it_was(study, tmp_path):
    path = tmp_path / "problem.json"
    path.write_text(dump_study(study))
    again = read_study(path)
    for field in fields(Problem):
        if field.init:
            mine, theirs = getattr(study.problem, field.name), getattr(again.problem, field.name)
            assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs, field.name
    assert np.array_equal(again.placement, study.placement)
    others = ("nodes", "reasons", "sizes", "copy_fixed_s", "objective", "max_stages", "batch", "prices", "limits")
    assert all(getattr(again, name) == getattr(study, name) for name in others)
    assert best_reach(again) == best_reach(study)


@pytest.mark.parametrize("broken", ["problem", "placement", "nodes"])
def test_a_study_that_lacks_something(study, tmp_path, broken):
    path = tmp_path / "problem.json"
    document = serde.read_json(_written(study, path), schema="cutset.problem/1")
    del document[broken]
    path.write_text(serde.dumps(document))
    with pytest.raises(UsageError, match="does not have the expected fields"):
        read_study(path)


def _written(study, path):
    path.write_text(dump_study(study))
    return path


def test_what_is_copied(study):
    found = {(c.tensor, c.direction): c for c in crossings(study)}
    assert set(found) == {("x", "h2d"), ("v_a", "d2h"), ("v_b", "h2d"), ("y", "d2h")}
    assert found["v_a", "d2h"].size_bytes == 16
    assert found["v_a", "d2h"].seconds == pytest.approx(0.01 * MS, rel=1e-3)


def test_the_plan_is_the_best_reach(study, outcome):
    now = best_reach(study)
    assert now.throughput_per_s == pytest.approx(outcome.plan.prediction.throughput_per_s)
    assert (now.latency_s, now.stages) == (pytest.approx(outcome.plan.prediction.latency_s), 3)


def test_the_node_that_forces_two_more_stages(study):
    (forced,) = forced_stages(study, best_reach(study))
    assert (forced.nodes, forced.reason, forced.stage, forced.between) == (("b",), "no kernel for it", 1, True)
    assert forced.reach.stages == 1, "without it the whole model would be on the GPU"
    assert forced.gain == pytest.approx(1.04 / 0.33, rel=0.01)


def test_what_a_change_buys(study):
    found = {w.change: w for w in what_ifs(study, best_reach(study))}
    assert found["2 CPU workers"].gain == pytest.approx(2, rel=0.01)
    assert found["twice the PCIe bandwidth"].gain == pytest.approx(1)
    assert found["7 stages at most"].gain == pytest.approx(1)
    assert found["a GPU twice as fast"].gain == pytest.approx(1)


def test_bandwidth_matters_where_copies_are_the_bottleneck(chain):
    """Copies of four milliseconds, nearly all of it fixed: twice the bandwidth buys next to nothing."""
    case = chain([10, 10, 10], [0.1, 0.1, 0.1], transfer_ms=4)
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    slow = study_of(plan_evidence(evidence, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1))))
    gains = {w.change: w.gain for w in what_ifs(slow, best_reach(slow))}
    assert gains["twice the PCIe bandwidth"] == pytest.approx(1, rel=1e-3)
    free = replace(slow, copy_fixed_s={})
    gains = {w.change: w.gain for w in what_ifs(free, best_reach(free))}
    assert gains["twice the PCIe bandwidth"] == pytest.approx(2, rel=0.01)


def test_without_a_gpu_there_is_nothing_to_gain(chain):
    case = chain([10, 10])
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    alone = study_of(plan_evidence(evidence, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1))))
    now = best_reach(alone)
    assert now.throughput_per_s == pytest.approx(50)
    assert list(forced_stages(alone, now)) == list(what_ifs(alone, now)) == []


def test_plans_that_trade_latency_for_throughput(chain):
    """Moving c to the GPU, where it is a bit slower, relieves the CPU and lengthens the path."""
    case = chain([4, 4], [50, 4.5], refused={"a": "no"})
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    found = study_of(plan_evidence(evidence, PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1))))
    quick, wide = trade_offs(found)
    assert (quick.stages, wide.stages) == (1, 2)
    assert quick.latency_s < wide.latency_s
    assert quick.throughput_per_s < wide.throughput_per_s


def test_answers_keep_the_latency_target(chain):
    """Without one c is best on the GPU; the target forbids that whatever else changes."""
    case = chain([4, 3, 1], [50, 0.1, 3.5], refused={"a": "no"})
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    machine = Machine(cpu_workers=1, cores=1)
    free, tight = (
        study_of(plan_evidence(evidence, PlanOptions(name="m", machine=machine, slo_s=slo_s))) for slo_s in (None, 7e-3)
    )
    assert (best_reach(free).stages, best_reach(tight).stages) == (2, 3)
    assert best_reach(tight).latency_s <= 7e-3
    assert all(entry.reach.latency_s <= 7e-3 for entry in what_ifs(tight, best_reach(tight)))
    assert all(reach.latency_s <= 7e-3 for reach in trade_offs(tight))
