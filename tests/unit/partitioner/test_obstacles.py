"""What keeps a model off the GPU is named by kind, with its share of the time and a way out."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.load import load
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Machine
from cutset.partitioner.obstacles import KINDS, held_back, kind_of
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.planner import plan_evidence
from cutset.partitioner.support import cuda_support, gpu_support
from tests.profile_tables import make_group, make_table

FLOAT, UINT8, INT8, DOUBLE = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.DOUBLE
OPTIONS = PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1), max_stages=3)
ZERO_POINT = "the parser refuses: QuantizeLinear: Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point"


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=outputs[0], **attributes)


def graph_of(tmp_path, nodes, outputs, weights):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [4, 4])],
        [helper.make_tensor_value_info(name, kind, [4, 4]) for name, kind in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "m.onnx")
    made = load(tmp_path / "m.onnx")
    return made.with_measured(dict.fromkeys((spec for spec in made.values if spec not in weights), (4, 4)), {})


def outcome_of(graph, support, cpu_s=None):
    """Return the plan of a model all of whose nodes are a thousand times as fast on the GPU."""
    names = [one.name for one in graph.placeable]
    seconds = {name: (cpu_s or {}).get(name, 0.01) for name in names}
    groups = [make_group(name, seconds[name]) for name in names]
    groups += [make_group(name, seconds[name] / 1000, device="gpu") for name in names]
    evidence = Evidence(graph=graph, table=make_table(*groups), support=support, pins={})
    return plan_evidence(evidence, OPTIONS)


QUANTISED = {"s": np.float32(0.1), "z": np.uint8(117), "w": np.eye(4, dtype=np.float32)}


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory):
    """Products of activations in uint8 with a zero point that is not zero, as onnxruntime quantises by default."""
    nodes = []
    for index in range(3):
        nodes += [
            node("QuantizeLinear", ["x" if index == 0 else f"h{index - 1}", "s", "z"], [f"q{index}"]),
            node("DequantizeLinear", [f"q{index}", "s", "z"], [f"d{index}"]),
            node("MatMul", [f"d{index}", "w"], [f"h{index}"]),
        ]
    return graph_of(tmp_path_factory.mktemp("asymmetric"), nodes, [("h2", FLOAT)], QUANTISED)


@pytest.fixture(scope="module")
def refused(asymmetric):
    return outcome_of(asymmetric, gpu_support(asymmetric))


def test_asymmetric_quantisation_is_named_with_a_way_out(refused):
    found = held_back(refused, "tensorrt")
    assert found is not None
    assert refused.plan.placement["q0"] == "cpu"
    (obstacle,) = found.obstacles
    assert (obstacle.what, obstacle.nodes, obstacle.first) == ("quantisation to uint8", 6, ("q0", "d0", "q1"))
    assert "symmetrically to int8" in obstacle.way_out
    assert "--gpu-backend onnxruntime-cuda takes all of them" in obstacle.way_out
    assert found.gain is not None
    assert found.gain > 100


def test_the_gain_is_that_of_the_plan_without_the_refusals(asymmetric, refused):
    free = outcome_of(asymmetric, cuda_support(asymmetric))
    found = held_back(refused, "tensorrt")
    assert found is not None
    assert found.gain == pytest.approx(free.plan.prediction.throughput_per_s / refused.plan.prediction.throughput_per_s)
    assert held_back(free, "onnxruntime-cuda") is None, "nothing holds it back"


def test_integer_operators_are_named_with_a_way_out(tmp_path):
    quantised = ["q0", "s", "z", "v", "s", "z", "s", "z"]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q0"]),
        node("QLinearMatMul", quantised, ["q1"]),
        node("QLinearAdd", ["q1", "s", "z", "q1", "s", "z", "s", "z"], ["q2"], domain="com.microsoft"),
        node("DequantizeLinear", ["q2", "s", "z"], ["y"]),
    ]
    weights = QUANTISED | {"v": np.eye(4, dtype=np.uint8)}
    graph = graph_of(tmp_path, nodes, [("y", FLOAT)], weights).with_measured({}, {"q2": "uint8"})
    found = held_back(outcome_of(graph, gpu_support(graph), {"q1": 0.1, "q2": 0.05}), "tensorrt")
    assert found is not None
    first, second = found.obstacles
    assert (first.what, first.nodes) == ("integer operators of 8-bit models", 2)
    assert first.share == pytest.approx(0.15 / 0.17)
    assert "QuantFormat.QDQ" in first.way_out
    assert "onnxruntime-cuda" not in first.way_out, "the CUDA provider has no kernels of them either"
    assert second.what == "quantisation to uint8"
    assert found.share == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("reason", "what"),
    [
        (ZERO_POINT, "zero points that are not zero"),
        ("the parser refuses: DequantizeLinear: status.is_success(): Found unsupported input type of UINT8",
         "quantisation to uint8"),
        ("`image` is uint8: TensorRT takes uint8 only at the border of an engine, beside a Cast", "uint8 tensors"),
        ("TensorRT has no operator of domain `com.microsoft`, and no plugin for Gelu", "fused operators of onnxruntime"),
        ("the builder refuses: Error Code 4: API Usage Error (Quantized constant (w_q) is only allowed before DQ or PLUGIN_V2)",
         "weights of 8 bits that no DequantizeLinear reads"),
        ("the builder refuses: Error Code 4: Internal Error (Kernel (k::h2) is missing. In run at /_src/a/b.cpp:43)",
         "the builder refuses: Error Code 4: Internal Error (Kernel (…) is missing.)"),
        ("`x` is float64: TensorRT silently computes float64 as float32", "64-bit floats"),
        ("Loop is control flow: the parser takes it", "control flow"),
        ("operand `n` shapes the output and depends on the data", "sizes that depend on the data"),
        ("`x` is string: strings never leave the host", "text and sequences"),
        ("the builder dislikes `h` today", "the builder dislikes `…` today"),
    ],
)  # fmt: skip
def test_kinds(reason, what):
    known = {kind.what: kind.way_out for kind in KINDS}
    found = kind_of("Relu", reason)
    assert (found.what, found.way_out) == (what, known.get(what, ""))


def test_what_nothing_helps_against_promises_nothing(chain):
    case = chain([10, 10], [0.1, 0.1], refused=dict.fromkeys("ab", "`t` is string: strings never leave the host"))
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    found = held_back(plan_evidence(evidence, OPTIONS), "onnxruntime-cuda")
    assert found is not None
    assert [(one.what, one.nodes, one.share, one.way_out) for one in found.obstacles] == [("text and sequences", 2, 1.0, "")]
    assert found.gain is None


def test_what_is_alike_counts_with_what_it_is_like(chain):
    case = chain([10, 10, 10], [0.1, 0.1, 0.1], refused={"a": ZERO_POINT, "c": "as `a`, which is alike"})
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    found = held_back(plan_evidence(evidence, OPTIONS), "tensorrt")
    assert found is not None
    assert [(one.what, one.nodes) for one in found.obstacles] == [("zero points that are not zero", 2)]


def test_little_that_is_held_back_is_not_told(chain):
    case = chain([10, 1, 10, 10], [0.1, 0.1, 0.1, 0.1], refused={"b": "`t` is string: strings never leave the host"})
    evidence = Evidence(graph=case.graph, table=case.table(), support=case.support(), pins={})
    outcome = plan_evidence(evidence, OPTIONS)
    assert outcome.plan.decision == "split"
    assert held_back(outcome, "onnxruntime-cuda") is None
    alone = chain([10, 10], refused={"a": "no"})
    evidence = Evidence(graph=alone.graph, table=alone.table(), support=alone.support(), pins={})
    assert held_back(plan_evidence(evidence, OPTIONS), "tensorrt") is None, "no GPU is planned for"
