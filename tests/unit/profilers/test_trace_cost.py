"""The profiler's own cost comes off each event once for itself and once for every event in its body."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.profilers.session import session_options
from cutset.profilers.timing import Run
from cutset.profilers.trace_cost import KernelRun, TraceCost, kernel_runs, lower_half, measure_trace_cost, typical_run
from tests.support import loop_of_sums

FREE = TraceCost(node_s=0.0, inside_s=0.0, whole_s=0.0)
COST = TraceCost(node_s=0.0, inside_s=1e-6, whole_s=4e-6)


def event(name, begin, duration, **args):
    return {"cat": "Node", "name": f"{name}_kernel_time", "ts": begin, "dur": duration, "args": args}


def written(folder, events):
    trace = folder / "trace.json"
    trace.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in events) + "\n]\n")
    return trace


def microseconds(runs):
    return {run.name: pytest.approx(run.seconds * 1e6) for run in runs}


def test_an_event_alone_loses_its_own_share(tmp_path):
    shapes = [{"float": [1, 2]}]
    trace = written(tmp_path, [event("a", 0, 10, output_type_shape=shapes), event("b", 13, 3)])
    assert list(kernel_runs(trace, COST)) == [
        KernelRun(name="a", shown_s=pytest.approx(10e-6), added_s=pytest.approx(1e-6), outputs=shapes),
        KernelRun(name="b", shown_s=pytest.approx(3e-6), added_s=pytest.approx(1e-6), outputs=[]),
    ]


def test_events_of_bodies_come_off_what_is_around_them(tmp_path):
    events = [event("before", 0, 9), event("deep", 12, 5), event("inner", 11, 20), event("leaf", 33, 2), event("outer", 10, 40)]
    runs = kernel_runs(written(tmp_path, [*events, event("after", 50, 7)]), COST)
    assert microseconds(runs) == {
        "before": 8,
        "deep": 4,
        "inner": 20 - 1 - 4,
        "leaf": 1,
        "outer": 40 - 1 - 3 * 4,
        "after": 6,
    }


def test_a_kernel_faster_than_its_event_comes_out_below_zero(tmp_path):
    """The mean over runs must not be pushed up by cutting each off at zero."""
    (run,) = kernel_runs(written(tmp_path, [event("a", 0, 0)]), COST)
    assert run.seconds == pytest.approx(-1e-6)


TREES = st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=4), max_leaves=25)


def laid_out(tree, begin, events):
    """Append the events of `tree` in the order in which they end; return the end and how many there are."""
    at, count = begin + 1, 0
    for child in tree:
        at, inside = laid_out(child, at, events)
        count += inside + 1
    events.append((begin, at - begin, count))
    return at + 1, count


@given(st.lists(TREES, min_size=1, max_size=4))
def test_any_nesting_is_counted(tmp_path_factory, trees):
    events, at = [], 0
    for tree in trees:
        at, _ = laid_out(tree, at, events)
    trace = written(tmp_path_factory.mktemp("nest"), [event(f"k{i}", b, d) for i, (b, d, _) in enumerate(events)])
    runs = list(kernel_runs(trace, TraceCost(node_s=0.0, inside_s=0.0, whole_s=1.0)))
    found = [round(duration * 1e-6 - run.seconds) for run, (_, duration, _) in zip(runs, events, strict=True)]
    assert found == [count for _, _, count in events]


def test_a_real_loop_s_iterations_are_found_inside_it(tmp_path):
    model = loop_of_sums(7)
    options = session_options(level="none")
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "trace")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.ones(2, np.float32)})
    runs = list(kernel_runs(Path(session.end_profiling()), TraceCost(node_s=0.0, inside_s=0.0, whole_s=100.0)))
    inside = {run.name: round(-run.seconds / 100) for run in runs if run.name in {"neg", "loop"}}
    assert inside == {"neg": 0, "loop": 7 * 2}


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20))
def test_the_larger_half_does_not_count(values):
    kept = sorted(values)[: (len(values) + 1) // 2]
    assert lower_half(values) == pytest.approx(sum(kept) / len(kept))
    assert lower_half([*values, *(1e9 for _ in values)]) == pytest.approx(sum(values) / len(values))


def test_an_event_costs_something_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cost = measure_trace_cost()
    assert cost.node_s > 0
    assert cost.whole_s > 0
    assert cost.inside_s >= 0
    assert list(tmp_path.iterdir()) == []


def events(*runs):
    """Return events of runs that give each kernel's seconds."""
    return [KernelRun(name=name, shown_s=seconds, added_s=0.0, outputs=[]) for run in runs for name, seconds in run.items()]


def made(*quiet):
    return [Run(wall_s=1.0, cpu_s=1.0, quiet=entry) for entry in quiet]


def test_kernels_of_slow_runs_count_at_the_speed_of_a_typical_one():
    """Neither runs that are slower as a whole nor one that was disturbed change what the kernels take."""
    usual = {"a": 2.0, "b": 3.0, "c": 5.0}
    slower = [{name: seconds * by for name, seconds in usual.items()} for by in (1.0, 1.0, 1.0, 1.0, 1.1, 1.3, 0.9)]
    warmup, disturbed = dict.fromkeys(usual, 70.0), usual | {"b": 50.0}
    found = typical_run(events(warmup, *slower, disturbed), set(usual), made(*[True] * 7, False), cost=FREE)
    total = sum(found.kernels.values())
    assert {name: seconds / total for name, seconds in found.kernels.items()} == pytest.approx({"a": 0.2, "b": 0.3, "c": 0.5})
    assert 10.0 <= total <= 10.5
    assert sorted(found.totals) == pytest.approx(sorted(sum(run.values()) for run in slower))


def test_means_see_below_the_microsecond_that_is_counted():
    """A kernel of 1.2 us shows as one of 1 in four runs of five, and as one of 2 in the fifth."""
    runs = [{"a": 1e-6 + 1e-6 * (number % 5 == 0), "b": 1e-3} for number in range(100)]
    found = typical_run(events(*runs), {"a", "b"}, made(*[True] * 100), cost=FREE)
    assert found.kernels == pytest.approx({"a": 1.2e-6, "b": 1e-3}, rel=0.005)


def test_with_no_quiet_run_the_quicker_half_counts():
    runs = [{"a": 1.0}, {"a": 3.0}, {"a": 50.0}, {"a": 90.0}]
    assert typical_run(events(*runs), {"a"}, made(*[False] * 4), cost=FREE).kernels == {"a": 2.0}


def test_a_kernel_that_was_interrupted_counts_as_usual():
    """Every run is interrupted once, in another kernel each time, so that none is quicker than the others."""
    names = [f"k{number}" for number in range(8)]
    runs = [{name: 1e-3 + 4e-3 * (name == hit) for name in names} for hit in names]
    found = typical_run(events(*runs), set(names), made(*[False] * 8), cost=FREE)
    assert found.kernels == pytest.approx(dict.fromkeys(names, 1e-3), rel=1e-3)


def test_kernels_of_bodies_and_models_without_kernels_count_nothing():
    assert typical_run(events({"body": 1.0}), {"a"}, made(True), cost=FREE).kernels == {}
    assert typical_run([], set(), [], cost=FREE).kernels == {}
    assert typical_run(events({"a": -1.0}), {"a"}, made(True), cost=replace(FREE, node_s=0.5)).kernels == {"a": 0.5}
