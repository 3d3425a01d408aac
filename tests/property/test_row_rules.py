"""Every rule about rows against onnxruntime, on ONNX's own node tests: where rows are said to stay apart, joint runs agree.

Each test model's inputs are taken for requests in two ways: all of them carry rows, or the first one does and the others are
weights. The static judge sees sizes with a free first dimension; whatever it calls row by row is run jointly and apart.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.numerics import compare
from cutset.codegen.row_requests import vary
from cutset.errors import CutsetError
from cutset.profilers.session import open_session, run, session_options
from cutset.rowwise import follow_rows
from cutset.rowwise.flow import RowAxis
from cutset.rowwise.operation import RULES
from tests.e2e.backend_cases import BackendCase, backend_cases

AXIS = "n"


def read(case: BackendCase) -> dict[str, np.ndarray] | None:
    """Return a test's first inputs, None where one is no plain tensor, or nothing is computed from inputs."""
    inputs, values = case.model.graph.input, case.samples[0][0]
    arrays = dict(zip((value.name for value in inputs), values, strict=False))
    plain = len(inputs) == len(values) and all(value.type.HasField("tensor_type") for value in inputs)
    return arrays if plain and arrays and all(isinstance(array, np.ndarray) for array in arrays.values()) else None


def with_rows(model: onnx.ModelProto, arrays: dict[str, np.ndarray], carriers: list[str]) -> onnx.ModelProto:
    """Return the model with a free first dimension on some inputs, and the other inputs as weights."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for value in list(made.graph.input):
        if value.name in carriers:
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_param = AXIS
        else:
            made.graph.input.remove(value)
            made.graph.initializer.append(numpy_helper.from_array(arrays[value.name], value.name))
    for value in made.graph.output:
        value.type.tensor_type.ClearField("shape")
    return made


def contradiction(model: onnx.ModelProto, arrays: dict[str, np.ndarray], carriers: list[str]) -> str | None:
    """Return how a joint run differs from runs apart though the judge says that rows stay apart; None if not so judged."""
    trial = with_rows(model, arrays, carriers)
    flow = follow_rows(ir.from_proto(trial), {}, AXIS)
    if flow.reason or len({len(arrays[name]) for name in carriers}) != 1:
        return None
    first = {name: arrays[name] for name in carriers}
    try:
        function = partial(run, open_session(trial.SerializeToString(), options=session_options(level="none")))
        requests = [(first, function(first))]
    except CutsetError:
        return None  # a kernel or an element type that onnxruntime lacks
    for feed in vary(first):
        try:
            requests.append((feed, function(feed)))
        except CutsetError:
            continue  # a size or an index that a variation made invalid
    order = [requests[-1], *requests]
    try:
        joint = function({name: np.concatenate([feed[name] for feed, _ in order]) for name in carriers})
    except CutsetError as error:
        return f"fails: {error.cause}"
    for name, value in joint.items():
        start = 0
        for _, alone in order:
            if np.shape(value)[:1] != (sum(len(each[name]) for _, each in order),):
                return f"`{name}` has shape {np.shape(value)}"
            found = compare(name, alone[name], value[start : start + len(alone[name])])
            if found.reason:
                return found.reason
            start += len(alone[name])
    return ""


@pytest.fixture(scope="module")
def judged() -> tuple[dict[str, str], Counter[str]]:
    """The contradictions by test, and how often each operator was called row by row."""
    wrong, seen = {}, Counter()
    for case in backend_cases():
        arrays = read(case)
        if arrays is None:
            continue
        model = case.model
        names = [key for key, array in arrays.items() if array.ndim and array.shape[0]]
        for carriers in ([*arrays], [*arrays][:1]) if len(arrays) > 1 else ([*arrays],):
            if not set(carriers) <= set(names):
                continue
            reason = contradiction(model, arrays, carriers)
            if reason is None:
                continue
            seen.update({node.op_type for node in model.graph.node})
            if reason:
                wrong[f"{case.name} {carriers}"] = reason
    return wrong, seen


def test_no_rule_is_contradicted(judged):
    assert judged[0] == {}


FUSED: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, object], dict[str, object]]] = {
    "Gelu": ({"x": (2, 8)}, {}, {}),
    "QuickGelu": ({"x": (2, 8)}, {}, {}),
    "FastGelu": ({"x": (2, 8)}, {"bias": (8,)}, {}),
    "BiasGelu": ({"x": (2, 8)}, {"bias": (8,)}, {}),
    "SkipLayerNormalization": ({"x": (2, 3, 8), "skip": (2, 3, 8)}, {"gamma": (8,), "beta": (8,)}, {}),
    "SkipSimplifiedLayerNormalization": ({"x": (2, 3, 8), "skip": (2, 3, 8)}, {"gamma": (8,)}, {}),
    "FusedMatMul": ({"a": (2, 3, 8), "b": (2, 5, 8)}, {}, {"transB": 1, "alpha": 0.5}),
    "FusedGemm": ({"x": (2, 8)}, {"w": (8, 5), "bias": (5,)}, {"activation": "Relu"}),
    "FusedConv": ({"x": (2, 3, 6, 6)}, {"w": (4, 3, 3, 3), "bias": (4,)}, {"activation": "Relu"}),
    "Attention": ({"x": (2, 3, 8)}, {"w": (8, 24), "bias": (24,)}, {"num_heads": 2}),
    "MultiHeadAttention": ({"q": (2, 3, 8), "k": (2, 5, 8), "v": (2, 5, 8)}, {}, {"num_heads": 2}),
    "QLinearAdd": ({"x": (2, 8)}, {"s": 0.1, "z": 3, "y": (1, 8), "t": 0.2, "zt": 5, "u": 0.3, "zu": 1}, {}),
    "QLinearMul": ({"x": (2, 8)}, {"s": 0.1, "z": 3, "y": (1, 8), "t": 0.2, "zt": 5, "u": 0.3, "zu": 1}, {}),
    "QLinearSigmoid": ({"x": (2, 8)}, {"s": 0.1, "z": 3, "t": 0.01, "zt": 5}, {}),
    "QLinearLeakyRelu": ({"x": (2, 8)}, {"s": 0.1, "z": 3, "t": 0.2, "zt": 5}, {"alpha": 0.1}),
    "QLinearGlobalAveragePool": ({"x": (2, 3, 4, 4)}, {"s": 0.1, "z": 3, "t": 0.1, "zt": 5}, {}),
    "DynamicQuantizeMatMul": ({"x": (2, 8)}, {"w8": (8, 8), "scale": (1,)}, {}),
}
"""Operators of com.microsoft: inputs that carry rows, weights (numbers are scalars: scales, and zero points), attributes."""


def fused(kind: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model of one operator of com.microsoft, and inputs."""
    carriers, weights, attributes = FUSED[kind]
    byte = kind.startswith("QLinear")
    rng = np.random.default_rng(3)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if byte or name.endswith("8"):
            return rng.integers(0, 100, shape).astype(np.uint8)
        return rng.normal(size=shape).astype(np.float32)

    def weight(name: str, value: object) -> np.ndarray:
        scalar = np.uint8(value) if isinstance(value, int) else np.float32(value) if isinstance(value, float) else None
        return draw(name, value) if scalar is None else np.asarray(scalar)  # type: ignore[arg-type]

    arrays = {name: draw(name, shape) for name, shape in carriers.items()}
    element = TensorProto.UINT8 if byte else TensorProto.FLOAT
    node = helper.make_node(kind, [*carriers, *weights], ["out"], name="only", domain="com.microsoft", **attributes)
    graph = helper.make_graph(
        [node], kind, [helper.make_tensor_value_info(name, element, shape) for name, shape in carriers.items()],
        [helper.make_tensor_value_info("out", element, None)],
        [numpy_helper.from_array(weight(name, value), name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), arrays


@pytest.mark.parametrize("kind", FUSED)
def test_fused_operators_are_judged_as_they_run(kind):
    model, arrays = fused(kind)
    assert contradiction(model, arrays, [*arrays]) == (None if kind.startswith("Dynamic") else "")


def test_most_rules_are_tried(judged):
    """The rules of the standard domain, but those whose tests have no valid joint run; others have tests of their own."""
    tried = {name for domain, name in RULES if domain == "" and judged[1][name]}
    untried = {name for domain, name in RULES if domain == ""} - tried
    assert len(tried) >= 100, (ort.__version__, sorted(untried))


def moved(model: onnx.ModelProto, arrays: dict[str, np.ndarray], carriers: list[str], axis: int) -> onnx.ModelProto | None:
    """Return a model whose operator sees rows on another dimension, and whose outputs have them first again.

    Outputs without plain rows are left out; None if there is no other.
    """
    trial = with_rows(model, arrays, carriers)
    nodes = list(trial.graph.node)
    del trial.graph.node[:]
    for value in trial.graph.input:
        dims = list(arrays[value.name].shape)
        order = [*range(1, axis + 1), 0, *range(axis + 1, len(dims))]
        trial.graph.node.add().CopyFrom(helper.make_node("Transpose", [f"{value.name}.first"], [value.name], perm=order))
        sizes = [AXIS, *(size for index, size in enumerate(dims) if index != axis)]
        value.CopyFrom(helper.make_tensor_value_info(f"{value.name}.first", value.type.tensor_type.elem_type, sizes))
    trial.graph.node.extend(nodes)
    flows = follow_rows(ir.from_proto(trial), {}, AXIS).flows
    outputs = list(trial.graph.output)
    del trial.graph.output[:]
    for value in outputs:
        flow = flows.get(value.name)
        if flow is None or flow.mixed or flow.numbers_rows or flow.rows is None or flow.rows != RowAxis(axis=flow.rows.axis):
            continue
        order = [flow.rows.axis, *(place for place in range(flow.rank) if place != flow.rows.axis)]
        trial.graph.node.add().CopyFrom(helper.make_node("Transpose", [value.name], [f"{value.name}.back"], perm=order))
        value.name += ".back"
        trial.graph.output.add().CopyFrom(value)
    return trial if trial.graph.output else None


def test_no_rule_is_contradicted_with_rows_on_another_dimension():
    """The operators one by one, a few tests of each."""
    wrong, seen, cases = {}, Counter(), Counter()
    for case in backend_cases():
        arrays = read(case)
        kind = case.model.graph.node[0].op_type
        if arrays is None or len(case.model.graph.node) > 1 or cases[kind] > 3:
            continue
        cases[kind] += 1
        for axis, carriers in ((axis, names) for axis in (1, 2) for names in ([*arrays], [*arrays][:1])):
            if any(arrays[name].ndim <= axis for name in carriers) or len({arrays[n].shape[axis] for n in carriers}) > 1:
                continue
            trial = moved(case.model, arrays, carriers, axis)
            firsts = {f"{name}.first": np.ascontiguousarray(np.moveaxis(arrays[name], axis, 0)) for name in carriers}
            reason = None if trial is None else contradiction(trial, firsts, [*firsts])
            seen.update([kind] if reason is not None else [])
            if reason:
                wrong[f"{case.name} {carriers} {axis}"] = reason
    assert wrong == {}
    assert len(seen) >= 60, sorted(seen)
