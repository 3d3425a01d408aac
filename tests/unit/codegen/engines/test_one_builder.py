"""What is measured is what is deployed: every road to an engine tells the builder the same."""

import sys
from dataclasses import replace
from enum import IntEnum
from types import ModuleType, SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.codegen.engines import build as building
from cutset.codegen.engines.feedback import plan_what_builds
from cutset.codegen.engines.prepare import Recipe, as_deployed
from cutset.codegen.engines.ranges import Runs
from cutset.codegen.runtime.backends import engine_build
from cutset.codegen.runtime.backends import tensorrt as backend
from cutset.codegen.runtime.backends.engine_build import BuildJob, BuildReport
from cutset.codegen.runtime.backends.engine_cache import Builder
from cutset.codegen.runtime.backends.engine_compile import BuildSettings
from cutset.codegen.runtime.engine_config import EngineConfig, EngineInput
from cutset.graph.load import load
from cutset.partitioner.plan import Part, form_stages
from cutset.profilers import segments as timing
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import NodeProbe, Oracle, try_node
from cutset.profilers.gpu_backend import GpuBackend
from cutset.profilers.ort_cpu import observe_shapes
from cutset.profilers.segments import SegmentOptions, boundary_values, segment_of, time_segments
from cutset.profilers.tensorrt import EngineJob, build_engine

FLOAT = TensorProto.FLOAT
RANGE = EngineInput(name="x", shapes=((1, 4), (2, 4), (8, 4)))


SIDES = [[helper.make_tensor_value_info(name, FLOAT, ["n", 4])] for name in "xy"]
NEGATION = helper.make_model(
    helper.make_graph([helper.make_node("Neg", ["x"], ["y"], name="neg")], "g", *SIDES),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
).SerializeToString()


class Recorder:
    """Notes what is called and set on it."""

    def __init__(self, told, name):
        object.__setattr__(self, "_told", told)
        object.__setattr__(self, "_name", name)

    def __setattr__(self, name, value):
        self._told.append((f"{self._name}.{name}", value))

    def __getattr__(self, name):
        def note(*words, **settings):
            said = [word._name if isinstance(word, Recorder) else word for word in words]
            self._told.append((f"{self._name}.{name}", *said, *sorted(settings.items())))

        return note


class Config(Recorder):
    def create_timing_cache(self, data):
        self._told.append(("config.create_timing_cache", data))
        return Timings(self._told, "timings")

    def get_timing_cache(self):
        return Timings(self._told, "timings")


class Timings(Recorder):
    def serialize(self):
        return b"timings"


