"""An operator outside ONNX's own domain is never taken for ONNX's operator of the same name, whoever answers."""

import importlib.util

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.engines.build import Part, build_parts
from cutset.codegen.precision.floats import narrow
from cutset.codegen.precision.quantise import excluded
from cutset.codegen.precision.tf32 import emulated_tf32
from cutset.errors import EngineBuildError, PlanError
from cutset.graph.load import HOOK_DOMAIN, load
from cutset.partitioner.case import custom_operators
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import Pin
from cutset.partitioner.planner import plan
from cutset.partitioner.support import CERTIFIED_SOURCE, cuda_support, gpu_support, open_questions
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import Oracle, Verdict, ask
from cutset.profilers.child import Failure
from cutset.profilers.tensorrt import compile_network
from cutset.profilers.tensorrt_library import open_library
from tests.profile_tables import make_group, make_table

FLOAT = TensorProto.FLOAT
HOOK = f"{HOOK_DOMAIN}.0123456789ab.s"
ORACLE = Oracle(backend="tensorrt-rtx", version="any", compute_capability="8.9")
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


def branch(op, domain=""):
    node = helper.make_node(op, ["x"], [op], domain=domain)
    return helper.make_graph([node], op, [], [helper.make_tensor_value_info(op, FLOAT, [4, 4])])


@pytest.fixture
def model(tmp_path):
    """Every way in which an operator of another domain stands in a model, each beside the standard one."""
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Relu", ["a"], ["b"], name="custom", domain="acme"),
        helper.make_node("Sign", ["b"], ["c"], name="hook", domain=HOOK),
        helper.make_node("Sign", ["c"], ["d"], name="call", domain="my"),
        helper.make_node("Relu", ["w"], ["v"], name="weight", domain="acme"),
        helper.make_node("Identity", ["v"], ["v2"], name="copy"),
        helper.make_node("Add", ["d", "v2"], ["e"], name="reader"),
        helper.make_node(
            "If", ["flag"], ["y"], name="if", then_branch=branch("Relu", "acme"), else_branch=branch("Abs"),
        ),
        helper.make_node("Gelu", ["e"], ["z"], name="contributed", domain="com.microsoft"),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", FLOAT, [4, 4]), helper.make_tensor_value_info("flag", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info(name, FLOAT, [4, 4]) for name in ("y", "z")],
        [numpy_helper.from_array(np.ones((4, 4), "f"), "w")],
    )  # fmt: skip
    local = helper.make_function(
        "my", "Sign", ["i"], ["o"], [helper.make_node("Neg", ["i"], ["o"])], [helper.make_opsetid("", 20)]
    )
    domains = [("", 20), ("acme", 1), (HOOK, 1), ("my", 1), ("com.microsoft", 1)]
    imports = [helper.make_opsetid(*entry) for entry in domains]
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, functions=[local], ir_version=10), path)
    loaded = load(path)
    return loaded.with_measured(
        dict.fromkeys(loaded.values, (4, 4)) | {"flag": ()}, {name: "float32" for name in loaded.values if name != "flag"}
    )


CUSTOM = {"custom", "hook", "reader", "if", "contributed"}


def test_who_takes_an_operator_of_another_domain_to_run(model):
    found = custom_operators(model)
    assert {name: found.get(name) for name in (*CUSTOM, "weight", "copy", "relu")} == {
        "custom": "acme::Relu", "hook": f"{HOOK}::Sign", "reader": "acme::Relu", "if": "acme::Relu",
        "contributed": "com.microsoft::Gelu", "weight": "acme::Relu", "copy": "acme::Relu", "relu": None,
    }  # fmt: skip
    assert {node.op.op_type for node in model.nodes if node.name not in found} == {"Relu", "Neg"}, "functions are inlined"


