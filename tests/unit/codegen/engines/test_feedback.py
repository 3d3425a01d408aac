"""Plans whose GPU stages build: the loop, the search for the culprit, and what engines must take."""

import importlib.util
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.advisory import SkippedSteps, recording, skipped_steps
from cutset.codegen.engines import build as building
from cutset.codegen.engines import compare as comparing
from cutset.codegen.engines import feedback
from cutset.codegen.engines.build import Part, find_culprit
from cutset.codegen.engines.default_ranges import default_ends
from cutset.codegen.engines.deploy import summary
from cutset.codegen.engines.feedback import plan_what_builds
from cutset.codegen.engines.gain import Model
from cutset.codegen.engines.prepare import Recipe
from cutset.codegen.engines.ranges import Runs, engine_inputs, input_ranges
from cutset.codegen.precision.error import run_part
from cutset.codegen.precision.quantise import quantise
from cutset.codegen.runtime.backends.engine_build import BuildReport
from cutset.graph.load import load
from cutset.partitioner.plan import Part as StagePart
from cutset.partitioner.plan import form_stages
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import Oracle
from cutset.profilers.child import Failure
from cutset.profilers.datasheets import datasheet
from cutset.profilers.gpu_backend import GpuBackend
from cutset.profilers.ort_cpu import observe_shapes

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
ORACLE = Oracle(backend="tensorrt-rtx", version="1.7", compute_capability="8.9")
RTX = GpuBackend(name="tensorrt-rtx", oracle=ORACLE)
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


class OnlyStages:
    """As much of a plan as the loop looks at."""

    def __init__(self, stages):
        self.stages = stages


def chain(save_model, length=12):
    """A chain of leaky Relus called r0, r1, ... over six columns, no two of them alike."""
    nodes = [helper.make_node("LeakyRelu", [f"v{i}"], [f"v{i + 1}"], name=f"r{i}", alpha=i / 100) for i in range(length)]
    shape = ["n", 6]
    graph = load(save_model(nodes, [("v0", FLOAT, shape)], [(f"v{length}", FLOAT, shape)]))
    inputs = {"v0": np.ones((2, 6), np.float32)}
    return graph.with_measured(*observe_shapes(graph, inputs)), inputs


def by_refusals(graph, asked):
    """Return a planner that puts everything on the GPU that was not refused, in runs of nodes."""

    def replan(refusals):
        asked.append(set(refusals))
        parts = []
        for node in graph.placeable:
            device = "cpu" if node.name in refusals else "gpu"
            if parts and parts[-1].device == device:
                parts[-1] = StagePart(device=device, nodes=(*parts[-1].nodes, node.name))
            else:
                parts.append(StagePart(device=device, nodes=(node.name,)))
        return OnlyStages(form_stages(graph, parts))

    return replan


def refusing(monkeypatch, breaks):
    """Replace the library by a rule on the set of nodes of a part; return what was tried."""
    tried = []

    def build_parts(parts, _oracle, **_options):
        tried.extend(part.nodes for part in parts)
        reasons = [breaks(set(part.nodes)) for part in parts]
        for part in parts:
            part.engine.write_bytes(b"plan")
        report = BuildReport(version="1.7", seconds=0.1, size_bytes=4)
        return [Failure(kind="raised", detail=f"BackendError: {reason}") if reason else report for reason in reasons]

    monkeypatch.setattr(building, "build_parts", build_parts)
    monkeypatch.setattr(feedback, "build_parts", build_parts)
    return tried


def run(graph, inputs, tmp_path, asked):
    recipe = Recipe(runs=Runs(usual=[inputs]))
    return plan_what_builds(graph, by_refusals(graph, asked), RTX, recipe, tmp_path, lambda _text: None)


