"""The planner splits where a split surely gains, and nowhere else."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cutset import serde
from cutset.errors import PlanError
from cutset.graph.load import load
from cutset.partitioner.cost import Machine
from cutset.partitioner.judge import MIN_GAIN
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import parse_pin, resolve
from cutset.partitioner.planner import plan
from cutset.partitioner.wellformed import problems

MACHINE = Machine(cpu_workers=1, cores=2)


def planned(case, *pins, **options):
    found = resolve(case.graph, [parse_pin(pin) for pin in pins])
    made = plan(case.graph, case.table(), case.support(), found, PlanOptions(name="m", **({"machine": MACHINE} | options)))
    assert problems(case.graph, made) == []
    return made


def devices(made):
    return "".join("C" if device == "cpu" else "G" for device in made.placement.values())


def test_a_node_the_gpu_lacks_splits_a_model_that_the_gpu_speeds_up(chain):
    made = planned(chain([10, 1, 10, 10], [0.1, 0.1, 0.1, 0.1], refused={"b": "no kernel for it"}))
    assert (made.decision, devices(made)) == ("split", "GCGG")
    assert [(stage.device, stage.nodes) for stage in made.stages] == [("gpu", ("a",)), ("cpu", ("b",)), ("gpu", ("c", "d"))]
    assert made.reasons["b"] == "no kernel for it"
    assert "10000.0 us measured on the CPU, 100.0 us modelled on the GPU" in made.reasons["a"]
    assert made.verdict.startswith(
        "split, everything the GPU takes on the GPU: 961.5 requests/s predicted, 14.90x the whole model on"
    )
    assert made.prediction.bottleneck == "cpu"
    assert made.prediction.throughput_per_s == pytest.approx(1 / 1.04e-3)
    assert made.prediction.utilisation["cpu"] == pytest.approx(1)
    assert made.cpu_workers == MACHINE.cpu_workers


def test_stage_times_add_up_to_the_costs(chain):
    made = planned(chain([10, 1, 10, 10], [0.1, 0.2, 0.3, 0.4], refused={"b": "no"}))
    assert [stage.service_s for stage in made.stages] == pytest.approx([0.1e-3, 1e-3, 0.7e-3])
    assert [stage.source for stage in made.stages] == ["modelled", "measured", "modelled"]
    assert [tensor.transfer_s for tensor in made.boundary] == pytest.approx([0.01e-3, 0.01e-3], rel=1e-3)


def test_a_tiny_model_stays_on_the_cpu(chain):
    made = planned(chain([0.002, 0.002, 0.002], [0.001, 0.001, 0.001], refused={"b": "no"}))
    assert (made.decision, devices(made)) == ("unsplit-cpu", "CCC")
    assert made.prediction.throughput_per_s == pytest.approx(MACHINE.cores / 0.006e-3)
    assert made.cpu_workers == MACHINE.cores
    assert made.boundary == ()
    assert made.verdict.startswith(
        "leave it whole on the CPU: 20.67x everything the GPU takes on the GPU (modelled for Toy GPU);"
    )
    assert ". The best split found gives 0.07x of this" in made.verdict


def test_a_model_that_the_gpu_runs_best_alone(chain):
    made = planned(chain([10, 10, 10], [0.1, 0.1, 0.1]))
    assert (made.decision, devices(made)) == ("unsplit-gpu", "GGG")
    assert [stage.device for stage in made.stages] == ["gpu"]
    assert "whole on the GPU" in made.verdict


def test_without_a_gpu_the_verdict_says_so(chain):
    made = planned(chain([10, 10]))
    assert (made.decision, made.robustness, made.target["gpu"]) == ("unsplit-cpu", {}, None)
    assert "no GPU was named" in made.verdict


def test_slow_transfers_forbid_a_split(chain):
    costs = {"cpu": [10, 1, 10], "gpu": [0.1, 0.1, 0.1], "refused": {"b": "no"}}
    assert planned(chain(**costs, transfer_ms=0.1)).decision == "split"
    assert planned(chain(**costs, transfer_ms=50)).decision == "unsplit-cpu"


def test_the_whole_session_is_what_a_split_must_beat(chain):
    """The sum of the groups says 42 ms; were the session quicker than that, replicas of it would win."""
    costs = {"cpu": [20, 2, 20], "gpu": [0.1, 0.1, 0.1], "refused": {"b": "no"}}
    assert planned(chain(**costs)).decision == "split"
    assert planned(chain(**costs, session_ms=3)).decision == "unsplit-cpu"


@pytest.mark.parametrize("interval", [1.0, 3.0, 20.0])
def test_a_simple_plan_is_what_it_is_at_both_ends(chain, interval):
    """On two cores 6 ms a request; with a on the GPU, 2 ms of b or what a takes there, 1 ms or up to 20."""
    made = planned(chain([10, 2], [1, 1], refused={"b": "no"}, interval=interval))
    assert (made.decision, devices(made), made.comparison["chosen"]) == ("split", "GC", "capability_first")
    slow = made.robustness["gpu_high"]
    assert (slow["against"], slow["gain"]) == ("all_cpu", pytest.approx(6 / max(2.04, interval + 0.03), rel=1e-2))
    assert ("0.30x where the GPU is slowest" in made.verdict) == (interval == 20)


def test_a_split_that_a_simple_plan_beats_at_one_end_is_refused(chain):
    """The GPU limits the simple plan; b relieves it, and limits all where the GPU is three times as fast."""
    case = chain([1, 4, 60], [9, 5, 5], refused={"a": "no"}, interval=3.0)
    made = planned(case)
    assert (devices(made), made.comparison["chosen"]) == ("CGG", "capability_first")
    assert ". The best split found gives 1.9" in made.verdict
    assert "x of this, but 0.6" in made.verdict
    assert "x where the GPU is fastest" in made.verdict
    sure = planned(replace(case, interval=1.0))
    assert (devices(sure), sure.comparison["chosen"], sure.comparison["against"]) == ("CCG", "split", "capability_first")
    assert "split: 198.4 requests/s predicted, 1.99x everything the GPU takes on the GPU" in sure.verdict


def test_a_gain_within_the_margin_is_none(chain):
    """The GPU takes over a tenth of a millisecond of 10: more moving parts for less than MIN_GAIN."""
    made = planned(chain([9.9, 0.1], [50, 0.001], refused={"a": "no"}), machine=Machine(cpu_workers=1, cores=1))
    assert MIN_GAIN > 0.1 / 9.9
    assert made.decision == "unsplit-cpu"


def test_pins_force_a_split_that_loses(chain):
    made = planned(chain([1, 1, 1], [50, 50, 50]), "a=cpu", "b=gpu")
    assert (made.decision, devices(made)) == ("split", "CGC")
    assert made.pins == {"a": "cpu", "b": "gpu"}
    assert made.reasons["b"] == "pinned by --pin b=gpu"
    assert "2.00x everything the GPU takes on the GPU; the model cannot be left whole" in made.verdict


def test_a_pin_to_one_side_leaves_that_side(chain):
    case = chain([10, 10, 10], [0.1, 0.1, 0.1])
    assert planned(case, "*=cpu").decision == "unsplit-cpu"
    assert planned(case, "b=cpu").decision in {"split", "unsplit-cpu"}
    assert devices(planned(case, "b=cpu"))[1] == "C"


@pytest.mark.parametrize("most", [5, 6])
def test_stages_that_pins_force(chain, most):
    pins = ("a=cpu", "b=gpu", "c=cpu", "d=gpu", "e=cpu")
    made = planned(chain([1] * 5, [1] * 5), *pins, max_stages=most)
    assert [stage.device for stage in made.stages] == ["cpu", "gpu", "cpu", "gpu", "cpu"]


def test_more_stages_forced_than_allowed(chain):
    with pytest.raises(PlanError):
        planned(chain([1] * 5, [1] * 5), "a=cpu", "b=gpu", "c=cpu", "d=gpu", "e=cpu", max_stages=4)


@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_the_stage_limit_is_kept(chain, most):
    case = chain([10, 1, 10, 1, 10, 1], [0.1] * 6, refused={"b": "no", "d": "no", "f": "no"})
    assert len(planned(case, max_stages=most).stages) <= most


def test_more_stages_never_cost_throughput(chain):
    case = chain([10, 1, 10, 1, 10, 1], [0.1] * 6, refused={"b": "no", "d": "no", "f": "no"})
    rates = [planned(case, max_stages=most).prediction.throughput_per_s for most in range(1, 7)]
    for fewer, more in pairwise(rates):
        assert more >= fewer / (1 + MIN_GAIN)


def test_small_gpu_stages_are_not_built(chain):
    case = chain([10, 1, 10, 10], [0.1, 0.1, 0.1, 0.1], refused={"b": "no"})
    made = planned(case, min_gpu_nodes=2)
    assert all(len(stage.nodes) >= 2 for stage in made.stages if stage.device == "gpu")
    assert made.options["min_gpu_nodes"] == 2


def test_the_objective_decides(chain):
    """On the GPU b is a bit slower; moving it relieves the CPU and lengthens the path."""
    case = chain([4, 4], [50, 4.5], refused={"a": "no"}, session_ms=8)
    one_core = Machine(cpu_workers=1, cores=1)
    throughput = planned(case, machine=one_core)
    latency = planned(case, machine=one_core, objective="latency")
    assert (throughput.decision, latency.decision) == ("split", "unsplit-cpu")
    assert latency.prediction.latency_s == pytest.approx(8e-3)
    assert latency.objective == "latency"


def test_a_batch_counts_a_request(chain):
    case = chain([10, 1, 10], [0.1, 0.1, 0.1], refused={"b": "no"})
    one, four = planned(case), planned(case, machine=replace(MACHINE, batch=4))
    assert four.batch == 4
    assert four.prediction.throughput_per_s == pytest.approx(4 * one.prediction.throughput_per_s)


@pytest.mark.parametrize("flow", ["scipy", "networkx"])
def test_equal_input_gives_an_equal_plan(chain, flow):
    case = chain([3, 1, 4, 1, 5], [1, 2, 0.3, 4, 0.5], refused={"d": "no"}, interval=3)
    first, again = (serde.dumps(planned(case, flow=flow).as_json()) for _ in range(2))
    assert first == again


def test_constant_and_dead_nodes_have_a_place_and_a_reason(chain, save_model):
    nodes = [
        helper.make_node("Neg", ["w"], ["k"], name="fold"),
        helper.make_node("Exp", ["x"], ["z"], name="dead"),
        helper.make_node("Add", ["x", "k"], ["y"], name="live"),
    ]
    info = TensorProto.FLOAT, [4]
    case = chain([10], [0.1])
    case.graph = load(save_model(nodes, [("x", *info)], [("y", *info)], {"w": np.ones(4, np.float32)}))
    case.groups, case.cpu_ms, case.gpu_ms = [["fold", "live", "dead"]], {"live": 10}, {"live": 0.1}
    made = planned(case)
    assert made.decision == "unsplit-gpu"
    assert made.placement == {"fold": "gpu", "dead": "cpu", "live": "gpu"}
    assert made.stages[0].nodes == ("live",)
    assert "weights alone" in made.reasons["fold"]
    assert "not computed" in made.reasons["dead"]


COST = st.floats(1e-3, 20)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data(), length=st.integers(1, 5))
def test_no_plan_loses_to_leaving_the_model_whole(chain, data, length):
    names = "abcdef"[:length]
    refused = data.draw(st.sets(st.sampled_from(names)))
    case = chain(
        [data.draw(COST) for _ in names],
        [data.draw(COST) for _ in names],
        interval=data.draw(st.sampled_from([1.0, 3.0])),
        refused=dict.fromkeys(refused, "no"),
    )
    made = planned(case)
    whole = MACHINE.cores / (sum(case.cpu_ms.values()) * 1e-3)
    assert made.prediction.throughput_per_s >= whole * (1 - 1e-9)
    assert made.prediction.gap >= -1e-9
    assert all(made.placement[name] == "cpu" for name in refused)
    if made.comparison["chosen"] == "split":
        assert made.prediction.throughput_per_s > whole * (1 + MIN_GAIN)
        assert all(end["gain"] >= 1 for end in made.robustness.values())


def test_the_exact_planner_sharpens_the_bound_within_the_stages(chain):
    case = chain([10, 1, 10, 10, 2], [0.1, 0.1, 4, 0.1, 0.1], refused={"b": "no"})
    free, exact = planned(case), planned(case, exact_s=20.0)
    assert exact.prediction.lower_bound_s >= free.prediction.lower_bound_s
    assert exact.prediction.gap <= MIN_GAIN + 1e-5
    assert exact.prediction.throughput_per_s >= free.prediction.throughput_per_s * (1 - 1e-9)


def test_a_memory_limit_that_only_the_cpu_keeps(chain, save_model):
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], name="a")]
    info = TensorProto.FLOAT, [1024]
    graph = load(save_model(nodes, [("x", *info)], [("y", *info)], {"w": np.ones(1024, np.float32)}))
    case = replace(chain([10], [0.1]), graph=graph)
    assert planned(case).decision == "unsplit-gpu"
    assert planned(case, gpu_memory_bytes=4096.0).decision == "unsplit-gpu"
    assert planned(case, gpu_memory_bytes=4095.0).decision == "unsplit-cpu"
