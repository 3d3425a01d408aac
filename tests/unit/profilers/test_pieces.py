"""Pieces of groups are cut out, measured once for all that compute the same, and kept."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.profilers import pieces as module
from cutset.profilers.cache import CostCache
from cutset.profilers.inputs import draw
from cutset.profilers.options import ProfileOptions
from cutset.profilers.pieces import with_pieces
from cutset.profilers.profile import profile

FLOAT = TensorProto.FLOAT
PIECES = [("first", "relu"), ("second",), ("third",)]


@pytest.fixture(scope="module")
def model(save_model):
    """Return three equal products, and their inputs."""
    weight = {"w": np.eye(64, dtype=np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["b"], name="second"),
        helper.make_node("MatMul", ["b", "w"], ["y"], name="third"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [256, 64])], [("y", FLOAT, [256, 64])], weight))
    return graph, draw(graph.inputs, {}, seed=0)


def measured(model, options):
    graph, inputs = model
    graph, table = profile(graph, inputs, target=None, options=options)
    return graph, table, inputs


def test_pieces_have_a_price_that_the_whole_confirms(model, tmp_path):
    options = ProfileOptions(budget_s=2.0, cache=CostCache(tmp_path))
    graph, table, inputs = measured(model, options)
    priced = with_pieces(graph, table, inputs, PIECES, options)
    assert [piece.nodes for piece in priced.pieces] == PIECES
    assert all(0 < piece.low_s <= piece.latency_s * 1.001 for piece in priced.pieces)
    assert priced.piece(("second",)).latency_s == priced.piece(("third",)).latency_s, "they compute the same"
    total = sum(piece.latency_s for piece in priced.pieces)
    assert 0.3 < total / table.session("cpu").latency_s.median < 3
    assert with_pieces(graph, priced, inputs, PIECES, options) is priced


def test_a_price_is_kept_by_what_a_piece_computes(model, tmp_path, monkeypatch):
    options = ProfileOptions(budget_s=2.0, cache=CostCache(tmp_path))
    graph, table, inputs = measured(model, options)
    first = with_pieces(graph, table, inputs, PIECES, options)
    monkeypatch.setattr(module, "map_in_child", lambda *_: pytest.fail("it is known"))
    assert with_pieces(graph, table, inputs, PIECES, options) == first


def test_without_time_there_is_no_price(model):
    graph, table, inputs = measured(model, ProfileOptions(budget_s=0.05))
    assert with_pieces(graph, table, inputs, PIECES, ProfileOptions(budget_s=0.01)).pieces == ()
