"""The arithmetic of `benchmarks/profiling.py`: where a model is halved, and what counts as a change of rank."""

import importlib.util
import sys
from pathlib import Path

import pytest

from cutset.graph.load import load
from cutset.profilers.inputs import draw
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cpu import profile_cpu

FILE = Path(__file__).parents[3] / "benchmarks" / "profiling.py"


@pytest.fixture(scope="module")
def benchmark_module():
    spec = importlib.util.spec_from_file_location("cutset_benchmark_profiling", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_model_is_halved_at_a_boundary_that_runs(benchmark_module, cnn_path):
    graph = load(cnn_path)
    inputs = draw(graph.inputs, {}, seed=0)
    measured = profile_cpu(graph, inputs, options=ProfileOptions(budget_s=0.02))
    first, second = benchmark_module.halves(graph, measured)
    assert sorted(first + second) == list(range(len(measured.groups)))
    done = {name for index in first for name in measured.groups[index].nodes}
    for node in graph.nodes:
        if node.name in done:
            assert {graph.producer[value] for value in node.inputs if value in graph.producer} <= done
    total, before = sum(measured.group_s), sum(measured.group_s[index] for index in first)
    nearest = abs(before - total / 2)
    order = benchmark_module.topological(graph, measured)
    for at in range(1, len(order)):
        assert nearest <= abs(sum(measured.group_s[index] for index in order[:at]) - total / 2) + 1e-12
    of = benchmark_module.Subject(name="cnn", path=cnn_path, graph=graph, inputs=inputs)
    ratios = benchmark_module.half_ratios(of, measured, 0.02)
    assert len(ratios) == 2
    assert min(ratios) > 0


def test_ranks(benchmark_module):
    first = {("a",): 4.0, ("b",): 2.0, ("c",): 1.0}
    assert benchmark_module.rank_changes(first, first) == (0, 0.0)
    assert benchmark_module.rank_changes(first, {("a",): 4.0, ("b",): 1.0, ("c",): 1.1}) == (2, 1.0)
    moved, largest = benchmark_module.rank_changes(first, {("a",): 0.5, ("b",): 2.0, ("c",): 1.0})
    assert (moved, largest) == (3, 3.0)
    assert benchmark_module.rank_changes(first, {("a", "b"): 6.0, ("c",): 1.0})[0] == 3


def test_only_ratios_out_of_bounds_are_bold(benchmark_module):
    assert benchmark_module.mark(1.0, (0.95, 1.08)) == "1.000"
    assert benchmark_module.mark(1.09, (0.95, 1.08)) == "**1.090**"
