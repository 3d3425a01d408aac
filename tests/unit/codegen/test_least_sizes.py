"""What ends a child process on too few rows becomes a lower bound, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.least_sizes import Trial, _least_size, add_least_sizes, free_dimensions
from cutset.graph.types import TensorSpec
from cutset.profilers.child import Failure
from tests.support import as_planned, make_plan, write_package

F = TensorProto.FLOAT


def spec(name, *shape, dtype="float32"):
    return TensorSpec(name=name, dtype=dtype, shape=shape)


def test_dimensions_of_one_symbol_are_one():
    specs = [
        spec("a", "n", 3, None),
        spec("b", "n", "m"),
        spec("c", 2, None),
        TensorSpec(name="d", dtype="float32", shape=None),
    ]
    assert free_dimensions(specs) == [
        (("a", 0), ("b", 0)), (("a", 2),), (("b", 1),), (("c", 1),)
    ]  # fmt: skip
    assert free_dimensions([spec("s", "n", dtype="seq(tensor(float))")]) == []


class Dying:
    """A child that dies of the sizes it is told to, on a sample of `own` rows."""

    def __init__(self, own, deadly, kind="crashed"):
        self.own, self.deadly, self.kind = own, deadly, kind

    def ask(self, _function, trial):
        size = min(trial.size, self.own)
        return Failure(kind=self.kind, detail="with SIGFPE") if size in self.deadly else size


@pytest.mark.parametrize(
    ("own", "deadly", "least"),
    [(5, {}, 0), (5, {0}, 1), (5, {0, 1}, 2), (5, {0, 1, 2, 3}, 4), (5, {0, 1, 2, 3, 4}, 5), (1, {0}, 1), (5, {1}, 2),
     (5, {0, 1, 2, 3, 4, 5}, 0)],
)  # fmt: skip
def test_the_least_size_that_lives(tmp_path, own, deadly, least):
    trial = Trial(package=tmp_path, sample={}, places=(("x", 0),), size=0)
    assert _least_size(Dying(own, deadly), trial)[0] == least


@pytest.mark.parametrize("kind", ["raised", "memory", "killed"])
def test_other_failures_are_no_bound(tmp_path, kind):
    trial = Trial(package=tmp_path, sample={}, places=(("x", 0),), size=0)
    assert _least_size(Dying(5, {0, 1}, kind), trial) == (0, "")


def test_a_package_whose_kernels_die_on_no_rows(save_model, tmp_path):
    """In the model's input, in a value inside, and not where an operator takes no rows or raises an error."""
    nodes = [
        helper.make_node("Einsum", ["x", "x"], ["a"], name="first", equation="bid,bjd->bij"),
        helper.make_node("Compress", ["b", "keep"], ["rows"], name="compress", axis=0),
        helper.make_node("Relu", ["rows"], ["kept"], name="relu"),
        helper.make_node("Einsum", ["kept", "kept"], ["c"], name="second", equation="bid,bjd->bij"),
        helper.make_node("Reshape", ["r", "to"], ["d"], name="reshape"),
    ]
    inputs = [
        ("x", F, ["n", 2, 3]), ("b", F, [3, 2, 3]), ("keep", TensorProto.BOOL, [3]), ("r", F, ["k", 4]),
    ]  # fmt: skip
    outputs = [("a", F, ["n", 2, 2]), ("c", F, [None, 2, 2]), ("d", F, [2, "j"])]
    model = save_model(nodes, inputs, outputs, {"to": np.array([2, -1])})
    sample = {name: np.ones([2 if isinstance(s, str) else s for s in shape], np.float32) for name, kind, shape in inputs}
    sample["keep"] = np.array([True, False, True])
    graph = as_planned(model, sample)
    placement = {node.name: "gpu" if node.name in {"relu", "second"} else "cpu" for node in graph.placeable}
    plan = make_plan(graph, placement)
    write_package(graph, plan, tmp_path)
    document = plan.as_json()
    add_least_sizes(graph, tmp_path, sample, document)
    assert {entry["name"]: entry.get("least") for entry in document["inputs"]} == {
        "x": [1, 0, 0], "b": None, "keep": None, "r": None,
    }  # fmt: skip
    bounds = [(stage["inputs"], stage.get("least")) for stage in document["stages"]]
    assert [least for _, least in bounds if least] == [{"x": [1, 0, 0]}, {"rows": [1, 0, 0]}], bounds
    assert len(document["least_sizes"]) == 2