def library(told, *, rtx):
    """A TensorRT that notes all that it is told; rtx decides which of the two it is."""

    class Network:
        num_inputs, num_layers = 1, 0

        def get_input(self, index):
            return SimpleNamespace(name="x", is_shape_tensor=False, shape=(-1, 4))

    class MakesEngines:
        def __init__(self, logger):
            pass

        def create_network(self, flags):
            told.append(("create_network", flags))
            return Network()

        def create_builder_config(self):
            return Config(told, "config")

        def create_optimization_profile(self):
            return Recorder(told, "profile")

        def build_serialized_network(self, network, config):
            return b"plan"

    parser = SimpleNamespace(parse=lambda data: True, parse_from_file=lambda file: True)
    made = ModuleType("tensorrt")
    made.__dict__.update(
        __version__="10.0",
        ILogger=type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0}),
        Builder=MakesEngines,
        OnnxParser=lambda network, logger: parser,
        NetworkDefinitionCreationFlag=IntEnum("Creation", {"STRONGLY_TYPED": 1}),
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
        init_libnvinfer_plugins=lambda logger, namespace: told.append(("plugins", namespace)),
    )
    if rtx:
        made.ComputeCapability = SimpleNamespace(SM89="SM89", CURRENT="CURRENT")
    return made


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def roads(request, monkeypatch, tmp_path):
    """Every way to build an engine with one of the two libraries: each returns what the builder was told."""
    told = []
    rtx = request.param == "tensorrt-rtx"
    monkeypatch.setitem(sys.modules, engine_build.MODULES[request.param], library(told, rtx=rtx))
    monkeypatch.setattr(engine_build, "limit_memory", lambda more_bytes: None)
    monkeypatch.setattr(backend, "build_apart", engine_build.build)
    model = tmp_path / "m.onnx"
    model.write_bytes(NEGATION)

    def settled(settings):
        return replace(settings, timing_cache=None if settings.timing_cache is None else str(tmp_path / "timing.cache"))

    def timed(settings):
        feed = {"x": np.ones((2, 4), np.float32)}
        build_engine(EngineJob(model=model, feed=feed, library=engine_build.MODULES[request.param], settings=settings))

    def built(settings):
        oracle = Oracle(backend=request.param, version="1", compute_capability=settings.compute_capability)
        part = building.Part(nodes=(), model=model, engine=tmp_path / "e", inputs=settings.inputs)
        cache = None if settings.timing_cache is None else tmp_path / "timing.cache"
        building.build_parts([part], oracle, tf32=settings.tf32, timing_cache=cache)

    def deployed(settings):
        engine = EngineConfig(
            backend=request.param,
            model=model,
            folder=tmp_path,
            precision="tf32" if settings.tf32 else "fp32",
            inputs=settings.inputs,
        )
        gpu = "" if settings.compute_capability else "a GPU"
        backend.rebuild(0, engine, Builder(backend=request.param, version="1", compute_capability="8.9", gpu=gpu))

    monkeypatch.setattr(building, "map_in_child", lambda function, jobs, **_: [function(job) for job in jobs])

    def run(way, settings):
        told.clear()
        (tmp_path / "timing.cache").unlink(missing_ok=True)
        way(settled(settings))
        return list(told)

    return SimpleNamespace(
        run=run, timed=timed, built=built, deployed=deployed, model=model, rtx=rtx, told=told, library=request.param
    )


@pytest.mark.parametrize("tf32", [False, True])
def test_every_road_tells_the_builder_the_same(roads, tf32):
    ahead = "8.9" if roads.rtx else ""
    settings = BuildSettings(inputs=(RANGE,), tf32=tf32, compute_capability=ahead, timing_cache="here")
    timed, built, deployed = (roads.run(way, settings) for way in (roads.timed, roads.built, roads.deployed))
    assert timed == built == deployed
    change = "config.set_flag" if tf32 else "config.clear_flag"
    assert [entry for entry in timed if "flag" in entry[0]] == [(change, "TF32")]
    assert ("create_network", 2) in timed, "strongly typed"
    assert ("profile.set_shape", "x", *RANGE.shapes) in timed
    assert ("config.set_timing_cache" in {entry[0] for entry in timed}) is not roads.rtx
    target = [entry for entry in timed if entry[0] == "config.set_compute_capability"]
    assert target == ([("config.set_compute_capability", "SM89", 0)] if roads.rtx else [])


def test_the_gpu_of_this_machine_is_named_the_same(roads):
    settings = BuildSettings(inputs=(RANGE,), timing_cache="here")
    timed, deployed = (roads.run(way, settings) for way in (roads.timed, roads.deployed))
    assert timed == deployed
    assert (("config.set_compute_capability", "CURRENT", 0) in timed) is roads.rtx


def test_what_is_asked_of_one_node_is_what_would_be_built(roads):
    """But for the timing cache, which asking neither needs nor fills."""
    fixed = EngineInput.fixed("x", (2, 4))
    expected = roads.run(roads.timed, BuildSettings(inputs=(fixed,), compute_capability="8.9" if roads.rtx else ""))
    roads.told.clear()
    probe = NodeProbe(
        model=NEGATION, shapes={"x": (2, 4)}, values={}, library=engine_build.MODULES[roads.library],
        compute_capability="8.9" if roads.rtx else "",
    )  # fmt: skip
    assert try_node(probe) == ""
    assert roads.told == expected


