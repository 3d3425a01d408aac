"""Laws of profiles, on random models and tables: what a signature sees, what merging keeps, what a comparison means."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutset.graph.load import load
from cutset.profilers.compare import compare
from cutset.profilers.merge import merge, split
from cutset.profilers.ort_cpu import observe_shapes
from cutset.profilers.signature import sign
from cutset.profilers.table import CostTable
from tests.profile_tables import make_group, make_table
from tests.property.strategies_onnx import Case, cases
from tests.support import with_defaults

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


# Signatures


def disguised(model: onnx.ModelProto, seed: int) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Return the same model with other names and its nodes in another order, and the new name of each value."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    chooser = random.Random(seed)
    names: dict[str, str] = {"": ""}

    def renamed(name: str) -> str:
        return names.setdefault(name, f"v{len(names)}_{chooser.randrange(100)}")

    def walk(graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.name = renamed(value.name)
        for tensor in graph.initializer:
            tensor.name = renamed(tensor.name)
        for number, node in enumerate(graph.node):
            node.name = f"other {number}"
            node.input[:] = [renamed(name) for name in node.input]
            node.output[:] = [renamed(name) for name in node.output]
            for attribute in node.attribute:
                for body in (attribute.g, *attribute.graphs):
                    walk(body)

    walk(copy.graph)
    nodes = list(copy.graph.node)
    chooser.shuffle(nodes)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy, names


def signatures(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> tuple[Counter[str], str]:
    """Return the signature of every node alone and of all together, at the sizes that a run shows."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(model.SerializeToString())
        graph = load(path)
        graph = graph.with_measured(*observe_shapes(graph, with_defaults(graph, feeds)))
        names = [node.name for node in graph.nodes]
        return Counter(sign(graph, [name]).digest for name in names), sign(graph, names).digest


@QUICK
@given(cases(operators=8), st.integers(0, 1000))
def test_a_signature_does_not_see_names_or_order(case: Case, seed: int):
    feeds = case.feeds(seed)
    model, names = disguised(case.model, seed)
    assert signatures(case.model, feeds) == signatures(model, {names[name]: array for name, array in feeds.items()})


# Merging and comparing


@st.composite
def tables(draw: st.DrawFn) -> CostTable:
    """Return a profile of one model of three groups, on the CPU and perhaps on a GPU."""
    seconds = st.floats(1e-6, 1e-1)
    groups = [make_group(name, draw(seconds)) for name in ("a", "b", "c")]
    if draw(st.booleans()):
        groups += [make_group(name, draw(st.none() | seconds), device="gpu") for name in ("a", "b", "c")]
    pieces = tuple(make_group(name, draw(seconds)) for name in draw(st.sets(st.sampled_from(["a", "b"]))))
    return make_table(*groups, cpu=draw(st.sampled_from(["A", "B", "C"])), pieces=pieces)


def unique(parts: list[CostTable]) -> list[CostTable]:
    return [part for index, part in enumerate(parts) if part not in parts[:index]]


@QUICK
@given(st.lists(tables(), min_size=1, max_size=4))
def test_merging_keeps_every_machine_in_order(parts: list[CostTable]):
    assert list(split(merge(parts))) == unique(parts)


@QUICK
@given(tables(), tables(), tables())
def test_merging_is_associative_and_idempotent(a: CostTable, b: CostTable, c: CostTable):
    assert merge([merge([a, b]), c]) == merge([a, b, c]) == merge([a, merge([b, c])])
    assert merge([a, a]) == a
    assert merge([merge([a, b])]) == merge([a, b])


@QUICK
@given(st.lists(tables(), min_size=2, max_size=3))
def test_groups_of_each_device_of_a_merged_profile_cover_the_model_once(parts: list[CostTable]):
    merged = merge(parts)
    for device in {group.device for group in merged.groups}:
        assert sorted(name for group in merged.groups_on(device) for name in group.nodes) == ["a", "b", "c"]


@QUICK
@given(tables())
def test_a_profile_does_not_differ_from_itself(table: CostTable):
    found = compare(table, table)
    assert found.changes == found.only_b == ()
    assert all(group.verdict == "same" and group.ratio == 1.0 for group in (*found.groups, *found.totals))


@QUICK
@given(tables(), tables())
def test_comparing_the_other_way_round_mirrors(a: CostTable, b: CostTable):
    mirror = {"same": "same", "slower": "faster", "faster": "slower"}
    there = {(group.device, group.what): group for group in compare(a, b).groups}
    back = {(group.device, group.what): group for group in compare(b, a).groups}
    assert there.keys() == back.keys()
    for key, group in there.items():
        assert back[key].verdict == mirror[group.verdict]
        assert back[key].ratio * group.ratio == pytest.approx(1.0)


@QUICK
@given(tables(), st.floats(2.0, 10.0))
def test_everything_that_takes_twice_as_long_is_slower_in_total(table: CostTable, factor: float):
    slow = replace(
        table,
        groups=tuple(replace(g, latency_s=g.latency_s and g.latency_s * factor) for g in table.groups),
        sessions=tuple(replace(s, latency_s=replace(s.latency_s, median=s.latency_s.median * factor)) for s in table.sessions),
    )
    (total,) = [found for found in compare(table, slow).totals if found.device == "cpu"]
    assert (total.verdict, total.ratio) == ("slower", pytest.approx(factor))
