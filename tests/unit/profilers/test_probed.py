"""A verdict holds for what was asked and for nothing else: the key of a probe holds everything that the probe held."""

import importlib.util

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from cutset.graph.load import load
from cutset.profilers import capability
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import Oracle, ask
from cutset.profilers.ort_cpu import observe_shapes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ORACLE = Oracle(backend="tensorrt-rtx", version="any", compute_capability="8.9")
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
WIDTH = 4
SQUARE = np.eye(WIDTH, dtype=np.float32)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=outputs[0], **attributes)


def dequantised(dtype, zero, *, per_axis=False):
    """Return nodes and weights of a constant that a DequantizeLinear makes."""
    zeros = np.full(WIDTH, zero).astype(dtype) if per_axis else np.array(zero).astype(dtype)
    scales = np.full(WIDTH, 0.5, np.float32) if per_axis else np.float32(0.5)
    weights = {"q": SQUARE.astype(dtype), "s": scales, "z": zeros}
    return [node("DequantizeLinear", "qsz", ["w"], axis=0)], weights


def cast(dtype):
    return [node("Cast", "q", ["w"], to=FLOAT)], {"q": SQUARE.astype(dtype)}


WEIGHTS = {
    "plain": ([], {"w": SQUARE}),
    "symmetric": dequantised(np.int8, 0),
    "asymmetric": dequantised(np.int8, 3),
    "unsigned": dequantised(np.uint8, 117),
    "per channel": dequantised(np.int8, 0, per_axis=True),
    "per channel, asymmetric": dequantised(np.int8, 3, per_axis=True),
    "8-bit float": dequantised(ml_dtypes.float8_e4m3fn, 0),
    "from float64": cast(np.float64),
    "from float16": cast(np.float16),
    "turned": ([node("Transpose", "q", ["w"], perm=[1, 0])], {"q": SQUARE}),
    "filled": (
        [node("ConstantOfShape", "q", ["w"], value=numpy_helper.from_array(np.ones(1, "f")))],
        {"q": np.array([WIDTH, WIDTH])},
    ),
    "filled otherwise": (
        [node("ConstantOfShape", "q", ["w"], value=numpy_helper.from_array(np.zeros(1, "f")))],
        {"q": np.array([WIDTH, WIDTH])},
    ),
}  # fmt: skip
"""Ways to make a constant of one type and shape."""


def products(tmp_path, kinds, *, opset=20, sizes=("n", "n")):
    """Return a model of one product a kind of weight, all of one shape, with its sample."""
    nodes, weights = [], {}
    for index, kind in enumerate(kinds):
        made, held = WEIGHTS[kind]
        for one in made:
            copy = onnx.NodeProto()
            copy.CopyFrom(one)
            copy.name = f"{one.name}{index}"
            for names in (copy.input, copy.output):
                names[:] = [f"{name}{index}" for name in names]
            nodes.append(copy)
        weights |= {f"{name}{index}": array for name, array in held.items()}
        nodes.append(node("MatMul", ["x", f"w{index}"], [f"y{index}"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, [sizes[0], WIDTH])],
        [helper.make_tensor_value_info(f"y{index}", FLOAT, [sizes[1], WIDTH]) for index in range(len(kinds))],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), path)
    made, sample = load(path), {"x": np.ones((2, WIDTH), np.float32)}
    return made.with_measured(*observe_shapes(made, sample)), sample


def contents(model: bytes) -> str:
    """Return all that a probe holds but names: operators, attributes, types, shapes, elements."""
    proto = onnx.load_from_string(model)
    held = {weight.name: repr((weight.data_type, numpy_helper.to_array(weight).tolist())) for weight in proto.graph.initializer}
    symbols: dict[str, int] = {}
    for value in proto.graph.input:
        kind = value.type.tensor_type
        dims = [dim.dim_value or symbols.setdefault(dim.dim_param, len(symbols)) for dim in kind.shape.dim]
        held[value.name] = repr((kind.elem_type, [type(dim.dim_value or "").__name__ for dim in kind.shape.dim], dims))
    for one in proto.graph.node:
        attributes = sorted(attribute.SerializeToString().hex() for attribute in one.attribute)
        read = [held.get(name, "") for name in one.input]
        held |= {name: repr((one.op_type, attributes, read, slot)) for slot, name in enumerate(one.output)}
    return repr([[held[value.name] for value in proto.graph.output], [(o.domain, o.version) for o in proto.opset_import]])


