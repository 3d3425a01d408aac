"""The real models that are no networks for pictures or sound, and one of trees: split or left whole, and equal."""

from __future__ import annotations

import json

import numpy as np
from onnx import TensorProto, helper

from tests.e2e.harness import assert_equal, load_inputs, onnx_file, whole_model
from tests.e2e.real_models import OTHER, check, each


@each(OTHER)
def test_a_real_model_is_partitioned_and_answers_as_the_whole(name, cutset, alone, tmp_path):
    check(name, cutset, alone, tmp_path)


def trees(folder):
    """A forest of 50 stumps on 8 features, as gradient boosting exporters write it."""
    rng = np.random.default_rng(0)
    count = 50
    per_tree = {"nodes_nodeids": [0, 1, 2], "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"]}
    per_tree |= {"nodes_truenodeids": [1, 0, 0], "nodes_falsenodeids": [2, 0, 0], "target_nodeids": [1, 2]}
    repeated = {name: values * count for name, values in per_tree.items()}
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["score"],
        name="trees",
        domain="ai.onnx.ml",
        n_targets=1,
        nodes_treeids=[tree for tree in range(count) for _ in range(3)],
        nodes_featureids=[int(x) for x in rng.integers(0, 8, 3 * count)],
        nodes_values=[float(x) for x in rng.random(3 * count)],
        target_treeids=[tree for tree in range(count) for _ in range(2)],
        target_ids=[0] * (2 * count),
        target_weights=[float(x) for x in rng.normal(size=2 * count)],
        **repeated,
    )
    inputs, outputs = [("features", TensorProto.FLOAT, ["n", 8])], [("score", TensorProto.FLOAT, ["n", 1])]
    return onnx_file(folder / "trees.onnx", [node], inputs, outputs, opsets={"": 20, "ai.onnx.ml": 3})


def test_trees_stay_whole_on_the_cpu(cutset, alone, tmp_path):
    model = trees(tmp_path)
    np.savez(model.with_suffix(".npz"), features=np.random.default_rng(1).random((16, 8), np.float32))
    done = cutset.partition(model, tmp_path / "out")
    assert done.code == 0, done.err
    assert done.json["decision"] == "unsplit-cpu"
    assert done.json["placement"] == {"trees": "cpu"}
    reasons = json.loads((tmp_path / "out" / "plan.json").read_text())["reasons"]
    assert "TreeEnsembleRegressor" in reasons["trees"] or "TensorRT" in reasons["trees"]
    expected = whole_model(model, load_inputs(model))
    assert len(np.unique(expected["score"])) > 8
    assert_equal(alone.answers(tmp_path / "out" / "serving", model.with_suffix(".npz")), expected)
