"""Whatever onnxruntime fuses, its kernels' times go to groups that partition the model and could be placed one by one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.profilers.attribution import Group
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cpu import CpuProfile, Observed, observe, profile_cpu
from cutset.profilers.table import OptimizationLevel
from cutset.sample_models import registry
from tests.property.builder_onnx import Builder
from tests.property.operators_onnx import binary, clip, conv, half, matmul, reshaped, unary
from tests.property.strategies_onnx import Case, assemble, cases
from tests.support import save, with_defaults

SHORT = settings(derandomize=True, deadline=None, database=None, max_examples=15, suppress_health_check=[HealthCheck.too_slow])
BUDGET_S = 0.1


@st.composite
def networks(draw: st.DrawFn) -> Case:
    """Draw chains of what onnxruntime fuses: convolution, normalisation, activation, product, sum."""
    b = Builder(draw)
    b.input("float32", (1, 2, 4, 4))
    b.input("float32", (2, 3))
    for operator in draw(st.lists(st.sampled_from([conv, conv, unary, binary, matmul, clip, half, reshaped]), min_size=5)):
        operator(b)
    return assemble(b, shuffle=draw(st.booleans()))


def is_placeable_one_by_one(graph: ModelGraph, groups: tuple[Group, ...]) -> bool:
    """Return whether no group needs, over others, a value that it makes itself; constants are copied, not waited for."""
    home = {name: index for index, group in enumerate(groups) for name in group.nodes}
    edges = [
        (home[graph.producer[value]], home[node.name])
        for node in graph.placeable
        for value in node.inputs
        if value in graph.producer and value not in graph.constant_values
    ]
    return bool(nx.is_directed_acyclic_graph(nx.DiGraph((a, b) for a, b in edges if a != b)))


def check(graph: ModelGraph, profile: CpuProfile) -> None:
    covered = [name for group in profile.groups for name in group.nodes]
    assert sorted(covered) == sorted(node.name for node in graph.nodes)
    assert is_placeable_one_by_one(graph, profile.groups)
    assert all(seconds >= 0 for seconds in profile.group_s)
    if any(group.kernels for group in profile.groups):
        assert sum(profile.group_s) == pytest.approx(profile.session.median)


def shape(found: CpuProfile | Observed) -> list[tuple[tuple[str, ...], int]]:
    """Return the groups without the kernels' positions: onnxruntime saves equal graphs in different orders."""
    return [(group.nodes, len(group.kernels)) for group in found.groups]


def measure(path: Path, feeds: Mapping[str, Any], level: OptimizationLevel = "all") -> tuple[ModelGraph, CpuProfile]:
    graph = load(path)
    return graph, profile_cpu(graph, with_defaults(graph, feeds), options=ProfileOptions(budget_s=BUDGET_S, optimization=level))


@SHORT
@given(case=networks())
def test_fused_chains(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, feeds = save(case.model, Path(folder)), case.feeds(seed=1)
        graph, profile = measure(path, feeds)
        again = observe(graph, with_defaults(graph, feeds))
    check(graph, profile)
    assert shape(again) == shape(profile)


@SHORT
@given(case=cases(), level=st.sampled_from(get_args(OptimizationLevel)))
def test_models_of_every_kind_at_every_level(case: Case, level: OptimizationLevel) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(*measure(save(case.model, Path(folder)), case.feeds(seed=1), level))


@pytest.mark.network
@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_real_networks(name: str, tmp_path: Path) -> None:
    path = registry.fetch(name, tmp_path / "model.onnx")
    feeds = registry.sample_inputs(name)
    counts = []
    for level in get_args(OptimizationLevel):
        graph, profile = measure(path, feeds, level)
        check(graph, profile)
        assert np.count_nonzero(profile.group_s) > 10
        counts.append(len(profile.groups))
    assert counts == sorted(counts, reverse=True), "the further onnxruntime may go, the more it fuses"
    assert counts[-1] < counts[0]
    assert shape(observe(graph, feeds)) == shape(profile)
