"""The loop finds what the costs hid: against a simulated machine whose stages cost other than their sums."""

import itertools
import json

import pytest

from cutset.partitioner.atoms import Evidence
from cutset.partitioner.calibrate import StageNodes, Timing, calibrate
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan_evidence
from cutset.partitioner.scaling import scaled

MS = 1e-3


class Machinery:
    """Measures stages by a rule: the sum of true node times, times what fusion makes of it; remembers what it was asked."""

    def __init__(self, cpu_ms, fused=lambda _nodes: 1.0, gpu=None):
        self.cpu_ms, self.fused, self.gpu = cpu_ms, fused, gpu
        self.asked = []

    def __call__(self, stages):
        self.asked.append(stages)
        return [self._time(stage) for stage in stages]

    def _time(self, stage: StageNodes):
        costs = self.cpu_ms if stage.device == "cpu" else self.gpu
        if costs is None:
            return None
        return Timing(seconds=sum(costs[name] for name in stage.nodes) * MS * self.fused(stage.nodes), noise=0.001)


def evidence(case):
    return Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})


OPTIONS = PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1))


def test_right_costs_are_confirmed_and_nothing_changes(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    plain = plan_evidence(evidence(case), OPTIONS).plan
    outcome, found = calibrate(evidence(case), OPTIONS, Machinery(case.cpu_ms))
    assert outcome.plan == plain
    assert (found.state, found.devices) == ("calibrated", ("cpu",))
    assert found.worst_error == pytest.approx(0, abs=1e-9)
    assert json.dumps(found.as_json())


def test_a_machine_that_is_slower_today_scales_everything_on_the_cpu(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    slow = {name: 3 * cost for name, cost in case.cpu_ms.items()}
    outcome, found = calibrate(evidence(case), OPTIONS, Machinery(slow))
    assert outcome.plan.prediction.throughput_per_s == pytest.approx(1 / (3 * MS + 40e-6))
    assert outcome.costed.problem.whole_cpu_s == pytest.approx(63 * MS)
    assert found.rounds[0].what == "the whole model on one core"
    assert found.state == "calibrated"


def test_a_cut_that_costs_more_than_it_seemed_is_not_made(chain):
    """b alone takes 30 ms, not one, unless it runs with its neighbours: the split loses to the whole model."""
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    assert plan_evidence(evidence(case), OPTIONS).plan.decision == "split"
    machine = Machinery(case.cpu_ms, fused=lambda nodes: 30.0 if nodes == ("b",) else 1.0)
    outcome, found = calibrate(evidence(case), OPTIONS, machine)
    assert outcome.plan.decision == "unsplit-cpu"
    assert outcome.plan.prediction.throughput_per_s == pytest.approx(1 / (21 * MS))
    assert found.rounds[-1].decision == "unsplit-cpu"


def test_the_best_measured_plan_wins(chain):
    """With b, c must stay on the CPU too: fused they take a tenth of their sum, which no sum could tell."""
    case = chain([10, 5, 5, 10], [0.1, 0.1, 4.8, 0.1], refused={"b": "no"})
    together = lambda nodes: 0.1 if {"b", "c"} <= set(nodes) and "a" not in nodes else 1.0  # noqa: E731
    outcome, found = calibrate(evidence(case), OPTIONS, Machinery(case.cpu_ms, fused=together))
    rates = [entry.throughput_per_s for entry in found.rounds if entry.what.startswith("the plan")]
    assert outcome.plan.prediction.throughput_per_s == pytest.approx(max(rates))
    assert len(found.rounds) <= 9


def test_gpu_stages_are_measured_where_there_is_one(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    truth = {"a": 0.5, "b": None, "c": 0.5}
    outcome, found = calibrate(evidence(case), OPTIONS, Machinery(case.cpu_ms, gpu=truth))
    assert found.devices == ("cpu", "gpu")
    assert [stage.service_s for stage in outcome.plan.stages] == pytest.approx([0.5 * MS, 1 * MS, 0.5 * MS])


def test_noise_changes_nothing(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})

    def noisy(stages):
        parts = {("b",): 1.15}
        return [Timing(seconds=parts.get(s.nodes, 1.0) * sum(case.cpu_ms[n] for n in s.nodes) * MS, noise=0.2)
                if s.device == "cpu" else None for s in stages]  # fmt: skip

    outcome, found = calibrate(evidence(case), OPTIONS, noisy)
    assert outcome.plan == plan_evidence(evidence(case), OPTIONS).plan
    assert (found.state, found.worst_error) == ("uncalibrated", pytest.approx(1 - 1 / 1.15))


def test_the_speed_of_the_moment_changes_no_stage(chain):
    """A machine that gets slower all the time: what stages take is their share of the whole model in the same turns."""
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    first = plan_evidence(evidence(case), OPTIONS).plan
    slowness = itertools.count(2)

    def slowing(stages):
        by = 1.0 if len(stages) == 1 else next(slowness)
        return [Timing(seconds=by * sum(case.cpu_ms[n] for n in s.nodes) * MS, noise=0.001) if s.device == "cpu" else None
                for s in stages]  # fmt: skip

    outcome, found = calibrate(evidence(case), OPTIONS, slowing)
    assert outcome.plan.prediction == first.prediction
    assert found.worst_error == pytest.approx(0, abs=1e-9)
    assert next(slowness) > 3


def test_a_core_in_the_place_of_a_gpu_costs_what_it_takes(chain):
    """Alone a takes 13 ms on the CPU where the whole model has it in 10: what is deployed is timed, the plan stays."""
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    machine = Machinery(case.cpu_ms, fused=lambda nodes: 1.3 if nodes == ("a",) else 1.0)
    outcome, _ = calibrate(evidence(case), OPTIONS, machine)
    assert outcome.plan.prediction == plan_evidence(evidence(case), OPTIONS).plan.prediction
    seconds = {group.nodes: group.latency_s for group in outcome.case.evidence.table.groups_on("cpu")}
    assert seconds == pytest.approx({("a",): 13 * MS, ("b",): 1 * MS, ("c",): 10 * MS})
    assert outcome.costed.problem.whole_cpu_s == pytest.approx(21 * MS)


def test_nothing_can_be_measured(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    outcome, found = calibrate(evidence(case), OPTIONS, lambda stages: [None] * len(stages))
    assert outcome.plan == plan_evidence(evidence(case), OPTIONS).plan
    assert (found.state, found.worst_error, found.devices) == ("uncalibrated", None, ())


def test_scaling_part_of_a_group_scales_it_by_their_share(chain):
    table = chain([1, 3], [1, 1], groups=["ab"]).table()
    (group,) = scaled(table, "cpu", {"b": 2.0}).groups_on("cpu")
    assert group.unfused_s == pytest.approx({"a": 1.5 * MS, "b": 9 * MS})
    assert group.latency_s == pytest.approx(7 * MS)
    assert scaled(table, "cpu", {"b": 2.0}).groups_on("gpu") == table.groups_on("gpu")
    assert scaled(table, "cpu", {"a": 1.0}) is table
