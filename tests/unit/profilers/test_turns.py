"""Parts in turns with the whole: what counts is their ratio in the same round, whatever the machine does between rounds."""

import itertools

import numpy as np
import pytest

from cutset.graph.load import load
from cutset.profilers import turns as module
from cutset.profilers.inputs import draw
from cutset.profilers.ort_child import SessionJob
from cutset.profilers.segments import segment_of, write_segment
from cutset.profilers.timing import MIN_RUNS, Run, take_turn, typical_s


def test_real_sessions_take_turns(cnn_path, tmp_path):
    graph = load(cnn_path)
    jobs = []
    for number, names in enumerate(([node.name for node in graph.placeable], ["conv1", "relu1"])):
        write_segment(graph, segment_of(graph, names), tmp_path / f"{number}.onnx")
        jobs.append(SessionJob(model=tmp_path / f"{number}.onnx", feed=draw(graph.inputs, {}, seed=0), budget_s=0.05))
    whole, part = (found.latency for found in module.time_in_turns(jobs))
    assert 0 < part.low <= part.median <= part.high
    assert part.median < whole.median
    assert part.runs >= part.samples >= MIN_RUNS


def test_a_part_takes_its_share_of_the_whole_at_any_speed(monkeypatch):
    """The machine is slower in every round than in the one before; the gauge sees nothing of it."""
    slowness = itertools.count(1)
    seconds = {"whole": 10.0, "half": 5.0, "tenth": 1.0}

    def turn(calls):
        by = 1.0 if len(calls) == 3 else now[0]
        return [[Run(wall_s=seconds[call] * by, cpu_s=seconds[call] * by, quiet=True)] * 3 for call in calls]

    class Blind:
        def read(self):
            now[0] = float(next(slowness))
            return 1e-4

        slowness = staticmethod(lambda readings: np.ones(len(readings)))

    now = [1.0]
    monkeypatch.setattr(module, "_call", lambda job: job.model)
    monkeypatch.setattr(module, "take_turn", turn)
    monkeypatch.setattr(module, "gauge", Blind)
    jobs = [SessionJob(model=name, feed={}, budget_s=0.0) for name in seconds]
    whole, half, tenth = (found.latency for found in module.time_in_turns(jobs))
    assert half.median == pytest.approx(whole.median / 2)
    assert tenth.median == pytest.approx(whole.median / 10)
    assert half.low == pytest.approx(half.high)


def test_the_first_pass_of_a_turn_does_not_count_unless_it_is_the_only_one():
    calls = []
    (runs,) = take_turn([lambda: calls.append(1)], seconds=60.0, most=4)
    assert len(calls) == 4
    assert not runs[0].quiet
    (alone,) = take_turn([lambda: None], seconds=0.0)
    assert len(alone) == 1
    assert typical_s([Run(wall_s=9.0, cpu_s=9.0, quiet=False), Run(wall_s=1.0, cpu_s=1.0, quiet=True)]) == 1.0
    assert typical_s([Run(wall_s=9.0, cpu_s=9.0, quiet=False)]) == 9.0
