"""Splitting never changes numbers: random models, random placements, the real runtime, against onnxruntime on the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import pytest
from hypothesis import HealthCheck, Phase, assume, event, given, note, settings
from hypothesis import strategies as st

from cutset.errors import PlanError
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from tests.property.strategies_onnx import Case, cases
from tests.support import as_planned, differences, load_pipeline, make_plan, run_whole, save, write_package

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example]
FOUND_AS_IS = [Phase.explicit, Phase.generate]  # shrinking takes minutes; add Phase.shrink to study a failure
derandomised = settings(derandomize=True, deadline=None, database=None, suppress_health_check=QUIET, phases=FOUND_AS_IS)


def draw_placement(data: st.DataObject, graph: ModelGraph) -> dict[str, str]:
    return {node.name: data.draw(st.sampled_from(["cpu", "gpu"])) for node in graph.placeable}


def computes_nothing(graph: ModelGraph) -> bool:
    inputs = {spec.name for spec in graph.inputs}
    return all(spec.name in inputs for spec in graph.outputs)


@settings(derandomised, max_examples=150)
@given(case=cases(), data=st.data())
def test_split_equals_whole(case: Case, data: st.DataObject) -> None:
    note(onnx.printer.to_text(case.model))
    with tempfile.TemporaryDirectory() as folder:
        path = save(case.model, Path(folder))
        feeds = case.feeds(seed=1)
        graph = load(path)
        if data.draw(st.booleans()) or any(spec.dtype == "undefined" for spec in graph.values.values()):
            graph = as_planned(path, feeds)
        expected = run_whole(case.runnable, feeds)
        plan = make_plan(graph, draw_placement(data, graph))
        event(f"stages: {min(len(plan.stages), 5)}")
        for kind in {node.op.op_type for node in graph.placeable}:
            event(f"splits around {kind}")
        if computes_nothing(graph):
            with pytest.raises(PlanError, match="computes nothing"):
                write_package(graph, plan, Path(folder))
            return
        write_package(graph, plan, Path(folder))
        with load_pipeline(Path(folder)) as pipeline:
            assert differences(expected, pipeline.run(feeds)) == []


@settings(derandomised, max_examples=8)
@given(case=cases(), data=st.data())
def test_requests_under_way_together_stay_apart(case: Case, data: st.DataObject) -> None:
    note(onnx.printer.to_text(case.model))
    with tempfile.TemporaryDirectory() as folder:
        requests = [case.feeds(seed) for seed in range(12)]
        graph = as_planned(save(case.model, Path(folder)), requests[0])
        assume(not computes_nothing(graph))
        write_package(graph, make_plan(graph, draw_placement(data, graph)), Path(folder))
        with load_pipeline(Path(folder)) as pipeline:
            under_way = [pipeline.submit(feeds) for feeds in requests]
            answers = [future.result(timeout=60) for future in under_way]
        found = [differences(run_whole(case.runnable, feeds), answer) for feeds, answer in zip(requests, answers, strict=True)]
        assert found == [[]] * len(requests)
