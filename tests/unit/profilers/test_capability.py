"""What the library says node by node: real TensorRT-RTX where it is installed."""

import importlib.util

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.advisory import SkippedSteps, recording, skipped_steps
from cutset.errors import UnavailableError
from cutset.graph.load import load
from cutset.profilers import capability
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import Oracle, ask
from cutset.profilers.child import Failure
from cutset.profilers.inputs import draw
from cutset.profilers.ort_cpu import observe_shapes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ORACLE = Oracle(backend="tensorrt-rtx", version="any", compute_capability="8.9")
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


def node(op, inputs, outputs, name, **attributes):
    return helper.make_node(op, list(inputs), list(outputs), name=name, **attributes)


@pytest.fixture
def graph(save_model):
    """One node of every kind of answer: taken, refused by the parser, by the builder, and by a crash."""
    nodes = [
        node("Relu", ["x"], ["h"], "taken"),
        node("Relu", ["h"], ["h2"], "the same again"),
        node("NonMaxSuppression", ["boxes", "scores", "most"], ["kept"], "builder"),
        node("NonZero", ["h2"], ["n"], "parser"),
        node("Shape", ["kept"], ["shape"], "shape"),
        node("Expand", ["one", "shape"], ["wide"], "shaped"),
        node("TopK", ["x", "k"], ["top", "where"], "too many"),
        node("TopK", ["x", "few"], ["top2", "where2"], "few enough"),
        node("RoiAlign", ["image", "rois", "of"], ["y"], "crash"),
    ]
    inputs = [
        ("x", FLOAT, ["b", 4000]), ("boxes", FLOAT, [1, 6, 4]), ("scores", FLOAT, [1, 1, 6]), ("image", FLOAT, [1, 1, 8, 8]),
        ("rois", FLOAT, [2, 4]), ("of", INT64, [2]),
    ]  # fmt: skip
    outputs = [(name, TensorProto.INT64 if name in {"n", "kept"} else FLOAT, None) for name in ("n", "kept", "wide", "y")]
    outputs += [(name, FLOAT, None) for name in ("top", "top2")]
    weights = {"most": np.array([3]), "one": np.ones((1, 1), "f"), "k": np.array([3900]), "few": np.array([5])}
    made = load(save_model(nodes, inputs, outputs, weights))
    sample = draw(made.inputs, {"x": (2, 4000)}, seed=0) | {"of": np.zeros(2, np.int64)}
    return made.with_measured(*observe_shapes(made, sample)), sample


@needs_rtx
def test_every_kind_of_answer(graph, tmp_path):
    graph, sample = graph
    found = ask(graph, sample, [n.name for n in graph.placeable], ORACLE, CostCache(tmp_path))
    assert {name: verdict.ok for name, verdict in found.items()} == {
        "taken": True, "the same again": True, "builder": False, "parser": False, "shape": True, "shaped": True,
        "too many": False, "few enough": True, "crash": False,
    }  # fmt: skip
    assert found["builder"].reason.startswith("the builder refuses")
    assert found["parser"].reason.startswith("the parser refuses: NonZero")
    assert "3840" in found["too many"].reason
    assert {verdict.source for verdict in found.values()} == {"TensorRT-RTX any for compute capability 8.9, no GPU"}


def test_answers_are_kept_and_asked_once_a_kind(graph, tmp_path, monkeypatch):
    graph, sample = graph
    asked = []

    def answer(_function, probes, **_settings):
        asked.append(list(probes))
        crash = Failure(kind="crashed", detail="crashed with SIGSEGV")
        return [crash if probe.shapes.keys() >= {"rois"} else "" for probe in asked[-1]]

    monkeypatch.setattr(capability, "map_in_child", answer)
    names = [n.name for n in graph.placeable]
    first = ask(graph, sample, names, ORACLE, CostCache(tmp_path))
    assert len(asked[0]) == len(names) - 1, "the two Relus are one question; the two TopKs, which differ in K, are two"
    assert first["crash"].reason == "asked about it, the library crashed with SIGSEGV"
    assert ask(graph, sample, names, ORACLE, CostCache(tmp_path)) == first
    assert asked[1] == []
    ask(graph, sample, names, Oracle(backend="tensorrt-rtx", version="newer", compute_capability="8.9"), CostCache(tmp_path))
    assert len(asked[2]) == len(asked[0]), "another version is another library"


def test_a_node_of_unknown_shape_is_not_asked_about(save_model, tmp_path, monkeypatch):
    monkeypatch.setattr(capability, "map_in_child", lambda _function, probes, **_: ["" for _ in probes])
    nodes = [node("Relu", ["x"], ["h"], "known"), node("Blur", ["h"], ["z"], "foreign", domain="my.ops")]
    graph = load(save_model([*nodes, node("Relu", ["z"], ["y"], "open")], [("x", FLOAT, [4])], [("y", FLOAT, [4])]))
    found = ask(graph, {"x": np.ones(4, "f")}, [n.name for n in graph.nodes], ORACLE, CostCache(tmp_path))
    assert set(found) == {"known"}


@pytest.mark.parametrize("alone", [True, False])
def test_a_library_that_fails_at_one_node_refuses_that_node(graph, tmp_path, monkeypatch, alone):
    """TensorRT-RTX raises a RuntimeError at a shape tensor of one node, and takes every other node."""
    graph, sample = graph
    failure = Failure(kind="raised", detail="RuntimeError: not a shape tensor")
    asked = []

    def answer(_function, probes, **_settings):
        asked.extend(probes := list(probes))
        return [failure if probe.shapes.keys() >= {"rois"} else "" for probe in probes]

    monkeypatch.setattr(capability, "map_in_child", answer)
    names = ["crash"] if alone else [n.name for n in graph.placeable]
    with recording(SkippedSteps()):
        found = ask(graph, sample, names, ORACLE, CostCache(tmp_path))
        (skipped,) = skipped_steps()
    assert found["crash"].reason == "asked about it, the library raised RuntimeError: not a shape tensor"
    assert [name for name, verdict in found.items() if not verdict.ok] == ["crash"]
    assert (skipped["about"], skipped["reason"]) == ("node `crash`", "RuntimeError: not a shape tensor")
    before = len(asked)
    ask(graph, sample, ["crash"], ORACLE, CostCache(tmp_path))
    assert len(asked) == before + 2, "the answer is not kept; a plain node tells that the library works"


def test_a_library_that_fails_is_no_refusal(graph, tmp_path, monkeypatch):
    graph, sample = graph
    failure = Failure(kind="raised", detail="TypeError: the factory returned nothing")
    monkeypatch.setattr(capability, "map_in_child", lambda _function, probes, **_: [failure for _ in probes])
    with pytest.raises(UnavailableError, match="cannot be asked"):
        ask(graph, sample, ["taken"], ORACLE, CostCache(tmp_path))
    monkeypatch.setattr(capability, "map_in_child", lambda _function, probes, **_: ["" for _ in probes])
    assert ask(graph, sample, ["taken"], ORACLE, CostCache(tmp_path))["taken"].ok, "the failure was not kept"
