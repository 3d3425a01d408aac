"""Which stages the rows of several requests may share a run of, and why others may not."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.batchability import prove_all
from cutset.codegen.split import write_stages
from cutset.graph.load import load
from cutset.profilers.inputs import collect
from cutset.profilers.session import open_session
from cutset.sample_models import registry
from tests.support import make_plan

FLOAT = TensorProto.FLOAT


def findings(save_model, tmp_path, nodes, inputs, outputs, *, gpu=(), weights=None):
    """Return the findings of every stage of a model, split where `gpu` says."""
    path = save_model(nodes, inputs, outputs, weights or {})
    graph = load(path)
    plan = make_plan(graph, {node.name: "gpu" if node.name in gpu else "cpu" for node in graph.placeable})
    write_stages(graph, plan.stages, tmp_path)
    return prove_all(graph, plan.stages, tmp_path, collect(graph.inputs, model=path).samples)


def one(save_model, tmp_path, nodes, **options):
    shape = options.pop("shape", ["batch", 4])
    outputs = [("y", FLOAT, options.pop("out", shape))]
    (found,) = findings(save_model, tmp_path, nodes, [("x", FLOAT, shape)], outputs, **options)
    return found


def test_a_row_by_row_network_is_batchable_stage_by_stage(save_model, tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"), helper.make_node("Softmax", ["h"], ["y"], name="s")]
    weights = {"w": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)}
    found = findings(
        save_model, tmp_path, nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])], gpu={"dense"}, weights=weights
    )
    assert [(finding.proven, finding.reason) for finding in found] == [(True, "")] * 2
    assert all(finding.rows > 4 for finding in found)


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (helper.make_node("Softmax", ["x"], ["y"], axis=0), {}),
        (helper.make_node("CumSum", ["x", "axis"], ["y"]), {"axis": np.array(0, np.int64)}),
        (helper.make_node("Max", ["x", "floor"], ["y"]), {"floor": np.zeros((1, 4), np.float32)}),
    ],
    ids=["softmax", "cumsum", "max"],
)
def test_rows_that_mix_are_found_out(save_model, tmp_path, node, weights):
    found = one(save_model, tmp_path, [node], weights=weights)
    assert found.proven == (node.op_type == "Max")
    assert ("dimension 0, which carries the rows" in found.reason) == (not found.proven)


def test_a_mean_over_the_batch_is_found_out(save_model, tmp_path):
    """It is the same for two copies of one sample; different samples tell."""
    nodes = [helper.make_node("ReduceMean", ["x", "axes"], ["m"], keepdims=1), helper.make_node("Sub", ["x", "m"], ["y"])]
    found = one(save_model, tmp_path, nodes, weights={"axes": np.array([0], np.int64)})
    assert (found.proven, "ReduceMean" in found.reason) == (False, True)


def test_answers_that_hardly_differ_prove_nothing(save_model, tmp_path):
    """A large bias hides whose features a row read."""
    nodes = [helper.make_node("Tanh", ["x"], ["h"]), helper.make_node("Add", ["h", "bias"], ["y"])]
    found = one(save_model, tmp_path, nodes, weights={"bias": np.full(4, 1e6, np.float32)})
    assert not found.proven
    assert "hardly differs between requests" in found.reason
    assert one(save_model, tmp_path, nodes, weights={"bias": np.full(4, 1.0, np.float32)}).proven


def test_a_confident_softmax_is_judged_by_its_input(save_model, tmp_path):
    weights = {"w": np.diag(np.float32([1.0, 1.0, 1.0, 0.0])), "bias": np.float32([0.0, 0.0, 0.0, 1e5])}
    nodes = [
        helper.make_node("Tanh", ["x"], ["t"]),
        helper.make_node("MatMul", ["t", "w"], ["h"]),
        helper.make_node("Add", ["h", "bias"], ["z"]),
        helper.make_node("Softmax", ["z"], ["y"], axis=-1),
    ]
    assert "hardly differs" in one(save_model, tmp_path, nodes, weights=weights).reason
    weights["bias"][3] = 30.0  # the softmax is still saturated, its input tells requests apart
    assert one(save_model, tmp_path, nodes, weights=weights).proven


def test_an_index_from_outside_may_pick_another_row(save_model, tmp_path):
    """Each request brings the places of its own first row; in a joint run they are those of the first request."""
    nodes = [
        helper.make_node("Reshape", ["x", "all"], ["flat"], name="flatten"),
        helper.make_node("Gather", ["flat", "places"], ["y"], name="pick"),
    ]
    found = findings(
        save_model, tmp_path, nodes, [("x", FLOAT, ["n", 4]), ("places", TensorProto.INT64, ["n", 4])],
        [("y", FLOAT, ["n", 4])], gpu={"flatten", "pick"}, weights={"all": np.array([-1], np.int64)},
    )  # fmt: skip
    assert [(finding.proven, "`pick`" in finding.reason) for finding in found] == [(False, True)]


@pytest.mark.parametrize(
    ("nodes", "shape", "out", "reason"),
    [
        ([helper.make_node("Neg", ["x"], ["y"])], [1, 4], [1, 4], "the first axis of `x` is fixed"),
        ([helper.make_node("Neg", ["x"], ["y"])], [], [], "`x` has no first axis"),
        ([helper.make_node("Transpose", ["x"], ["y"])], ["n", 2], [2, "n"], "the first axis of `y` is fixed"),
        (
            [
                helper.make_node("NonZero", ["x"], ["i"]),
                helper.make_node("Transpose", ["i"], ["t"]),
                helper.make_node("Cast", ["t"], ["y"], to=FLOAT),
            ],
            ["n", 2],
            ["k", 2],
            "its rows may mix: at `i` (ai.onnx::NonZero): nobody described what it does to rows",
        ),
    ],
    ids=["fixed", "scalar", "transposed", "selected"],
)
def test_shapes_that_rule_it_out(save_model, tmp_path, nodes, shape, out, reason):
    found = one(save_model, tmp_path, nodes, shape=shape, out=out)
    assert (found.proven, found.reason) == (False, reason)


def test_inputs_whose_first_axes_may_differ(save_model, tmp_path):
    nodes = [helper.make_node("Add", ["x", "z"], ["y"])]
    inputs = [("x", FLOAT, ["n", 4]), ("z", FLOAT, ["k", 4])]
    found = findings(save_model, tmp_path, nodes, inputs, [("y", FLOAT, ["n", 4])])
    assert [finding.reason for finding in found] == ["the first axes are different dimensions: k, n"]


def test_an_output_of_unknown_shape_is_judged_by_its_rows(save_model, tmp_path):
    def scaler(name):
        return helper.make_node("Scaler", ["x"], [name], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])

    assert one(save_model, tmp_path, [scaler("y")], out=None).proven
    lost = [scaler("s"), helper.make_node("Softmax", ["s"], ["y"], axis=0)]
    assert "carries the rows" in one(save_model, tmp_path, lost, out=None).reason


def test_an_attention_mask_of_infinities_hides_nothing(save_model, tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "mask"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["y"], axis=-1),
    ]
    weights = {"w": np.eye(4, dtype=np.float32), "mask": np.float32([0, 0, 0, -np.inf])}
    assert one(save_model, tmp_path, nodes, weights=weights).proven


def test_a_network_over_its_tokens_is_not_batchable(tmp_path):
    model = registry.write("tagger", tmp_path / "tagger.onnx").model
    graph = load(model)
    plan = make_plan(graph, {node.name: "cpu" for node in graph.placeable})
    write_stages(graph, plan.stages, tmp_path)
    found = prove_all(graph, plan.stages, tmp_path, collect(graph.inputs, model=model).samples)
    assert [finding.proven for finding in found] == [False]


@pytest.mark.parametrize(
    ("middle", "proven", "reason"),
    [
        (helper.make_node("Relu", ["a"], ["b"], name="middle"), True, ""),
        (helper.make_node("Softmax", ["a"], ["b"], name="middle", axis=0), False, "freed its rows may mix: at `middle`"),
        (helper.make_node("Expand", ["a", "shape"], ["b"], name="middle"), False, "freed"),
    ],
    ids=["row by row", "mixes", "a shape of one row"],
)
def test_a_gpu_stage_of_one_row_is_freed_only_where_that_is_proven(save_model, tmp_path, middle, proven, reason):
    nodes = [
        helper.make_node("Exp", ["x"], ["a"], name="before"), middle,
        helper.make_node("Concat", ["b", "one"], ["c"], name="join", axis=1) if middle.op_type == "Expand"
        else helper.make_node("Neg", ["b"], ["c"], name="join"),
        helper.make_node("Abs", ["c"], ["y"], name="after"),
    ]  # fmt: skip
    width = 5 if middle.op_type == "Expand" else 4
    weights = {"shape": np.array([1, 4], np.int64), "one": np.ones((1, 1), np.float32)}
    given = (save_model, tmp_path, nodes, [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, width])])
    found = findings(*given, gpu={"middle", "join"}, weights=weights)
    assert [finding.proven for finding in found] == [False, proven, False]
    assert (found[1].axis, reason in found[1].reason) == ("rows" if proven else "", True)
    (stage,) = tmp_path.glob("**/01_gpu*.onnx")
    (given,) = open_session(stage).get_inputs()
    assert given.shape == ["rows" if proven else 1, 4]
    assert [finding.reason for finding in (found[0], found[2])] == [
        "the first axis of `x` is fixed",
        "the first axis of `c` is fixed",
    ]


def test_a_stage_that_has_an_engine_keeps_its_file(save_model, tmp_path):
    path = save_model([helper.make_node("Neg", ["x"], ["y"], name="n")], [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4])], {})
    graph = load(path)
    plan = make_plan(graph, {"n": "gpu"})
    write_stages(graph, plan.stages, tmp_path)
    samples = collect(graph.inputs, model=path).samples
    assert not prove_all(graph, plan.stages, tmp_path, samples, keep={0})[0].proven
    assert prove_all(graph, plan.stages, tmp_path, samples)[0].proven


def test_a_freed_stage_gives_what_it_gave(save_model, tmp_path):
    """The reshape to one row reads a value whose first dimension is not the row's; freed, it would keep three of them."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], name="a", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["t", "one"], ["r"], name="b"),
        helper.make_node("ReduceSum", ["r", "zero"], ["s"], name="c", keepdims=1),
        helper.make_node("Transpose", ["s"], ["u"], name="d", perm=[1, 0, 2]),
        helper.make_node("Reshape", ["u", "flat"], ["y"], name="e"),
    ]
    weights = {"one": np.array([1, -1, 4]), "zero": np.array([0]), "flat": np.array([1, -1])}
    shapes = [("x", FLOAT, [1, 3, 4])], [("y", FLOAT, [1, 12])]
    (found,) = findings(save_model, tmp_path, nodes, *shapes, gpu=set("abcde"), weights=weights)
    assert (found.proven, "freed `y` differs: shape [1, 4], expected [1, 12]" in found.reason) == (False, True)


def test_an_output_that_is_the_same_for_every_row_needs_not_differ(save_model, tmp_path):
    """The places of the tokens, one line a row, beside what is computed from the rows."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Expand", ["line", "sizes"], ["places"]),
        helper.make_node("Tanh", ["x"], ["y"]),
    ]
    inputs, outputs = [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4]), ("places", FLOAT, ["n", 4])]
    weights = {"line": np.float32([[0, 1, 2, 3]])}
    (found,) = findings(save_model, tmp_path, nodes, inputs, outputs, weights=weights)
    assert (found.proven, found.reason) == (True, "")
