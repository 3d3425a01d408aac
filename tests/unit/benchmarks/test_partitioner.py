"""The planner's benchmark: its graphs are what they say, and the naive ways are judged fairly."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import networkx as nx
import numpy as np
import pytest

from cutset.partitioner.evaluation import demands, evaluate
from cutset.partitioner.exhaustive import enumerate_placements
from cutset.partitioner.problem import Problem

FOLDER = Path(__file__).parents[3] / "benchmarks"
MODULES = ("cost_graphs", "naive_plans", "light_graphs", "partitioner")


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """Return the benchmark's modules, which import each other as scripts of one folder do."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield {name: importlib.import_module(name) for name in MODULES}
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if name in MODULES:
                del sys.modules[name]


@pytest.fixture(scope="module")
def small(modules: dict[str, ModuleType]) -> Problem:
    return modules["cost_graphs"].random_problem(3, 11, "layered", "edge")


@pytest.mark.parametrize("shape", ["layered", "series-parallel", "blocks"])
def test_graphs_are_seeded_connected_and_acyclic(modules: dict[str, ModuleType], shape: str) -> None:
    problem, again = (modules["cost_graphs"].random_problem(5, 40, shape, "server") for _ in range(2))
    assert (problem.cpu_s == again.cpu_s).all()
    assert problem.tensors == again.tensors
    assert int(problem.real.sum()) >= 40
    graph = nx.Graph((t.producer, v) for t in problem.tensors for v in t.consumers)
    assert nx.is_connected(graph)
    assert len(graph) == problem.size


def test_demands_of_many_are_those_of_each(modules: dict[str, ModuleType], small: Problem) -> None:
    every = enumerate_placements(small).placements[::37]
    found = modules["naive_plans"].demands_of_each(small, every)
    assert found == pytest.approx(np.array([demands(small, placement) for placement in every]))


def test_ranges_are_the_best_of_all_divisions_of_the_order(modules: dict[str, ModuleType], small: Problem) -> None:
    order = [v for v in small.topology.order if v not in small.pseudo]
    every = enumerate_placements(small)
    in_order = every.placements[:, order]
    ranges = (np.diff(in_order, axis=1) != 0).sum(axis=1) + 1
    best = every.bottleneck_s[ranges <= 5].min()
    (found,) = modules["naive_plans"].fixed_order_ranges(small)
    assert evaluate(small, found).bottleneck_s == pytest.approx(best)


def test_no_naive_way_beats_the_optimum(modules: dict[str, ModuleType], small: Problem) -> None:
    optimum = enumerate_placements(small).bottleneck_s.min()
    values = modules["naive_plans"].naive_values(small)
    assert set(values) == set(modules["naive_plans"].NAIVE)
    assert all(value >= optimum * (1 - 1e-9) for value in values.values())


def test_a_comparison_and_its_tables(modules: dict[str, ModuleType], small: Problem) -> None:
    benchmark = modules["partitioner"]
    row = benchmark.compare("small", small, "throughput", None, naive=True)
    assert row.closed
    assert row.bound_s <= row.optimum_s * (1 + 1e-9)
    assert row.optimum_s == pytest.approx(enumerate_placements(small).bottleneck_s.min(), rel=1e-6)
    text = benchmark.markdown({"free": [benchmark.serde.to_builtins(row) | {"gap": row.gap}]})
    assert "| random, free | 1 | 1 |" in text
    assert "| one-parameter sweep |" in text