def test_timings_of_kernels_are_kept_and_added_to(roads, tmp_path):
    if roads.rtx:
        pytest.skip("TensorRT-RTX keeps none")
    settings = BuildSettings(inputs=(RANGE,), timing_cache=str(tmp_path / "timing.cache"))
    roads.timed(settings)
    roads.told.clear()
    roads.deployed(settings)
    assert ("config.create_timing_cache", b"timings") in roads.told
    assert "timings.combine" in {entry[0] for entry in roads.told}
    assert (tmp_path / "timing.cache").read_bytes() == b"timings"


class OnlyStages:
    def __init__(self, stages):
        self.stages = stages


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
def test_a_segment_that_is_timed_is_the_stage_that_is_deployed(save_model, tmp_path, monkeypatch, precision):
    """The same file but for the names of nodes, and the same settings: ranges over all runs, precision, clean-ups, timings."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 4)).astype(np.float32), "half": np.float32(0.5), "two": np.float32(2)}
    nodes = [
        helper.make_node("Neg", ["x"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["m"], name="product"),
        helper.make_node("Mul", ["half", "two"], ["one"], name="constant"),
        helper.make_node("Mul", ["m", "one"], ["y"], name="scale"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, ["n", 4])], [("y", FLOAT, ["n", 4])], weights))
    runs = [{"x": rng.normal(size=(rows, 4)).astype(np.float32)} for rows in (2, 1, 8)]
    graph = graph.with_measured(*observe_shapes(graph, runs[0]))
    recipe = Recipe(runs=Runs(usual=runs[:1], ends=lambda: runs[1:]), precision=precision, cache=CostCache(tmp_path))
    stages = form_stages(graph, [Part(device="cpu", nodes=("first",)), Part(device="gpu", nodes=("product", "scale"))])

    deployed, timed = [], []

    def build(function, jobs, **_):
        for job in jobs:
            deployed.append((job.settings, onnx.load(job.model)))
            (tmp_path / "e").write_bytes(b"plan")
        return [BuildReport(version="1", seconds=1.0, size_bytes=4) for _ in jobs]

    monkeypatch.setattr(building, "map_in_child", build)
    oracle = Oracle(backend="tensorrt", version="1", compute_capability="")
    plan_what_builds(
        graph, lambda _: OnlyStages(stages), GpuBackend(name="tensorrt", oracle=oracle), recipe, tmp_path, lambda _: None
    )

    def time(function, jobs, **_):
        timed.extend((job.settings, onnx.load(job.model)) for job in jobs)
        return []

    monkeypatch.setattr(timing, "map_in_child", time)
    segment = segment_of(graph, ["product", "scale"])
    options = SegmentOptions(backend="tensorrt", deployed=lambda found, models: as_deployed(graph, found, models, recipe))
    with pytest.raises(ValueError, match="zip"):  # no times came back
        time_segments(graph, [segment], boundary_values(graph, runs[0], [segment]), options=options)
    ((its_settings, its_file),), ((settings, file),) = deployed, timed
    assert settings == its_settings
    assert settings.inputs[0].shapes == ((1, 4), (2, 4), (8, 4))
    assert settings.tf32 is (precision == "tf32")
    assert settings.timing_cache == str(CostCache(tmp_path).timing_cache)
    for one, other in zip(file.graph.node, its_file.graph.node, strict=True):
        other.name = one.name
    assert file.graph.node == its_file.graph.node
    assert file.graph.initializer == its_file.graph.initializer
    assert ("fp16" in str(file.graph.node)) is (precision == "fp16")
    assert "constant" not in {node.name for node in its_file.graph.node}, "the clean-ups ran"


def test_a_job_says_all_that_the_builder_is_told():
    job = BuildJob(model="m", engine="e", backend="tensorrt", inputs=(RANGE,), tf32=True, timing_cache="t")
    assert job.settings == BuildSettings(inputs=(RANGE,), tf32=True, timing_cache="t")
