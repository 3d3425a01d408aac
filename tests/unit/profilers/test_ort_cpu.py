"""Costs measured inside the running model cover it once and add up, whatever its names and types."""

import tempfile

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

from cutset.errors import ModelError, ProfileError
from cutset.graph.load import load
from cutset.profilers.inputs import draw
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cpu import observe, observe_shapes, profile_cpu
from cutset.profilers.signature import sign

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
BUDGET_S = 0.02


def profiled(path, inputs=None):
    graph = load(path)
    inputs = draw(graph.inputs, {}, seed=0) if inputs is None else inputs
    return graph, profile_cpu(graph, inputs, options=ProfileOptions(budget_s=BUDGET_S))


def check_partition(graph, profile):
    covered = [name for group in profile.groups for name in group.nodes]
    assert sorted(covered) == sorted(node.name for node in graph.nodes)
    assert len(profile.group_s) == len(profile.groups)
    assert min(profile.group_s, default=0) >= 0
    assert sum(profile.group_s) == pytest.approx(profile.session.median)


def test_a_network_is_covered_and_adds_up(cnn_path):
    graph, profile = profiled(cnn_path)
    check_partition(graph, profile)
    assert len(profile.groups) < len(graph.nodes), "onnxruntime fuses convolution and activation, so groups must too"
    assert any({"conv1", "relu1"} <= set(group.nodes) for group in profile.groups)
    assert profile.shapes["r1"] == (1, 8, 16, 16)
    assert profile.shapes["x"] == (1, 3, 16, 16)
    assert profile.dtypes["y"] == "float32"
    assert set(profile.unfused_s) == {node.name for node in graph.nodes}
    assert min(profile.unfused_s.values()) >= 0


def test_names_that_would_break_the_trace(save_model):
    name = '"},{'
    nodes = [
        helper.make_node("MatMul", ["x", "w"], [name], name=name),
        helper.make_node("Softmax", [name], ["`'\"\n\\"], name='</script>\n"'),
    ]
    weights = {"w": np.ones((4, 4), np.float32)}
    graph, profile = profiled(save_model(nodes, [("x", FLOAT, [1, 4])], [("`'\"\n\\", FLOAT, [1, 4])], weights))
    check_partition(graph, profile)
    assert profile.shapes[name] == (1, 4)
    assert set(profile.unfused_s) == {name, '</script>\n"'}


def test_bodies_count_once(if_path):
    graph, profile = profiled(if_path, {"x": np.ones((2, 4), np.float32)})
    check_partition(graph, profile)
    assert set(profile.unfused_s) == {"outer", "top", "flag", "branch"}
    assert profile.shapes["y"] == (2, 4)


def test_a_kernel_is_never_free(save_model):
    """These take less than the microseconds in which onnxruntime counts, and far less than writing their events."""
    nodes = [helper.make_node(op, [f"v{i}"], [f"v{i + 1}"], name=op) for i, op in enumerate(["Neg", "Exp", "Tanh"])]
    graph, profile = profiled(save_model(nodes, [("v0", FLOAT, [1])], [("v3", FLOAT, [1])]))
    check_partition(graph, profile)
    assert min(profile.group_s) > 0
    assert min(profile.unfused_s.values()) > 0


def test_maps_have_no_shape_and_do_not_stop_it(zipmap_path):
    graph, profile = profiled(zipmap_path)
    check_partition(graph, profile)
    assert "probabilities" not in profile.shapes
    assert profile.shapes["p"] == (1, 3)


def test_strings_and_long_vocabularies(save_model):
    words = np.array([f"word{number}" * 20 for number in range(200)], dtype=object)
    nodes = [helper.make_node("Gather", ["words", "i"], ["y"], name="look")]
    path = save_model(nodes, [("i", INT64, [2])], [("y", TensorProto.STRING, [2])], {"words": words})
    graph, profile = profiled(path, {"i": np.array([3, 199])})
    check_partition(graph, profile)
    assert (profile.shapes["y"], profile.dtypes["y"]) == ((2,), "string")


def test_sizes_that_depend_on_the_data_are_observed(save_model):
    nodes = [helper.make_node("NonZero", ["x"], ["at"], name="find"), helper.make_node("Transpose", ["at"], ["y"], name="turn")]
    path = save_model(nodes, [("x", FLOAT, [2, 3])], [("y", INT64, ["n", 2])])
    shapes, dtypes = observe_shapes(load(path), {"x": np.eye(2, 3, dtype=np.float32)})
    assert shapes == {"x": (2, 3), "at": (2, 2), "y": (2, 2)}
    assert dtypes["at"] == "int64"