def test_each_round_takes_a_culprit_away_until_all_builds(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model)

    def breaks(nodes):
        if "r7" in nodes:
            return "the builder refuses: r7 has no runners"
        return "the builder refuses: too deep" if {"r1", "r4"} <= nodes else ""

    refusing(monkeypatch, breaks)
    asked = []
    made = run(graph, inputs, tmp_path, asked)
    assert {name: verdict.reason for name, verdict in made.refusals.items()} == {
        "r7": "the builder refuses: r7 has no runners", "r4": "the builder refuses: too deep",
    }  # fmt: skip
    assert all(verdict.source == ORACLE.title and not verdict.ok for verdict in made.refusals.values())
    assert [ready.stage.nodes for ready in made.stages] == [
        tuple(f"r{i}" for i in part) for part in ((0, 1, 2, 3), (5, 6), (8, 9, 10, 11))
    ]
    assert all(ready.engine is not None and ready.engine.is_file() for ready in made.stages)
    assert len(asked) == len({frozenset(one) for one in asked}), "no round asks the same twice"


def test_nothing_builds_and_the_loop_ends(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 5)
    refusing(monkeypatch, lambda _nodes: "the builder refuses: everything")
    made = run(graph, inputs, tmp_path, [])
    assert made.stages == ()
    assert set(made.refusals) == {node.name for node in graph.nodes}


def test_a_named_culprit_takes_two_builds(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 64)
    nodes = tuple(node.name for node in graph.nodes)
    tried = refusing(monkeypatch, lambda found: "no runners implement n41" if "r41" in found else "")
    part = Part(
        nodes=nodes, model=tmp_path / "m", engine=tmp_path / "e", inputs=engine_inputs(graph, ["v0"], Runs(usual=[inputs]))
    )
    whole = Failure(kind="raised", detail="BackendError: the builder refuses: `r41` has no runners, and r4 is fine")
    found = find_culprit(graph, part, whole, ORACLE)
    assert (found.node, found.reason) == ("r41", "no runners implement r41")
    assert len(tried) == 2


def test_a_crash_is_a_reason(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 3)
    monkeypatch.setattr(building, "build_parts", lambda *_, **__: [Failure(kind="crashed", detail="crashed with SIGSEGV")])
    part = Part(
        nodes=("r0", "r1", "r2"), model=tmp_path / "m", engine=tmp_path / "e",
        inputs=engine_inputs(graph, ["v0"], Runs(usual=[inputs])),
    )  # fmt: skip
    found = find_culprit(graph, part, Failure(kind="timeout", detail="did not finish within 9 s"), ORACLE)
    assert (found.node, found.reason) == ("r0", "building it, the library crashed with SIGSEGV")


def test_engines_take_what_was_seen_and_the_ends_of_the_range(save_model):
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape"),
        helper.make_node("Relu", ["x"], ["h"], name="relu"),
        helper.make_node("Expand", ["h", "shape"], ["y"], name="expand"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, ["n", 6])], [("y", FLOAT, ["n", 6])]))
    usual, least, most = ({"x": np.ones((rows, 6), np.float32)} for rows in (4, 1, 9))
    found = {
        given.name: given for given in engine_inputs(graph, ["h", "shape"], Runs(usual=[usual], ends=lambda: [least, most]))
    }
    assert found["h"].shapes == ((1, 6), (4, 6), (9, 6))
    assert found["h"].values == ((), (), ())
    assert (found["shape"].shapes, found["shape"].values) == (((2,), (2,), (2,)), ((1, 6), (4, 6), (9, 6)))
    assert found["h"].takes((3, 6))
    assert not found["h"].takes((3, 7))
    assert not found["h"].takes((10, 6))
    assert engine_inputs(graph, [], Runs(usual=[usual])) == ()


