"""From costs, verdicts and pins to the planner's numbers: fused where it can stay fused, refused where it must be."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.errors import PlanError
from cutset.graph.load import load
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import CPU_STAGE_S, GPU_STAGE_S, INPUT, OUTPUT, Machine, build_problem
from cutset.partitioner.pins import parse_pin, resolve

FLOAT, MS = TensorProto.FLOAT, 1e-3


def build(case, *pins, batch=1, **settings):
    resolved = resolve(case.graph, [parse_pin(pin) for pin in pins])
    machine = Machine(cpu_workers=1, cores=2, batch=batch)
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins=resolved)
    return build_problem(evidence, machine, **settings)


def costs(costed, device):
    values = getattr(costed.problem, f"{device}_s")
    return {atom.nodes: round(float(values[index]) / MS, 9) for index, atom in enumerate(costed.atoms)}


def test_a_group_is_one_op(chain):
    costed = build(chain([1, 2, 3], [0.1, 0.2, 0.3], groups=["ab", "c"]))
    assert costs(costed, "cpu") == {("a", "b"): 3, ("c",): 3}
    assert costs(costed, "gpu") == {("a", "b"): 0.3, ("c",): 0.3}
    assert costed.problem.names == ("a (+1)", "c", INPUT, OUTPUT)
    assert costed.problem.whole_cpu_s == pytest.approx(6 * MS)
    assert costed.problem.cpu_stage_s == CPU_STAGE_S
    assert costed.problem.gpu_stage_s == GPU_STAGE_S


@pytest.mark.parametrize("why", ["support", "pin"])
def test_a_group_that_cannot_stay_together_is_taken_apart(chain, why):
    """What must stay costs what it costs unfused; the rest is worth what its leaving saves of the fused price."""
    refused = {"a": "no kernel"} if why == "support" else {}
    costed = build(chain([1, 2, 3], [0.1, 0.2, 0.3], groups=["ab", "c"], refused=refused), *(["a=cpu"] if why == "pin" else []))
    assert costs(costed, "cpu") == {("a",): 1.5, ("b",): 1.5, ("c",): 3}
    assert costs(costed, "gpu") == {("a",): np.inf, ("b",): 0.3, ("c",): 0.3}
    assert [atom.reason for atom in costed.atoms] == ["no kernel" if why == "support" else "pinned by --pin a=cpu", "", ""]


def test_a_group_that_is_refused_for_two_reasons_stays_together(chain):
    costed = build(chain([1, 2, 3], [0.1, 0.2, 0.3], groups=["ab", "c"], refused={"a": "too odd", "b": "too even"}))
    assert costs(costed, "cpu") == {("a", "b"): 3, ("c",): 3}
    assert costs(costed, "gpu") == {("a", "b"): np.inf, ("c",): 0.3}
    assert costed.atoms[0].reason == "too odd; too even"


def test_a_pin_and_a_refusal_to_the_same_side_stay_together(chain):
    costed = build(chain([1, 2], [0.1, 0.2], groups=["ab"], refused={"a": "too odd"}), "b=cpu")
    assert costs(costed, "cpu") == {("a", "b"): 3}
    assert costed.atoms[0].reason == "too odd; pinned by --pin b=cpu"


def test_pinned_to_the_gpu(chain):
    costed = build(chain([1, 2], [0.1, 0.2], groups=["ab"]), "*=gpu")
    assert costs(costed, "cpu") == {("a", "b"): np.inf}
    assert costs(costed, "gpu") == {("a", "b"): pytest.approx(0.3)}


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"refused": {"b": "no kernel for it"}}, "no kernel for it"),
        ({"gpu": [0.1, None]}, "nobody knows"),
        ({"gpu": ()}, "no GPU cost is known for it"),
    ],
)
def test_a_pin_to_a_gpu_that_cannot(chain, settings, cause):
    with pytest.raises(PlanError, match="`b` is pinned to the GPU, which cannot run it") as caught:
        build(chain([1, 2], settings.pop("gpu", [0.1, 0.2]), **settings), "b=gpu")
    assert caught.value.where == "--pin b=gpu"
    assert caught.value.cause == cause


def test_the_ends_of_the_interval(chain):
    case = chain([1, 2], [0.1, 0.2], interval=4.0)
    assert costs(build(case, gpu_scale="low"), "gpu") == {("a",): 0.025, ("b",): 0.05}
    assert costs(build(case, gpu_scale="high"), "gpu") == {("a",): 0.4, ("b",): 0.8}
    assert costs(build(case, gpu_scale="high"), "cpu") == {("a",): 1, ("b",): 2}


def test_the_ends_scale_what_was_taken_apart_too(chain):
    case = chain([1, 2], [0.1, 0.2], groups=["ab"], interval=2.0)
    assert costs(build(case, "a=cpu", gpu_scale="high"), "gpu") == {("a",): np.inf, ("b",): 0.6}


def test_a_batch_is_shared_by_its_samples(chain):
    one, four = build(chain([1, 2], [0.1, 0.2])), build(chain([1, 2], [0.1, 0.2]), batch=4)
    np.testing.assert_allclose(four.problem.cpu_s, one.problem.cpu_s / 4)
    np.testing.assert_allclose(four.problem.gpu_s[:2], one.problem.gpu_s[:2] / 4)
    assert four.problem.tensors[0].h2d_s == one.problem.tensors[0].h2d_s / 4
    assert four.problem.cpu_stage_s == CPU_STAGE_S / 4
    assert four.problem.whole_cpu_s == one.problem.whole_cpu_s / 4


def test_without_a_gpu_everything_is_on_the_cpu(chain):
    problem = build(chain([1, 2])).problem
    assert problem.on_cpu.all()
    assert not problem.on_gpu.any()


def test_tensors_join_producers_and_consumers(chain):
    problem = build(chain([1, 2, 3], [1, 1, 1])).problem
    links = {tensor.name: (tensor.producer, tensor.consumers) for tensor in problem.tensors}
    assert links == {"x": (3, (0,)), "v_a": (0, (1,)), "v_b": (1, (2,)), "y": (2, (4,))}
    assert problem.tensors[0].h2d_s == pytest.approx(0.01 * MS + 16 / 1e12)


def make_case(chain, graph, gpu=0.1):
    """A case about any graph: every node a group of its own."""
    case = chain([1], [gpu])
    case.graph = graph
    case.groups = [[node.name] for node in graph.nodes]
    case.cpu_ms = dict.fromkeys((node.name for node in graph.placeable), 1.0)
    case.gpu_ms = dict.fromkeys((node.name for node in graph.placeable), gpu)
    return case


def test_constant_and_dead_nodes_take_no_part(chain, save_model):
    nodes = [
        helper.make_node("Neg", ["w"], ["k"], name="constant"),
        helper.make_node("Exp", ["x"], ["z"], name="dead"),
        helper.make_node("Abs", ["z"], ["zz"], name="dead too"),
        helper.make_node("Add", ["x", "k"], ["y"], name="live"),
        helper.make_node("Neg", ["y"], ["q"], name="dead at the end"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], {"w": np.ones(4, np.float32)}))
    costed = build(make_case(chain, graph))
    assert [atom.nodes for atom in costed.atoms] == [("live",)]
    assert {tensor.name: (tensor.producer, tensor.consumers) for tensor in costed.problem.tensors} == {
        "x": (1, (0,)),
        "y": (0, (2,)),
    }


def test_strings_never_leave_the_host(chain, save_model):
    nodes = [
        helper.make_node("StringNormalizer", ["x"], ["s"], name="lower", case_change_action="LOWER"),
        helper.make_node(
            "LabelEncoder", ["s"], ["n"], domain="ai.onnx.ml", name="encode", keys_strings=["a"], values_floats=[1.0]
        ),
        helper.make_node("Relu", ["n"], ["y"], name="relu"),
    ]
    inputs, outputs = [("x", TensorProto.STRING, [4])], [("y", FLOAT, [4])]
    graph = load(save_model(nodes, inputs, outputs, opsets={"": 20, "ai.onnx.ml": 4}))
    graph = graph.with_measured(dict.fromkeys(("x", "s", "n", "y"), (4,)), {})
    costed = build(make_case(chain, graph))
    assert costed.problem.on_gpu[: len(costed.atoms)].tolist() == [False, False, True]
    assert costed.atoms[0].reason == "tensor `x` cannot be moved to a GPU: it is a string"
    with pytest.raises(PlanError, match="`encode` is pinned to the GPU"):
        build(make_case(chain, graph), "encode=gpu")


def test_a_tensor_of_unknown_size_stays_on_the_cpu(chain, save_model):
    nodes = [
        helper.make_node("NonZero", ["x"], ["at"], name="find"),
        helper.make_node("Abs", ["at"], ["y"], name="abs"),
        helper.make_node("Relu", ["x"], ["z"], name="relu"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [("y", TensorProto.INT64, [1, "n"]), ("z", FLOAT, [4])]))
    costed = build(make_case(chain, graph))
    assert costed.problem.on_gpu[:3].tolist() == [False, False, True]
    assert "its size is not known" in costed.atoms[0].reason


def test_maps_stay_on_the_cpu(chain, zipmap_path):
    graph = load(zipmap_path).with_measured({"p": (1, 3), "label": (1,), "x": (1, 4)}, {})
    costed = build(make_case(chain, graph))
    assert costed.problem.on_gpu[:2].tolist() == [True, False]
    assert "it is a seq(map(int64,float32))" in costed.atoms[1].reason


def test_weights_are_the_bytes_on_the_gpu(chain, save_model):
    nodes = [
        helper.make_node("Add", ["x", "w"], ["s"], name="a"),
        helper.make_node("Mul", ["s", "w"], ["y"], name="b"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], {"w": np.ones(4, np.float32)}))
    assert build(make_case(chain, graph)).problem.gpu_bytes.tolist() == [16, 16, 0, 0]
