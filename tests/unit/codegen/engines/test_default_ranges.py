"""The default ranges: what the rule wants, what the model takes of it, and that sizes which follow from others do follow."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.engines import default_ranges
from cutset.codegen.engines.default_ranges import default_ends
from cutset.graph.load import load
from cutset.profilers.child import Failure

F = TensorProto.FLOAT


def shapes(ends):
    return [{name: array.shape for name, array in end.items()} for end in ends]


class Child:
    """A child in which the model runs only on the shapes that a rule takes; keeps what was tried."""

    def __init__(self, tried, takes):
        self.tried, self.takes = tried, takes

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass

    def ask(self, _function, trial):
        (found,) = shapes([trial.feeds])
        self.tried.append(found)
        return None if self.takes(found) else Failure(kind="raised", detail="refused")


@pytest.fixture
def child(monkeypatch):
    """Return a function that says which shapes the model takes, and gives the list of what was tried."""

    def take(rule):
        tried = []
        monkeypatch.setattr(default_ranges, "Worker", lambda limits: Child(tried, rule))
        return tried

    return take


@pytest.fixture(scope="module")
def picture(save_model):
    """A convolution over pictures of any number and size."""
    weights = {"w": np.ones((1, 3, 3, 3), np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])]
    return load(save_model(nodes, [("x", F, ["n", 3, "h", "w"])], [("y", F, ["n", 1, "h", "w"])], weights))


@pytest.fixture(scope="module")
def words(save_model):
    """A product over rows of words."""
    nodes = [helper.make_node("Add", ["ids", "mask"], ["y"], name="add")]
    rows = ["batch", "seq"]
    return load(save_model(nodes, [("ids", F, rows), ("mask", F, rows)], [("y", F, rows)]))


def test_rows_grow_to_eight_and_the_one_other_size_eightfold(words, child):
    child(lambda _found: True)
    sample = {name: np.arange(4, dtype=np.float32).reshape(1, 4) for name in ("ids", "mask")}
    least, most = default_ends(words, sample)
    assert shapes([least, most]) == [{"ids": (1, 1), "mask": (1, 1)}, {"ids": (8, 32), "mask": (8, 32)}]
    assert most["ids"].tolist() == [[0.0, 1.0, 2.0, 3.0] * 8] * 8, "contents are the sample's, again and again"
    assert shapes(default_ends(words, sample, rows=16))[1] == {"ids": (16, 32), "mask": (16, 32)}


def test_several_sizes_grow_twofold(picture, child):
    child(lambda _found: True)
    ends = default_ends(picture, {"x": np.ones((1, 3, 16, 24), np.float32)})
    assert shapes(ends) == [{"x": (1, 3, 1, 1)}, {"x": (8, 3, 32, 48)}]


@pytest.mark.parametrize("limit", [4, 5, 7, 8, 17, 31, 32])
def test_a_limit_in_between_is_found(words, child, limit):
    tried = child(lambda found: found["ids"][1] <= limit)
    sample = {name: np.ones((1, 4), np.float32) for name in ("ids", "mask")}
    assert shapes(default_ends(words, sample))[1]["ids"] == (8, limit)
    assert len(tried) < 20


def test_sizes_that_must_be_multiples(picture, child):
    child(lambda found: found["x"][2] % 8 == 0 and found["x"][3] % 8 == 0)
    ends = default_ends(picture, {"x": np.ones((1, 3, 32, 32), np.float32)})
    assert shapes(ends) == [{"x": (1, 3, 8, 8)}, {"x": (8, 3, 64, 64)}]


def test_what_fails_together_is_drawn_back(picture, child):
    child(lambda found: np.prod(found["x"]) <= 8 * 3 * 24 * 24)
    ends = default_ends(picture, {"x": np.ones((1, 3, 16, 16), np.float32)})
    assert shapes(ends)[1] == {"x": (8, 3, 24, 24)}


def test_a_model_that_takes_its_sample_alone_has_no_range(picture, child):
    tried = child(lambda found: found["x"] == (1, 3, 16, 16))
    sample = {"x": np.ones((1, 3, 16, 16), np.float32)}
    assert shapes(default_ends(picture, sample)) == [{"x": (1, 3, 16, 16)}] * 2
    assert len(tried) < 50


def test_the_range_of_the_user_wins(words, child):
    child(lambda _found: True)
    sample = {name: np.ones((1, 4), np.float32) for name in ("ids", "mask")}
    given = {"ids": ((1, 2), (1, 4), (3, 9))}
    ends = default_ends(words, sample, given=given)
    assert shapes(ends) == [{"ids": (1, 2), "mask": (1, 2)}, {"ids": (3, 9), "mask": (3, 9)}]


def test_the_time_is_limited(words, child, monkeypatch):
    tried = child(lambda _found: True)
    monkeypatch.setattr(default_ranges, "BUDGET_S", -1.0)
    sample = {name: np.ones((1, 4), np.float32) for name in ("ids", "mask")}
    assert shapes(default_ends(words, sample)) == [{"ids": (1, 4), "mask": (1, 4)}] * 2
    assert tried == []


def test_sizes_that_are_sums_of_others(save_model, child):
    """The mask of a cache of keys is as long as the cache and the new words together."""
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"], name=f"keep_{name}") for name in ("past", "new", "mask")]
    inputs = [("past", F, ["b", "p"]), ("new", F, ["b", "s"]), ("mask", F, ["b", "p + s"])]
    graph = load(save_model(nodes, inputs, [(f"{name}_out", kind, shape) for name, kind, shape in inputs]))
    child(lambda found: found["mask"][1] == found["past"][1] + found["new"][1])
    sample = {"past": np.ones((1, 6), np.float32), "new": np.ones((1, 1), np.float32), "mask": np.ones((1, 7), np.float32)}
    least, most = shapes(default_ends(graph, sample))
    assert least == {"past": (1, 1), "new": (1, 1), "mask": (1, 2)}
    assert most == {"past": (8, 12), "new": (8, 2), "mask": (8, 14)}


def test_an_expression_that_does_not_hold_is_a_size_of_its_own(save_model, child):
    child(lambda _found: True)
    nodes = [helper.make_node("Identity", [name], [f"{name}_out"], name=f"keep_{name}") for name in ("a", "b")]
    for symbol in ("n + 2", "n // 0", "__import__('os')", "n ** 9", "(" * 300):
        inputs = [("a", F, [2, "n"]), ("b", F, [2, symbol])]
        graph = load(save_model(nodes, inputs, [(f"{name}_out", kind, shape) for name, kind, shape in inputs]))
        sample = {"a": np.ones((2, 3), np.float32), "b": np.ones((2, 7), np.float32)}
        assert shapes(default_ends(graph, sample))[1] == {"a": (2, 6), "b": (2, 14)}, symbol


def test_fixed_sizes_need_no_trial(save_model, child):
    tried = child(lambda _found: True)
    graph = load(save_model([helper.make_node("Relu", ["x"], ["y"], name="relu")], [("x", F, [2, 3])], [("y", F, [2, 3])]))
    assert default_ends(graph, {"x": np.ones((2, 3), np.float32)}) == []
    assert tried == []


def test_the_bytes_of_an_encoded_file_stay_as_many(save_model, child):
    tried = child(lambda _found: True)
    nodes = [helper.make_node("Cast", ["jpeg"], ["y"], name="cast", to=F)]
    graph = load(save_model(nodes, [("jpeg", TensorProto.UINT8, ["bytes"])], [("y", F, ["bytes"])]))
    assert default_ends(graph, {"jpeg": np.ones(999, np.uint8)}) == []
    assert tried == []


def test_the_length_of_position_embeddings_by_real_runs(save_model):
    """Without a stand-in: onnxruntime cannot add more words than there are positions."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], name="shape", start=1, end=2),
        helper.make_node("Squeeze", ["shape"], ["length"], name="length"),
        helper.make_node("Range", ["zero", "length", "one"], ["at"], name="range"),
        helper.make_node("Gather", ["table", "at"], ["positions"], name="positions"),
        helper.make_node("Add", ["x", "positions"], ["y"], name="add"),
    ]
    weights = {"zero": np.array(0), "one": np.array(1), "table": np.ones((21, 4), np.float32)}
    shape = ["n", "s", 4]
    graph = load(save_model(nodes, [("x", F, shape)], [("y", F, shape)], weights))
    ends = default_ends(graph, {"x": np.zeros((1, 5, 4), np.float32)})
    assert shapes(ends) == [{"x": (1, 1, 4)}, {"x": (8, 21, 4)}]
