"""Telling what holds the interpreter lock from what does not."""

import time

from cutset.codegen.gil import HELD_SHARE, executions, held_share
from cutset.graph.load import load
from cutset.profilers.inputs import collect
from tests.support import make_plan


def held():
    return sorted(range(200_000), key=float)


def free():
    time.sleep(0.001)


def test_what_holds_the_lock_shows():
    assert held_share(free) < HELD_SHARE < held_share(held)


def test_a_model_of_known_operators_stays_in_threads(cnn_path, tmp_path):
    graph = load(cnn_path)
    plan = make_plan(graph, {node.name: "cpu" for node in graph.placeable})
    found = executions(graph, plan.stages, tmp_path, collect(graph.inputs, model=cnn_path).samples[0])
    assert found == ["thread"]
