"""Rewrites that make engines possible and change no number: each against the part as it was."""

import importlib.util
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.codegen.engines.build import Part, build_parts
from cutset.codegen.engines.cleanup import CLEAN_UPS, DEFAULT, clean
from cutset.codegen.engines.ranges import Runs, engine_inputs
from cutset.graph.load import load
from cutset.partitioner.support import CLEAN_UP_SOURCE, gpu_support, open_questions
from cutset.profilers.capability import Oracle
from cutset.profilers.child import Failure
from cutset.profilers.session import open_session, run

FLOAT, UINT8, INT64 = TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64
RNG = np.random.default_rng(0)
ORACLE = Oracle(backend="tensorrt-rtx", version="any", compute_capability="8.9")
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_{outputs.split()[0]}", **attributes)


@pytest.fixture
def photo(save_model):
    """Pre-processing as exporters write it: bytes are moved about, then cast."""
    nodes = [
        node("Slice", "x from to along", "cropped"),
        node("Concat", "cropped cropped", "twice", axis=3),
        node("Transpose", "twice", "planes", perm=[0, 3, 1, 2]),
        node("Cast", "planes", "f", to=FLOAT),
        node("Mul", "f scale", "y"),
    ]
    weights = {"from": np.array([1]), "to": np.array([7]), "along": np.array([1]), "scale": np.float32(1 / 255)}
    return save_model(nodes, [("x", UINT8, [1, 8, 8, 3])], [("y", FLOAT, [1, 6, 6, 8])], weights)


@pytest.fixture
def exported(save_model):
    """Constant arithmetic for a shape, a Squeeze without axes, and free dimensions."""
    nodes = [
        node("Concat", "one two", "shape", axis=0),
        node("Mul", "shape three", "target"),
        node("Reshape", "x target", "r"),
        node("Squeeze", "r", "s"),
        node("Relu", "s", "y"),
    ]
    weights = {"one": np.array([1]), "two": np.array([2, 2]), "three": np.array([1, 3, 1])}
    return save_model(nodes, [("x", FLOAT, ["n", 6])], [("y", FLOAT, [6, 2])], weights)


def cleaned(path, tmp_path, feeds, passes=DEFAULT):
    """Return the cleaned file and what changed it, after comparing its numbers with those of the original."""
    copy = tmp_path / "part.onnx"
    shutil.copyfile(path, copy)
    graph = load(path)
    inputs = engine_inputs(graph, [spec.name for spec in graph.inputs], Runs(usual=[feeds]))
    changed = clean(copy, inputs, passes)
    onnx.checker.check_model(str(copy))
    before, after = (run(open_session(file), feeds, ["y"])["y"] for file in (path, copy))
    assert np.array_equal(before, after)
    return copy, changed, inputs


def operators(path):
    return [one.op_type for one in onnx.load(path).graph.node]


PHOTO = {"x": RNG.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)}
ROWS = {"x": RNG.normal(size=(2, 6)).astype(np.float32)}


def test_casts_rise_to_the_border(photo, tmp_path):
    copy, changed, _ = cleaned(photo, tmp_path, PHOTO)
    assert changed == ("casts",)
    assert operators(copy) == ["Cast", "Slice", "Concat", "Transpose", "Mul"]
    types = {name: spec.dtype for name, spec in load(copy).values.items()}
    assert [name for name, dtype in types.items() if dtype == "uint8"] == ["x"]


def test_what_rises_counts_as_supported(photo):
    graph = load(photo)
    support = gpu_support(graph)
    moved = {"Slice_cropped", "Concat_twice", "Transpose_planes"}
    assert {name for name, verdict in support.items() if verdict.source == CLEAN_UP_SOURCE} == moved
    assert not moved & set(open_questions(graph))


def test_constants_and_axes(exported, tmp_path):
    copy, changed, _ = cleaned(exported, tmp_path, ROWS, ["constants"])
    assert (changed, operators(copy)) == (("constants",), ["Reshape", "Squeeze", "Relu"])
    copy, changed, _ = cleaned(exported, tmp_path, ROWS, ["constants", "squeeze"])
    assert changed == ("constants", "squeeze")
    squeeze = onnx.load(copy).graph.node[1]
    axes = {weight.name: onnx.numpy_helper.to_array(weight).tolist() for weight in onnx.load(copy).graph.initializer}
    assert axes[squeeze.input[1]] == [0]


def test_an_input_of_unknown_rank_gets_the_one_it_has(save_model, tmp_path):
    path = save_model([node("Relu", "x", "y")], [("x", FLOAT, None)], [("y", FLOAT, ["a", "b"])])
    copy, changed, inputs = cleaned(path, tmp_path, ROWS)
    assert changed == ("ranks",)
    assert load(copy).inputs[0].shape == ("x_dim0", "x_dim1")
    assert inputs[0].shapes[0] == (2, 6)


def test_shapes_are_fixed_only_when_told(exported, tmp_path):
    copy, changed, _ = cleaned(exported, tmp_path, ROWS)
    assert "shapes" not in changed
    assert load(copy).inputs[0].shape == ("n", 6)
    copy, changed, _ = cleaned(exported, tmp_path, ROWS, CLEAN_UPS)
    assert "shapes" in changed
    assert load(copy).inputs[0].shape == (2, 6)


@pytest.mark.parametrize("name", CLEAN_UPS)
def test_each_has_a_switch(exported, photo, tmp_path, name):
    rest = [other for other in CLEAN_UPS if other != name]
    assert name not in cleaned(exported, tmp_path, ROWS, rest)[1]
    assert name not in cleaned(photo, tmp_path, PHOTO, rest)[1]
    assert cleaned(exported, tmp_path, ROWS, [])[1] == ()


def test_what_a_graph_gives_out_or_two_read_does_not_rise(save_model, tmp_path):
    nodes = [node("Transpose", "x", "t", perm=[1, 0]), node("Cast", "t", "y", to=FLOAT)]
    path = save_model(nodes, [("x", UINT8, [2, 3])], [("y", FLOAT, [3, 2]), ("t", UINT8, [3, 2])])
    feeds = {"x": np.ones((2, 3), np.uint8)}
    assert cleaned(path, tmp_path, feeds)[1] == ()
    assert "uint8" in gpu_support(load(path))["Transpose_t"].reason


def test_large_constants_stay_computed(save_model, tmp_path):
    nodes = [node("ConstantOfShape", "size", "w"), node("Add", "x w", "y")]
    path = save_model(nodes, [("x", FLOAT, [1])], [("y", FLOAT, [300, 300])], {"size": np.array([300, 300])})
    assert cleaned(path, tmp_path, {"x": np.ones(1, np.float32)})[1] == ()


@needs_rtx
def test_an_engine_becomes_possible(photo, tmp_path):
    copy, _, inputs = cleaned(photo, tmp_path, PHOTO)
    before, after = build_parts(
        [Part(nodes=(), model=file, engine=tmp_path / "e", inputs=inputs) for file in (photo, copy)], ORACLE
    )
    assert isinstance(before, Failure)
    assert not isinstance(after, Failure), after
