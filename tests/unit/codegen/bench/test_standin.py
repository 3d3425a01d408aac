"""A deployed package is measured as the runtime loads it: what stays on the GPU, and who joins a batch."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.codegen.bench import standin
from cutset.codegen.bench.standin import Deployed
from cutset.codegen.bench.subjects import stage_subjects
from cutset.codegen.runtime.backends.device import DeviceTensor
from cutset.codegen.runtime.config import Wanted
from cutset.graph.load import load
from tests.support import make_plan, write_package


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="threads cannot be kept on a core here")
@pytest.mark.skipif(len(getattr(os, "sched_getaffinity", lambda _: ())(0)) < 2, reason="one core")
def test_what_stands_in_has_a_core_of_its_own_and_all_take_turns(monkeypatch):
    usable, now = os.sched_getaffinity(0), [0.0]
    monkeypatch.setattr(standin.time, "monotonic", lambda: now[0])

    def kept(*sides):
        for stand_in in sides:
            standin.keep(stand_in=stand_in)
        return os.sched_getaffinity(0)

    kept(True)
    assert os.sched_getaffinity(0) == usable, "the first thread's children would be kept with it"
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        seen = []
        for turn in range(len(usable)):
            now[0] = (turn + 0.5) * standin.CHANGE_S
            seen.append(one.submit(kept, True).result())
            assert other.submit(kept, False).result() == usable - seen[-1]
            assert other.submit(kept, True, False).result() == usable - seen[-1]
            now[0] += standin.CHANGE_S
            assert other.submit(kept, False).result() != usable - seen[-1], "it has changed"
            assert one.submit(os.sched_getaffinity, 0).result() != seen[-1], "also for those that did not ask"
            assert one.submit(os.sched_getaffinity, 0).result() == usable - other.submit(os.sched_getaffinity, 0).result()
    assert all(len(cores) == 1 for cores in seen)
    assert set().union(*seen) == usable


class Held:
    """A number of the stand-in's memory, as a GPU holds a tensor."""

    def fetch(self, tensor):
        return np.full(tensor.shape, 7, np.float32)


class OnGpu:
    """A stage whose outputs lie on a GPU where only GPU stages take them."""

    device, substitution, slots, joins = "gpu", None, 3, True

    def __init__(self, stage, options):
        self.stage = stage

    def run(self, feeds):
        held = DeviceTensor(0, (2, 3), np.dtype(np.float32), owner=None, home=Held())
        host = np.full((2, 3), 7, np.float32)
        return {name: held if place & Wanted.DEVICE else host for name, place in self.stage.wanted.items()}

    def close(self):
        pass


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return a package of relu (GPU) -> neg (CPU) -> tanh (GPU), the last reading what both wrote."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Neg", ["r"], ["n"], name="neg"),
        helper.make_node("Sum", ["n", "r"], ["y"], name="sum"),
    ]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3])] for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", *sides), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    graph = load(tmp_path / "m.onnx")
    write_package(graph, make_plan(graph, {"relu": "gpu", "neg": "cpu", "sum": "gpu"}), tmp_path)
    return tmp_path


def test_stages_are_loaded_with_their_places(package, monkeypatch):
    real = standin.load_stage
    monkeypatch.setattr(
        standin, "load_stage", lambda stage, options: (OnGpu if stage.device == "gpu" else real)(stage, options)
    )
    deployed = Deployed(package, cpu_workers=3)
    try:
        assert deployed.plan.cpu_workers == 3
        assert deployed.stages[0].stage.wanted == {"r": Wanted.HOST | Wanted.DEVICE}
        assert deployed.stages[2].stage.wanted == {"y": Wanted.RESULT}
        assert [entry.joins for entry in deployed.stages] == [True, False, True]
    finally:
        deployed.close()


def test_a_stage_that_stands_in_takes_what_lies_on_a_gpu(package, monkeypatch):
    real = standin.load_stage
    monkeypatch.setattr(standin, "load_stage", lambda stage, options: (OnGpu if stage.index == 0 else real)(stage, options))
    deployed = Deployed(package)
    try:
        assert [entry.stands_in for entry in deployed.stages] == [False, False, True]
        held = DeviceTensor(0, (2, 3), np.dtype(np.float32), owner=None, home=Held())
        outputs = deployed.stages[2].run({"n": np.ones((2, 3), np.float32), "r": held})
        assert outputs["y"].tolist() == np.full((2, 3), 8).tolist()
        assert len(list(stage_subjects(deployed, {"x": np.ones((2, 3), np.float32)}))) == 3
    finally:
        deployed.close()