def test_a_constant_whose_size_nobody_says_is_observed(tmp_path):
    """Symbolic inference stops at this Loop, and what comes after it is declared without a size."""
    path = tmp_path / "m.onnx"
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        late (float[2,3] x) => (float[] seen, float[] table, float[] y) {
            three = Constant <value = int64 {3}> ()
            last, seen = Loop <body = body (int64 i, bool go, float[] acc) => (bool still, float[] next, float[] each) {
                next = Add (acc, x)
                still = Identity (go)
                each = Neg (acc)
            }> (three, , x)
            table = Constant <value = float[3,3] {1, 2, 3, 4, 5, 6, 7, 8, 9}> ()
            y = MatMul (last, table)
        }
    """)
    onnx.save(model, path)
    graph = load(path)
    assert not graph.knows_shape("table")
    graph = graph.with_measured(*observe_shapes(graph, {"x": np.ones((2, 3), np.float32)}))
    assert graph.shape("table") == (3, 3)
    assert all(sign(graph, [node.name]).digest for node in graph.nodes)


def test_operators_that_onnxruntime_expands_are_observed(save_model):
    """An operator that has no kernel of its own leaves no event of its name in the trace."""
    nodes = [
        helper.make_node("Celu", ["x"], ["h"], name="celu"),
        helper.make_node("GroupNormalization", ["h", "s", "b"], ["g"], name="norm", num_groups=2),
        helper.make_node("Relu", ["g"], ["y"], name="relu"),
    ]
    weights = {"s": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}
    path = save_model(nodes, [("x", FLOAT, ["N", 4, 8])], [("y", FLOAT, ["N", 4, 8])], weights, opsets={"": 21})
    graph, profile = profiled(path)
    check_partition(graph, profile)
    assert profile.shapes["g"] == (1, 4, 8)


@pytest.mark.parametrize("nodes", [[], ["Relu"]], ids=["nothing", "constants"])
def test_models_that_compute_nothing(save_model, nodes):
    made = [helper.make_node(op, ["w"], ["y"], name="k") for op in nodes]
    outputs = [("y", FLOAT, [4])] if nodes else [("x", FLOAT, [4])]
    _, profile = profiled(save_model(made, [("x", FLOAT, [4])], outputs, {"w": np.ones(4, np.float32)}))
    assert [group.nodes for group in profile.groups] == ([("k",)] if nodes else [])
    assert sum(profile.group_s) == 0


def test_inputs_that_the_model_refuses(cnn_path):
    with pytest.raises(ProfileError, match="cannot run the model"):
        profiled(cnn_path, {"x": np.ones((1, 4, 16, 16), np.float32)})


def test_a_model_that_onnxruntime_refuses(save_model):
    path = save_model([helper.make_node("Conv", ["x"], ["y"])], [("x", FLOAT, [4])], [("y", FLOAT, [4])])
    with pytest.raises(ModelError, match="does not load") as caught:
        profiled(path)
    assert caught.value.where == str(path)


def test_groups_and_shapes_are_observed_without_timing(cnn_path):
    graph = load(cnn_path)
    inputs = draw(graph.inputs, {}, seed=0)
    seen, timed = observe(graph, inputs, threads=2), profile_cpu(graph, inputs, options=ProfileOptions(budget_s=0.0))
    assert seen.groups == timed.groups
    assert (seen.shapes, seen.dtypes) == (timed.shapes, timed.dtypes)


def test_errors_are_in_the_words_of_the_model(save_model):
    """Runs are of an anonymous copy in a temporary folder, which nobody is to look for."""
    x, y = ("my x", TensorProto.FLOAT, [2, 3]), ("y", TensorProto.FLOAT, None)
    refused = load(save_model([helper.make_node("Relu", ["my x"], ["y"], name="my node", alpha=3)], [x], [y]))
    with pytest.raises(ModelError) as caught:
        observe_shapes(refused, {"my x": np.ones((2, 3), np.float32)})
    assert caught.value.where == str(refused.path)
    assert '"my node"' in caught.value.cause
    assert '"my x"' in caught.value.cause
    nodes = [helper.make_node("Gather", ["my x", "at"], ["y"], name="my node")]
    fails = load(save_model(nodes, [x, ("at", TensorProto.INT64, [1])], [y]))
    with pytest.raises(ProfileError) as failed:
        observe_shapes(fails, {"my x": np.ones((2, 3), np.float32), "at": np.array([7])})
    assert "'my node'" in failed.value.cause
    assert "'my x': 'float32[2, 3]'" in failed.value.where
    for error in (caught.value, failed.value):
        assert tempfile.gettempdir() not in f"{error}".replace(str(refused.path), "")