@pytest.fixture
def suspicious(monkeypatch):
    """A library that answers by everything that it is given."""
    monkeypatch.setattr(
        capability, "map_in_child", lambda _function, probes, **_: [contents(probe.model) for probe in probes]
    )  # fmt: skip


MODELS = st.builds(
    dict,
    kinds=st.lists(st.sampled_from(sorted(WEIGHTS)), min_size=1, max_size=4),
    opset=st.sampled_from([19, 20, 21]),
    sizes=st.sampled_from([("n", "n"), (2, 2), (None, None)]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=MODELS, second=MODELS)
def test_verdicts_with_a_cache_from_another_model_are_those_without(suspicious, tmp_path_factory, first, second):
    folder = tmp_path_factory.mktemp("verdicts")
    shared = CostCache(folder)
    for about in (first, second):
        graph, sample = products(folder, **about)
        names = [one.name for one in graph.placeable]
        apart = [ask(graph, sample, [name], ORACLE, CostCache(None))[name] for name in names]
        assert list(ask(graph, sample, names, ORACLE, shared).values()) == apart
        assert list(ask(graph, sample, names, ORACLE, shared).values()) == apart, "nothing that was kept is of another kind"


def test_alike_is_asked_about_once(suspicious, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        capability, "map_in_child", lambda _function, probes, **_: [asked.append(probe) or "" for probe in probes]
    )  # fmt: skip
    graph, sample = products(tmp_path, ["plain", "symmetric", "plain", "symmetric", "asymmetric"])
    ask(graph, sample, [one.name for one in graph.placeable], ORACLE, CostCache(tmp_path))
    assert len(asked) == 3


def test_large_weights_of_other_numbers_are_alike_and_large_zero_points_are_not(tmp_path, monkeypatch):
    """The elements of a weight refuse nothing; a single zero point among many that is not zero does."""
    wide = 100
    asked = []
    monkeypatch.setattr(
        capability, "map_in_child", lambda _function, probes, **_: [asked.append(probe) or "" for probe in probes]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    nodes, weights = [], {}
    for index in range(4):
        weights |= {
            f"q{index}": rng.integers(-9, 9, (wide, wide)).astype(np.int8),
            f"s{index}": rng.random(wide, dtype=np.float32) + 0.1,
            f"z{index}": np.zeros(wide, np.int8),
        }
        nodes += [
            node("DequantizeLinear", [f"q{index}", f"s{index}", f"z{index}"], [f"w{index}"], axis=0),
            node("MatMul", ["x", f"w{index}"], [f"y{index}"]),
        ]
    weights["z3"][7] = 1
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", FLOAT, [2, wide])],
        [helper.make_tensor_value_info(f"y{index}", FLOAT, [2, wide]) for index in range(4)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    made = load(path)
    ask(made, {"x": np.ones((2, wide), "f")}, [one.name for one in made.placeable], ORACLE, CostCache(None))
    assert len(asked) == 2


@needs_rtx
@pytest.mark.parametrize("order", [1, -1])
def test_a_refused_weight_condemns_no_layer_of_its_shape(tmp_path, order):
    """In one model, and through the cache in another, whichever comes first."""
    kinds = ["unsigned", "plain", "8-bit float", "symmetric"][::order]
    graph, sample = products(tmp_path, kinds)
    found = ask(graph, sample, [one.name for one in graph.placeable], ORACLE, CostCache(tmp_path))
    taken = dict(zip(kinds, (verdict.ok for verdict in found.values()), strict=True))
    assert (taken["plain"], taken["unsigned"]) == (True, False)
    graph, sample = products(tmp_path, ["plain"])
    (after,) = ask(graph, sample, [one.name for one in graph.placeable], ORACLE, CostCache(tmp_path)).values()
    assert after.ok
