"""Engine times become costs of the groups that an engine holds whole; which GPU took them is another test's business."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.profilers import in_engines as module
from cutset.profilers.child import Failure
from cutset.profilers.in_engines import engine_options, supported_runs, with_engine_costs
from cutset.profilers.options import ProfileOptions
from cutset.profilers.segments import SegmentTime
from cutset.profilers.table import Latency
from cutset.profilers.tensorrt import LayerGroup
from tests.profile_tables import make_group, make_table

FLOAT = TensorProto.FLOAT
INPUTS = {"x": np.ones(2, np.float32)}
OPTIONS = engine_options("tensorrt", 0, ProfileOptions())


@pytest.fixture(scope="module")
def graph(save_model):
    names = "abcde"
    values = ["x", *(f"v_{name}" for name in names[:-1]), "y"]
    nodes = [helper.make_node("Relu", [i], [o], name=n) for n, i, o in zip(names, values, values[1:], strict=False)]
    return load(save_model(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])]))


def table(graph):
    both = [
        make_group(name, 1e-3 * (index + 1), device=device) for device in ("cpu", "gpu") for index, name in enumerate("abcde")
    ]
    return make_table(*both)


def timed(nodes, layers, median=1e-4):
    latency = Latency(median=median, p10=median * 0.9, p90=median * 1.2, samples=9)
    groups = tuple(LayerGroup(nodes=names, seconds=seconds) for names, seconds in layers)
    return SegmentTime(nodes=nodes, backend="tensorrt", latency=latency, device_bytes=123, layers=groups)


def test_runs_are_what_follows_without_a_refused_node_between(graph):
    runs = supported_runs(graph, table(graph), {"a", "b", "d", "e"})
    assert [run.nodes for run in runs] == [("d", "e"), ("a", "b")], "the dearest first"
    assert [(run.inputs, run.outputs) for run in runs] == [(("v_c",), ("y",)), (("x",), ("v_b",))]
    assert supported_runs(graph, table(graph), set()) == []


def test_layers_become_costs_and_what_did_not_build_keeps_its_own(graph, monkeypatch):
    answers = [timed(("d", "e"), [(("d", "e"), 6e-5), (("e",), 4e-5)]), Failure(kind="raised", detail="it does not build")]
    monkeypatch.setattr(module, "time_segments", lambda *_, **__: answers)
    before = table(graph)
    after = with_engine_costs(graph, before, INPUTS, {"a", "b", "d", "e"}, OPTIONS)
    found = {group.nodes[0]: group for group in after.groups_on("gpu")}
    assert (found["d"].latency_s, found["e"].latency_s) == pytest.approx((3e-5, 7e-5))
    assert (found["d"].backend, found["d"].source) == ("tensorrt", "measured")
    assert found["e"].low_s == pytest.approx(7e-5 * 0.9)
    assert [found[name] for name in "abc"] == list(before.groups_on("gpu")[:3])
    assert after.groups_on("cpu") == before.groups_on("cpu")
    built, failed = after.target["engines"]
    assert (built["latency_s"], built["device_bytes"], failed["failure"]) == (1e-4, 123, "it does not build")


def test_a_group_that_lies_in_two_engines_keeps_its_cost(graph, monkeypatch):
    monkeypatch.setattr(module, "time_segments", lambda *_, **__: [timed(("a",), [(("a",), 1e-4)])])
    groups = [make_group("a", 1e-3, canonical=("a", "b"), device=device) for device in ("cpu", "gpu")]
    before = make_table(*groups)
    after = with_engine_costs(graph, before, INPUTS, {"a"}, OPTIONS)
    assert after.groups == before.groups


def test_without_supported_nodes_nothing_is_built(graph):
    before = table(graph)
    assert with_engine_costs(graph, before, INPUTS, (), OPTIONS) is before
    assert replace(before) == before
