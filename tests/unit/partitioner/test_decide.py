"""What is deployed against what onnxruntime would do by itself, at both ends of the GPU costs' interval."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.baselines import baselines, pure_placements
from cutset.partitioner.cost import Machine
from cutset.partitioner.decide import Case as PlanCase
from cutset.partitioner.decide import simple_candidates
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.judge import MIN_GAIN
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import parse_pin, resolve
from cutset.partitioner.planner import plan_evidence
from cutset.partitioner.solve import small_gpu_stages
from tests.unit.partitioner.conftest import Case

MACHINE = Machine(cpu_workers=2, cores=3)


def outcome_of(case, pins=(), **options):
    found = resolve(case.graph, [parse_pin(pin) for pin in pins])
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins=found)
    return plan_evidence(evidence, PlanOptions(name="m", **({"machine": MACHINE} | options)))


@pytest.fixture(scope="module")
def random_graph(save_model):
    """Return a function that makes a connected graph of so many additions from a seed."""

    def make(size, seed):
        random = Random(seed)
        values, nodes = ["x"], []
        for number in range(size):
            inputs = random.choices(values, k=random.randint(1, 2)) if random.random() < 0.5 else values[-1:]
            nodes.append(helper.make_node("Sum", inputs, [f"v{number}"], name=f"n{number}"))
            values.append(f"v{number}")
        outputs = [value for value in values[1:] if not any(value in node.input for node in nodes)]
        return load(save_model(nodes, [("x", TensorProto.FLOAT, [4])], [(name, TensorProto.FLOAT, [4]) for name in outputs]))

    return make


def value_s(problem, placement, objective):
    """Return seconds between requests or a request, replicas of the whole model on every core where nothing is on the GPU."""
    if not placement.any():
        return problem.whole_cpu_s / (problem.whole_cores if objective == "throughput" else 1)
    found = evaluate(problem, placement)
    return found.bottleneck_s if objective == "throughput" else found.latency_s


@settings(max_examples=12, deadline=None)
@given(data=st.data(), size=st.integers(2, 7), seed=st.integers(0, 10**6))
def test_what_is_deployed_is_a_simple_plan_or_loses_to_none(random_graph, data, size, seed):
    random = Random(seed)
    graph = random_graph(size, seed)
    names = [node.name for node in graph.nodes]
    refused = {name: "no" for name in names if random.random() < 0.3}
    case = Case(
        graph=graph,
        cpu_ms={name: random.choice([0.01, 1, 3, 10]) * random.uniform(0.5, 2) for name in names},
        gpu_ms={name: random.choice([0.05, 1, 3]) * random.uniform(0.5, 2) for name in names},
        groups=[[name] for name in names],
        refused=refused,
        interval=data.draw(st.sampled_from([1.0, 1.3, 3.0])),
    )
    pins = [f"{name}=gpu" for name in names if name not in refused and random.random() < 0.1]
    objective = data.draw(st.sampled_from(["throughput", "throughput", "latency"]))
    options = {"objective": objective, "min_gpu_nodes": data.draw(st.sampled_from([0, 0, 2])), "exact_s": None}
    outcome = outcome_of(case, pins, max_stages=6, **options)
    problem, chosen = outcome.costed.problem, outcome.choice.candidate.placement
    pure = [placement for name, placement in pure_placements(problem).items() if name == "all_cpu" or
            (evaluate(problem, placement).stages <= 6 and not small_gpu_stages(problem, placement))]  # fmt: skip
    simple = any(np.array_equal(chosen, placement) for placement in pure)
    for scale in (1.0, 1 / case.interval, case.interval):
        there = replace(problem, gpu_s=problem.gpu_s * scale)
        mine = value_s(there, chosen, objective)
        best = min((value_s(there, placement, objective) for placement in pure), default=np.inf)
        if scale == 1:
            assert mine <= best * (1 + MIN_GAIN) * (1 + 1e-9)
        else:
            assert mine <= best * (1 + 1e-8) or simple or outcome.choice.simple == "within_limits"
    assert (outcome.choice.simple is None) == (outcome.plan.comparison["chosen"] == "split")


def exported(save_model, *, dynamo):
    """Return a network with uint8 pre-processing as two exporters write one: shapes computed, or constants and identities."""
    info = [("image", TensorProto.UINT8, [1, 4, 4, 4])]
    weights = {"w": np.ones((4, 4, 1, 1), np.float32), "minus": np.array([-1], np.int64), "zero": np.array([0], np.int64)}
    if dynamo:
        nodes = [
            helper.make_node("Shape", ["image"], ["s"], name="shape"),
            helper.make_node("Gather", ["s", "zero"], ["rows"], name="gather"),
            helper.make_node("Concat", ["rows", "minus"], ["wanted"], name="concat", axis=0),
        ]
    else:
        value = helper.make_tensor("value", TensorProto.INT64, [2], [1, -1])
        nodes = [helper.make_node("Constant", [], ["wanted"], name="constant", value=value)]
        weights = {"w": weights["w"]}
    source = "image" if dynamo else "same"
    nodes += [] if dynamo else [helper.make_node("Identity", ["image"], ["same"], name="identity")]
    nodes.append(helper.make_node("Cast", [source], ["c0"], name="cast", to=TensorProto.FLOAT))
    nodes += [helper.make_node("Conv", [f"c{k}", "w"], [f"c{k + 1}"], name=f"conv{k}") for k in range(3)]
    nodes.append(helper.make_node("Reshape", ["c3", "wanted"], ["y"], name="flatten"))
    return load(save_model(nodes, info, [("y", TensorProto.FLOAT, [1, 64])], weights))


NETWORK = ("cast", "conv0", "conv1", "conv2", "flatten")


@pytest.mark.parametrize(
    ("cpu_ms", "gpu_ms", "interval", "devices"),
    [
        ((1, 20, 60, 60), 5, 3.0, "GGG"),  # a split gains 1.4, and loses where the GPU is three times as fast
        ((1, 20, 60, 60), 5, 1.0, "CGG"),  # the same split, and no doubt about the GPU
        ((1, 4, 4, 4), 50, 3.0, "CCC"),  # the CPU is quicker
        ((0.1, 4, 4, 4), 3, 3.0, "CCC"),  # three cores are quicker, unless the GPU is faster than modelled
        ((0.1, 12, 12, 12), 3, 3.0, "GGG"),  # the GPU is quicker, unless slower than modelled
    ],
)
def test_one_network_exported_twice_is_decided_alike(save_model, cpu_ms, gpu_ms, interval, devices):
    for dynamo in (False, True):
        graph = exported(save_model, dynamo=dynamo)
        costs = dict(zip(NETWORK[:4], cpu_ms, strict=True))
        gpu = dict.fromkeys(NETWORK[1:4], float(gpu_ms))
        names = [node.name for node in graph.placeable]
        case = Case(
            graph=graph,
            cpu_ms={name: costs.get(name, 0.001) for name in names},
            gpu_ms={name: gpu.get(name, 0.001) for name in names},
            groups=[[name] for name in names],
            refused={"shape": "the GPU has no Shape of uint8"} if dynamo else {},
            interval=interval,
        )
        made = outcome_of(case).plan
        found = "".join(made.placement[name][0].upper() for name in NETWORK[1:4])
        assert found == devices, (dynamo, made.verdict)


def test_within_the_stages_allowed_the_gpu_takes_what_it_can(chain):
    """Capability first has five stages; in three, what comes last stays with the CPU."""
    case = chain([1, 10, 1, 10, 1], [0.1] * 5, refused=dict.fromkeys("ace", "no"))
    made = outcome_of(case, max_stages=3)
    assert "within_limits" in made.choice.alternatives
    assert made.choice.alternatives["within_limits"].placement.tolist()[:5] == [0, 1, 0, 0, 0]
    assert made.plan.baselines["capability_first"]["deployable"] is False
    assert made.plan.baselines["within_limits"]["deployable"] is True
    assert "Everything the GPU takes on the GPU, which is over the limits, would give" in made.plan.verdict


def test_a_plan_that_does_not_fit_is_no_rival(chain, save_model):
    nodes = [helper.make_node("Add", ["x", "w"], ["y"], name="a")]
    info = TensorProto.FLOAT, [1024]
    graph = load(save_model(nodes, [("x", *info)], [("y", *info)], {"w": np.ones(1024, np.float32)}))
    case = replace(chain([10], [0.1]), graph=graph)
    for most, names in ((4096.0, {"all_cpu", "all_gpu"}), (4095.0, {"all_cpu"})):
        evidence = Evidence(graph=graph, table=case.table(), support=case.support(), pins={})
        planned = PlanCase(evidence=evidence, options=PlanOptions(name="m", machine=MACHINE, gpu_memory_bytes=most))
        assert set(simple_candidates(planned, planned.costed())) == names


def test_a_mix_that_is_better_is_named_and_compared_but_refuses_nothing(chain):
    """Three cores answer beside the GPU what one pipeline cannot: a mix of whole requests is better than both."""
    made = outcome_of(chain([1, 30], [9, 10], refused={"a": "no"}, interval=3.0)).plan
    mix = made.baselines["mix"]
    assert mix["throughput_per_s"] > made.prediction.throughput_per_s * (1 + MIN_GAIN)
    assert mix["deployable"] is False
    assert "Whole requests shared out between CPU and GPU, which no package does, would give" in made.verdict
    assert made.comparison["chosen"] == "capability_first"
    assert all(end["mix_per_s"] >= end["throughput_per_s"] for end in made.robustness.values())


def test_the_mix_at_an_end_is_that_of_its_costs(chain):
    case = chain([1, 30], [9, 10], refused={"a": "no"}, interval=3.0)
    outcome = outcome_of(case)
    problem = outcome.costed.problem
    for end, scale in (("gpu_low", 1 / 3), ("gpu_high", 3)):
        mix = baselines(replace(problem, gpu_s=problem.gpu_s * scale))["mix"]
        assert outcome.plan.robustness[end]["mix_per_s"] == pytest.approx(mix.throughput_per_s)