@pytest.mark.parametrize("answerer", ["table", "library", "pinned"])
def test_tensorrt_is_not_asked_and_refuses_whatever_a_library_or_a_pin_says(model, answerer):
    names = [node.name for node in model.placeable]
    yes = Verdict(ok=True, reason="", source="TensorRT 99")
    verdicts = {} if answerer == "table" else dict.fromkeys(names, yes)
    insisted = names if answerer == "pinned" else ()
    assert CUSTOM.isdisjoint(open_questions(model, insisted))
    got = gpu_support(model, verdicts, insisted)
    assert {name for name, one in got.items() if not one.ok} == CUSTOM
    assert {got[name].source for name in CUSTOM} == {CERTIFIED_SOURCE}


def test_the_cuda_provider_takes_what_it_lists_and_never_a_hook(model):
    got = cuda_support(model)
    assert {name for name, one in got.items() if not one.ok} == CUSTOM - {"contributed"}
    insisted = cuda_support(model, insisted=list(got))
    assert {name for name, one in insisted.items() if not one.ok} == {"hook"}, "a pin says that the library has a kernel"


@needs_rtx
def test_the_probe_and_the_builders_refuse_what_the_parser_would_take_by_its_name(model, tmp_path):
    found = ask(model, {}, ["relu", "custom"], ORACLE, CostCache(None))
    assert {name: one.ok for name, one in found.items()} == {"relu": True, "custom": False}
    assert "acme::Relu" in found["custom"].reason
    alone = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], domain="acme")], "g",
        [helper.make_tensor_value_info("x", FLOAT, [4])], [helper.make_tensor_value_info("y", FLOAT, [4])],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)]
    path = tmp_path / "part.onnx"
    onnx.save(helper.make_model(alone, opset_imports=imports, ir_version=10), path)
    with pytest.raises(EngineBuildError, match="acme::Relu"):
        compile_network(open_library("tensorrt_rtx"), path, {"x": ((4,), ())}, "8.9")
    part = Part(nodes=("custom",), model=path, engine=tmp_path / "part.engine", inputs=())
    (outcome,) = build_parts([part], ORACLE)
    assert isinstance(outcome, Failure)
    assert "acme::Relu" in outcome.detail


def quick_on_the_gpu(model):
    """Return costs that would put every node on the GPU."""
    names = [node.name for node in model.placeable]
    groups = [make_group(name, 0.1) for name in names] + [make_group(name, 1e-6, device="gpu") for name in names]
    return make_table(*groups)


OPTIONS = PlanOptions(name="m", machine=Machine(cpu_workers=1, cores=1, batch=1), max_stages=9)


def test_a_plan_never_puts_it_into_a_stage_that_becomes_an_engine(model):
    """What is exported, or built by the package, is made of these stages."""
    made = plan(model, quick_on_the_gpu(model), gpu_support(model), {}, OPTIONS)
    assert CUSTOM.isdisjoint(name for stage in made.stages if stage.device == "gpu" for name in stage.nodes)
    assert made.placement["relu"] == "gpu"


def test_a_pin_to_the_gpu_is_refused_with_the_reason(model):
    pins = {"custom": Pin(pattern="custom", device="gpu")}
    with pytest.raises(PlanError, match="pinned to the GPU") as caught:
        plan(model, quick_on_the_gpu(model), gpu_support(model, insisted=["custom"]), pins, OPTIONS)
    assert "acme" in str(caught.value.cause)


def test_precisions_leave_it_alone():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="custom", domain="acme"),
        helper.make_node("MatMul", ["h", "w"], ["y"], name="standard"),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [4, 4])], [helper.make_tensor_value_info("y", FLOAT, [4, 4])],
        [numpy_helper.from_array(np.ones((4, 4), "f"), "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("acme", 1)], ir_version=10)
    for kind in ("fp16", "bf16"):
        assert narrow(model, dict.fromkeys("xwhy", "float32"), kind).nodes == ("standard",)
    rounded, names = emulated_tf32(model, dict.fromkeys("xwhy", "float32"))
    assert [node.input[0] for node in rounded.graph.node if node.name == "custom"] == ["x"]
    assert "custom" not in names
    assert excluded(model, ["kept"]) == ["custom", "kept"]
