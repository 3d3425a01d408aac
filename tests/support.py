"""Hand-made packages: any placement of any model as the folder that the real runtime loads."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.numerics import compare
from cutset.codegen.package import write_defaults
from cutset.codegen.runtime import DegradedWarning, Pipeline
from cutset.codegen.split import write_stages
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Part, Plan, Prediction, form_stages
from cutset.partitioner.wellformed import problems
from cutset.profilers.ort_cpu import observe_shapes

NO_CLAIM = Prediction(latency_s=0.0, throughput_per_s=0.0, bottleneck="cpu", utilisation={}, lower_bound_s=0.0, gap=0.0)
DEVICES = ("cpu", "gpu")
TABLES_OPSET = 28
"""The opset of the onnx that the tables of operators were made with."""

needs_newest_onnx = pytest.mark.skipif(
    onnx.defs.onnx_opset_version() < TABLES_OPSET, reason=f"this onnx is older than opset {TABLES_OPSET} of the tables"
)


def as_planned(path: Path, feeds: Mapping[str, Any]) -> ModelGraph:
    """Return the model as planning has it: loaded, and its shapes and types observed in one run."""
    graph = load(path)
    return graph.with_measured(*observe_shapes(graph, with_defaults(graph, feeds)))


def with_defaults(graph: ModelGraph, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return complete inputs: an input that is left out has its default."""
    return {spec.name: spec.default for spec in graph.inputs if spec.default is not None} | dict(feeds)


def random_placement(graph: ModelGraph, seed: int | str) -> dict[str, str]:
    """Return a seeded random device for each placeable node."""
    chooser = random.Random(seed)
    return {node.name: chooser.choice(DEVICES) for node in graph.placeable}


def phases(graph: ModelGraph, placement: Mapping[str, str]) -> list[Part]:
    """Return the alternating phases of a placement, as many as it takes: each path's count of device changes."""
    label: dict[str, int] = {}
    first = placement[graph.placeable[0].name] if graph.placeable else "cpu"
    for node in graph.placeable:
        sources = [graph.producer[value] for value in node.inputs if value in graph.producer]
        known = [label[source] + (placement[source] != placement[node.name]) for source in sources if source in label]
        label[node.name] = max([int(placement[node.name] != first), *known])
    return [
        Part(
            device=DEVICES[(DEVICES.index(first) + number) % 2],
            nodes=tuple(node.name for node in graph.placeable if label[node.name] == number),
        )
        for number in range(max(label.values(), default=-1) + 1)
    ]


def make_plan(graph: ModelGraph, placement: Mapping[str, str], *, tokens: int = 4) -> Plan:
    """Return a plan of exactly this placement that claims nothing about its speed."""
    return Plan(
        name="hand-made",
        model={},
        target={},
        objective="throughput",
        options={},
        decision="split",
        verdict="",
        cpu_workers=2,
        intra_op_threads=1,
        batch=1,
        tokens=tokens,
        queue_limit=64,
        inputs=graph.inputs,
        outputs=graph.outputs,
        placement={node.name: placement.get(node.name, "cpu") for node in graph.nodes},
        reasons={},
        pins={},
        stages=form_stages(graph, phases(graph, placement)),
        boundary=(),
        prediction=NO_CLAIM,
        baselines={},
    )


def write_package(graph: ModelGraph, plan: Plan, folder: Path) -> None:
    """Write the stages and the plan; the plan must satisfy its specification."""
    assert problems(graph, plan) == []
    write_stages(graph, plan.stages, folder)
    document = plan.as_json() | {"custom_ops": []}
    write_defaults(graph, folder, document["inputs"])
    (folder / "plan.json").write_text(json.dumps(document), "utf-8")


def load_pipeline(folder: Path) -> Pipeline:
    """Return the real runtime over a package; where there is no GPU its stages run on the CPU, which is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegradedWarning)
        return Pipeline.load(folder)


def run_whole(model: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, Any]:
    """Return what onnxruntime gives for the whole model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def differences(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> list[str]:
    """Return in what way two sets of outputs differ: their names, their order, or a value."""
    if list(expected) != list(actual):
        return [f"outputs are {list(actual)}, expected {list(expected)}"]
    found = [compare(name, value, actual[name]) for name, value in expected.items()]
    return [f"{result.name}: {result.reason}" for result in found if result.reason]


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """Write a model into a folder and return its path."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def loop_of_sums(trips: int) -> onnx.ModelProto:
    """Return Neg, a Loop of `trips` small sums that reads `x` from around it, and Abs: from `x` to `y`, two numbers each."""
    body = helper.make_graph(
        [helper.make_node("Add", ["c", "x"], ["sum"]), helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("c", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("sum", TensorProto.FLOAT, [2]),
        ],
    )
    nodes = [
        helper.make_node("Neg", ["x"], ["h"], name="neg"),
        helper.make_node("Loop", ["trips", "yes", "h"], ["l"], name="loop", body=body),
        helper.make_node("Abs", ["l"], ["y"], name="abs"),
    ]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (("trips", np.int64(trips)), ("yes", True))]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [2])] for name in "xy"]
    graph = helper.make_graph(nodes, "g", *sides, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
