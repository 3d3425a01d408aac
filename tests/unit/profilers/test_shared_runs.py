"""A joint run is shared out to its requests; the CPU stands in for the GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.graph.extract import write_part
from cutset.graph.load import load
from cutset.graph.rows import with_free_rows
from cutset.profilers import shared_runs
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_child import SessionJob
from cutset.profilers.ort_cpu import observe
from cutset.profilers.ort_cuda import group_costs, profile_session
from cutset.profilers.profile import described
from cutset.profilers.shared_runs import JointRun, shared_out, with_shared_runs
from cutset.profilers.table import CostTable, ModelFile

ROWS = 4


@pytest.fixture(scope="module")
def profiled(save_model, tmp_path_factory):
    """A picture that becomes a row and a network of it; its costs for one request, and the network as a file."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Unsqueeze", ["x", "axes"], ["row"], name="row"),
        helper.make_node("Conv", ["row", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Softmax", ["c"], ["y"], name="softmax"),
    ]
    weights = {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32), "axes": np.array([0], np.int64)}
    path = save_model(nodes, [("x", TensorProto.FLOAT, [3, 32, 32])], [("y", TensorProto.FLOAT, [1, 8, 32, 32])], weights)
    graph = load(path)
    inputs = {"x": rng.random((3, 32, 32), np.float32)}
    seen = observe(graph, inputs, threads=1)
    graph = graph.with_measured(seen.shapes, seen.dtypes)
    alone = profile(graph, inputs)
    table = CostTable(
        model=ModelFile(file="m.onnx", sha256="s", nodes=3), target={"id": "cuda:0"}, environment={}, shapes={}, sessions=(),
        groups=group_costs(alone, [described(graph, group.nodes) for group in seen.groups], batch=1), transfers=(),
    )  # fmt: skip
    model = tmp_path_factory.mktemp("part") / "part.onnx"
    write_part(graph, ["row"], ["y"], model)
    freed, axis = with_free_rows(onnx.load(str(model)))
    onnx.save(freed, str(model))
    return graph, table, JointRun(model=model, axis=axis, feed={"row": inputs["x"][None]}, rows=ROWS)


def profile(graph, inputs, **_options):
    return profile_session(graph, SessionJob(model=Path(), feed=inputs, budget_s=0.05, custom_ops=graph.custom_ops))


def test_each_request_is_charged_its_share(profiled, monkeypatch):
    graph, table, joint = profiled
    seen = {}

    def joint_profile(part, inputs, **options):
        seen["shapes"] = {name: value.shape for name, value in inputs.items()}
        seen["profile"] = profile(part, inputs, **options)
        return seen["profile"]

    monkeypatch.setattr(shared_runs, "profile_cuda", joint_profile)
    made = with_shared_runs(graph, table, joint, ProfileOptions(budget_s=0.1), lambda _text: None)
    assert seen["shapes"] == {"row": (ROWS, 3, 32, 32)}
    before = {group.nodes: group for group in table.groups}
    shared = [group for group in made.groups if group.rows == ROWS]
    assert {name for group in shared for name in group.nodes} == {"conv", "softmax"}
    assert sum(group.latency_s for group in shared) * ROWS == pytest.approx(seen["profile"].session.latency.median)
    for group in made.groups:
        if group.rows == 1:
            assert group == before[group.nodes]
        else:
            assert group.alone_s == before[group.nodes].latency_s
            assert group.low_s <= group.latency_s <= group.high_s
    again = shared_out(made, seen["profile"], ROWS, frozenset({"conv", "softmax"}), graph.unplaced)
    assert [group.alone_s for group in again.groups] == [group.alone_s for group in made.groups], "not a share of a share"


def test_what_fails_in_a_joint_run_is_refused(profiled):
    graph, table, joint = profiled
    found = profile(load(joint.model), {"row": np.concatenate([joint.feed["row"]] * ROWS)})
    made = shared_out(table, replace(found, refused={"conv": "no memory"}), ROWS, frozenset(graph.by_name), graph.unplaced)
    (group,) = [group for group in made.groups if "conv" in group.nodes]
    assert (group.latency_s, group.reason) == (None, "no memory")