def test_a_size_that_depends_on_the_data_may_be_one_and_twice_what_was_seen(save_model):
    """Behind NonZero; the rows of the input and the columns keep the ranges of the runs."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["where"], name="where"),
        helper.make_node("Transpose", ["where"], ["rows"], name="rows"),
        helper.make_node("Relu", ["x"], ["h"], name="relu"),
    ]
    outputs = [("rows", INT64, ["found", 2]), ("h", FLOAT, ["n", 6])]
    graph = load(save_model(nodes, [("x", FLOAT, ["n", 6])], outputs))
    usual = [{"x": np.eye(4, 6, dtype=np.float32)}, {"x": np.eye(5, 6, dtype=np.float32)}]
    wide, observed = input_ranges(graph, ["rows", "h"], Runs(usual=usual, ends=lambda: [{"x": np.eye(7, 6, dtype=np.float32)}]))
    assert [given.shapes for given in wide] == [((1, 2), (4, 2), (12, 2)), ((4, 6), (4, 6), (7, 6))]
    assert [given.shapes for given in observed] == [((4, 2), (4, 2), (5, 2)), ((4, 6), (4, 6), (5, 6))]
    nothing = {"x": np.zeros((4, 6), np.float32)}
    (given,) = engine_inputs(graph, ["rows"], Runs(usual=[nothing]))
    assert given.shapes == ((1, 2), (1, 2), (1, 2)), "an engine cannot be tuned for no rows"


def test_what_does_not_build_for_its_range_is_built_for_the_samples(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 3)
    tried = []

    def build_parts(parts, _oracle, **_options):
        (part,) = parts
        tried.append(part.inputs[0].shapes)
        if part.inputs[0].shapes[2] != (2, 6):
            return [Failure(kind="raised", detail="BackendError: the builder refuses: too wide")]
        part.engine.write_bytes(b"plan")
        return [BuildReport(version="1.7", seconds=0.1, size_bytes=4)]

    monkeypatch.setattr(feedback, "build_parts", build_parts)
    recipe = Recipe(runs=Runs(usual=[inputs], ends=lambda: [{"v0": np.ones((8, 6), np.float32)}]))
    made = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path, lambda _text: None)
    assert tried == [((2, 6), (2, 6), (8, 6)), ((2, 6), (2, 6), (2, 6))]
    (ready,) = made.stages
    assert (made.refusals, ready.prepared.narrowed) == ({}, "the builder refuses: too wide")
    assert ready.prepared.inputs[0].shapes[2] == (2, 6)
    assert summary(made)["stages"][0]["narrowed"] == "the builder refuses: too wide"


@needs_rtx
def test_the_real_library_builds_the_default_ranges(save_model, tmp_path):
    """A small network over pictures of any number and size, and a head over words of any length."""
    weights = {"w": np.ones((4, 3, 3, 3), np.float32), "d": np.ones((8, 4), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="relu"),
        helper.make_node("MatMul", ["t", "d"], ["m"], name="dense"),
        helper.make_node("Softmax", ["m"], ["z"], name="softmax"),
    ]
    inputs = [("x", FLOAT, ["n", 3, "h", "w"]), ("t", FLOAT, ["n", "s", 8])]
    graph = load(save_model(nodes, inputs, [("y", FLOAT, ["n", 4, "h", "w"]), ("z", FLOAT, ["n", "s", 4])], weights))
    sample = {"x": np.ones((1, 3, 16, 16), np.float32), "t": np.ones((1, 5, 8), np.float32)}
    graph = graph.with_measured(*observe_shapes(graph, sample))
    recipe = Recipe(runs=Runs(usual=[sample], ends=lambda: default_ends(graph, sample)))
    made = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path, lambda _text: None)
    (ready,) = made.stages
    assert (made.refusals, ready.prepared.narrowed) == ({}, "")
    assert {given.name: given.shapes for given in ready.prepared.inputs} == {
        "x": ((1, 3, 1, 1), (1, 3, 16, 16), (8, 3, 32, 32)), "t": ((1, 1, 8), (1, 5, 8), (8, 10, 8)),
    }  # fmt: skip
    assert ready.report.size_bytes == ready.engine.stat().st_size > 1000


def test_a_precision_that_does_not_build_leaves_the_stage_in_fp32(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 3)

    def build_parts(parts, _oracle, **_options):
        if parts[0].model.name.endswith(".bf16.onnx"):
            return [Failure(kind="raised", detail="BackendError: the parser refuses: no BF16")]
        parts[0].engine.write_bytes(b"plan")
        return [BuildReport(version="1.7", seconds=0.1, size_bytes=4)]

    monkeypatch.setattr(feedback, "build_parts", build_parts)
    recipe = Recipe(runs=Runs(usual=[inputs]), precision="bf16")
    made = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path, lambda _text: None)
    assert not made.refusals
    (ready,) = made.stages
    assert (ready.prepared.reduced.precision, ready.prepared.refused) == ("fp32", "the parser refuses: no BF16")
    assert ready.prepared.model == ready.prepared.plain


def test_a_library_that_fails_is_no_reason_against_a_node(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 3)
    full = Failure(kind="raised", detail="OSError: [Errno 28] No space left on device")
    monkeypatch.setattr(building, "map_in_child", lambda *_, **__: [full])
    with recording(SkippedSteps()):
        made = run(graph, inputs, tmp_path, [])
        (skipped,) = skipped_steps()
    assert (made.refusals, made.stages[0].engine) == ({}, None)
    assert skipped["about"] == "stage 0"
    assert "No space left" in skipped["reason"]


def test_every_precision_is_compared_and_the_chosen_one_is_as_it_is_built(save_model, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(6, 6)).astype(np.float32), "up": np.float32(1e6), "down": np.float32(1e-6)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Mul", ["h", "up"], ["i"], name="up"),
        helper.make_node("Mul", ["i", "down"], ["y"], name="down"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, ["n", 6])], [("y", FLOAT, ["n", 6])], weights))
    inputs = {"x": rng.normal(size=(2, 6)).astype(np.float32)}
    graph = graph.with_measured(*observe_shapes(graph, inputs))
    refusing(monkeypatch, lambda nodes: "")
    model = Model(sheet=datasheet("l4"), groups=[(node.name,) for node in graph.nodes])
    recipe = Recipe(runs=Runs(usual=[inputs]), precision="fp16", gpu=model, compare=True)
    (ready,) = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path, lambda _text: None).stages
    found = {one.precision: one for one in ready.compared}
    assert list(found) == ["tf32", "fp16", "bf16", "int8"]
    assert found["fp16"].errors == ready.prepared.reduced.errors
    assert (found["fp16"].reduced, found["bf16"].reduced, found["tf32"].reduced) == (1, 3, 1)
    assert all(0 < found[name].errors[0].max_rel < limit for name, limit in (("tf32", 2e-3), ("fp16", 2e-3), ("bf16", 2e-2)))
    assert found["bf16"].gain > found["fp16"].gain > 1, "fp16 has one node of three"
    assert (found["int8"].errors, found["int8"].gain) == ((), None)
    assert "needs inputs to calibrate with" in found["int8"].note
    recipe = replace(recipe, precision="fp32")
    (ready,) = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path / "b", lambda _text: None).stages
    again = {one.precision: one for one in ready.compared}
    assert (again["fp16"].errors, again["fp16"].reduced) == (found["fp16"].errors, 1), "what does not fit stays in fp32"


def test_a_stage_that_is_too_large_is_not_compared_and_is_emitted_all_the_same(save_model, tmp_path, monkeypatch):
    graph, inputs = chain(save_model, 2)
    refusing(monkeypatch, lambda nodes: "")
    monkeypatch.setattr(comparing, "MOST_COMPARED_BYTES", 10)
    recipe = Recipe(runs=Runs(usual=[inputs]), compare=True)
    (ready,) = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path, lambda _text: None).stages
    assert {one.note for one in ready.compared} == {"the stage is too large to be compared"}
    assert ready.engine is not None


@needs_rtx
def test_nodes_that_are_alike_are_refused_in_one_round_and_those_that_build_are_not(save_model, tmp_path):
    """TensorRT-RTX 1.7.1 takes an Add of one number, and not behind a convolution of one dimension."""
    rng = np.random.default_rng(0)
    nodes, value = [], "x"
    weights = {"one": np.ones(1, np.float32), "half": np.full(1, 0.5, np.float32), "each": np.ones((1, 16, 1), np.float32)}
    for index, added in enumerate(("each", "one", "half", "one", "each", "one")):
        weights[f"w{index}"] = rng.normal(0, 0.2, (16, 16, 3)).astype(np.float32)
        nodes.append(helper.make_node("Conv", [value, f"w{index}"], [f"h{index}"], name=f"conv{index}", pads=[1, 1]))
        nodes.append(helper.make_node("Add", [f"h{index}", added], [f"a{index}"], name=f"{added}{index}"))
        nodes.append(helper.make_node("Tanh", [f"a{index}"], [f"t{index}"], name=f"tanh{index}"))
        value = f"t{index}"
    graph = load(save_model(nodes, [("x", FLOAT, [1, 16, 20])], [(value, FLOAT, [1, 16, 20])], weights))
    inputs = {"x": rng.normal(size=(1, 16, 20)).astype(np.float32)}
    graph = graph.with_measured(*observe_shapes(graph, inputs))
    asked = []
    made = run(graph, inputs, tmp_path, asked)
    assert set(made.refusals) == {"one1", "half2", "one3", "one5"}
    assert made.refusals["one3"].reason == made.refusals["one5"].reason == "as `one1`, which is alike"
    assert all("CHECK(nbdims_bias" in made.refusals[name].reason for name in ("one1", "half2")), "asked about itself"
    assert len(asked) == 2, "one search for four nodes"
    assert {name for ready in made.stages for name in ready.stage.nodes} == {n.name for n in graph.nodes} - set(made.refusals)
    assert all(ready.report.size_bytes > 1000 for ready in made.stages)


@pytest.mark.parametrize("cached", [False, True])
def test_one_search_a_pattern(save_model, tmp_path, monkeypatch, cached):
    """A Relu behind a Neg does not build with six columns, and does with seven; those before others always do."""
    nodes, value = [], "v"
    for index in range(8):
        nodes.append(helper.make_node("Neg", [value], [f"n{index}"], name=f"neg{index}"))
        nodes.append(helper.make_node("Relu", [f"n{index}"], [f"r{index}"], name=f"relu{index}"))
        nodes.append(helper.make_node("Concat", [f"r{index}", "column"], [f"c{index}"], name=f"cat{index}", axis=1))
        nodes.append(helper.make_node("Slice", [f"c{index}", "zero", "size", "one"], [f"s{index}"], name=f"cut{index}"))
        value = f"s{index}"
    nodes += [helper.make_node("Concat", [value, "column"], ["wide"], name="widen", axis=1)]
    nodes += [
        helper.make_node("Neg", ["wide"], ["wn"], name="neg_wide"),
        helper.make_node("Relu", ["wn"], ["y"], name="relu_wide"),
    ]
    weights = {"column": np.ones((2, 1), np.float32), "zero": np.array([0]), "size": np.array([6]), "one": np.array([1])}
    graph = load(save_model(nodes, [("v", FLOAT, [2, 6])], [("y", FLOAT, [2, 7])], weights))
    inputs = {"v": np.ones((2, 6), np.float32)}
    graph = graph.with_measured(*observe_shapes(graph, inputs))
    bad = [{f"neg{index}", f"relu{index}"} for index in range(8)]
    tried = refusing(monkeypatch, lambda found: "the builder refuses: CHECK(x) failed" * any(one <= found for one in bad))
    asked = []
    recipe = Recipe(runs=Runs(usual=[inputs]), cache=CostCache(tmp_path / "cache" if cached else None))
    made = plan_what_builds(graph, by_refusals(graph, asked), RTX, recipe, tmp_path / "a", lambda _text: None)
    assert set(made.refusals) == {f"relu{index}" for index in range(8)}
    assert [name for name, verdict in made.refusals.items() if verdict.reason == "as `relu0`, which is alike"]
    assert len(asked) == 2
    assert tried.count(("neg_wide", "relu_wide")) == 1, "what computes something else is asked about, and stays"
    tried.clear()
    plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path / "b", lambda _text: None)
    assert (("neg_wide", "relu_wide") in tried) is not cached


@needs_rtx
def test_a_model_with_symmetric_quantisation_of_its_own_is_built_in_int8_with_the_same_numbers(save_model, tmp_path):
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(0, 0.3, (8, 8, 3, 3)).astype(np.float32) for name in ("v", "w")}
    nodes = [
        helper.make_node("Conv", ["x", "v"], ["h"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["i"], name="relu"),
        helper.make_node("Conv", ["i", "w"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    shape = [1, 8, 16, 16]
    inputs = {"x": rng.normal(size=shape).astype(np.float32)}
    path = save_model(nodes, [("x", FLOAT, shape)], [("y", FLOAT, shape)], weights)
    onnx.save(quantise(onnx.load(path), [inputs]), path)
    graph = load(path)
    graph = graph.with_measured(*observe_shapes(graph, inputs))
    model = Model(sheet=datasheet("l4"), groups=[(node.name,) for node in graph.nodes])
    recipe = Recipe(runs=Runs(usual=[inputs]), precision="int8", gpu=model, compare=True)
    made = plan_what_builds(graph, by_refusals(graph, []), RTX, recipe, tmp_path, lambda _text: None)
    assert not made.refusals
    (ready,) = made.stages
    assert ready.report.size_bytes > 1000
    before, after = (
        [node.op_type for node in onnx.load(file).graph.node].count("DequantizeLinear") for file in (path, ready.prepared.plain)
    )
    assert before == after > 2, "weights in eight bits stay so"
    assert np.array_equal(run_part(ready.prepared.plain, [inputs])[0]["y"], run_part(path, [inputs])[0]["y"])
    found = {one.precision: one for one in ready.compared}["int8"]
    assert (found.errors, found.note) == ((), "the model's own Q/DQ: the same numbers")


@needs_rtx
def test_two_recurrent_layers_that_build_alone_and_not_together(save_model, tmp_path):
    """What the parser accepts, node by node and whole, and the builder does not; a shape is an input of the second part."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {}, "x"
    for index, op in enumerate(("lstm_0", "lstm_1")):
        for name, shape in (("w", (1, 64, 16)), ("r", (1, 64, 16))):
            weights[f"{name}{index}"] = rng.normal(0, 0.2, shape).astype(np.float32)
        nodes.append(helper.make_node("LSTM", [value, f"w{index}", f"r{index}"], [f"a{index}"], name=op, hidden_size=16))
        nodes.append(helper.make_node("Squeeze", [f"a{index}", "one"], [f"s{index}"], name=f"squeeze_{index}"))
        value = f"s{index}"
    nodes.append(helper.make_node("Relu", [value], ["y"], name="relu"))
    weights["one"] = np.array([1])
    graph = load(save_model(nodes, [("x", FLOAT, [5, 1, 16])], [("y", FLOAT, [5, 1, 16])], weights))
    inputs = {"x": rng.normal(size=(5, 1, 16)).astype(np.float32)}
    graph = graph.with_measured(*observe_shapes(graph, inputs))
    made = run(graph, inputs, tmp_path, [])
    assert len(made.refusals) <= 1
    assert {name for ready in made.stages for name in ready.stage.nodes} == {n.name for n in graph.nodes} - set(made.refusals)
    assert all(ready.report.size_bytes == ready.engine.stat().st_size > 1000 for ready in made.stages)
