"""Costs inside a session on a device: the method on the CPU provider, and what only a CUDA session shows from its trace."""

import tempfile

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.profilers import ort_cuda
from cutset.profilers.attribution import Kernel
from cutset.profilers.child import Failure, Limits
from cutset.profilers.inputs import draw
from cutset.profilers.ort_child import CPU_PROVIDER, CUDA_PROVIDER, SessionJob, SessionTime
from cutset.profilers.ort_cuda import Traces, assemble, group_costs, profile_cuda, profile_session
from cutset.profilers.profile import described
from cutset.profilers.refusals import ON_HOST, around, failed_node
from cutset.profilers.segments import boundary_values
from cutset.profilers.table import Latency
from cutset.profilers.trace import KernelEvent

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
LIMITS = Limits(time_s=60)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """Give temporary files a folder of their own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def on_cpu(graph, inputs=None, **settings):
    inputs = draw(graph.inputs, {}, seed=0) if inputs is None else inputs
    return profile_session(graph, SessionJob(model=None, feed=inputs, budget_s=0.02, **settings), limits=LIMITS)


def test_the_method_covers_a_model_and_adds_up(cnn_path, temporary):
    graph = load(cnn_path)
    found = on_cpu(graph)
    assert not isinstance(found, Failure), found
    covered = [name for group in found.groups for name in group.nodes]
    assert sorted(covered) == sorted(node.name for node in graph.nodes)
    assert sum(found.group_s) == pytest.approx(found.session.latency.median)
    assert any({"conv1", "relu1"} <= set(group.nodes) for group in found.groups)
    assert set(found.unfused_s) == {node.name for node in graph.nodes}
    assert found.kernel_sum_ratio > 0
    assert found.refused == {}
    assert list(temporary.iterdir()) == []


def test_times_of_nodes_sum_to_the_session(cnn_path):
    found = on_cpu(load(cnn_path))
    seconds = found.node_seconds()
    assert set(seconds) == set(found.unfused_s)
    assert sum(seconds.values()) == pytest.approx(found.session.latency.median)
    assert min(seconds.values()) >= 0


def test_bodies_do_not_count_twice(if_path):
    graph = load(if_path)
    found = on_cpu(graph, {"x": np.ones((2, 4), np.float32)})
    assert set(found.unfused_s) == {"outer", "top", "flag", "branch"}
    assert sum(found.group_s) == pytest.approx(found.session.latency.median)


def test_inputs_that_the_model_refuses_are_a_reason(cnn_path, temporary):
    failure = on_cpu(load(cnn_path), {"x": np.ones((1, 4, 16, 16), np.float32)})
    assert isinstance(failure, Failure)
    assert failure.detail.startswith("onnxruntime cannot run the model on the sample inputs")
    assert list(temporary.iterdir()) == []


def test_without_cuda_there_is_a_reason(cnn_path):
    graph = load(cnn_path)
    found = profile_cuda(graph, draw(graph.inputs, {}, seed=0), budget_s=0.0, limits=LIMITS)
    if CUDA_PROVIDER in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    assert isinstance(found, Failure)
    assert "cannot be used" in found.detail


def kernel(name, op_type, reads, writes):
    return Kernel(name=name, op_type=op_type, inputs=tuple(reads.split()), outputs=tuple(writes.split()))


def traces(fused, unfused, latency_s):
    """Return traces of one event a kernel, given as (name, provider, seconds)."""
    latency = Latency(median=latency_s, p10=latency_s * 0.9, p90=latency_s * 1.2, samples=5)
    made = [[KernelEvent(name=n, provider=p, seconds=s) for n, p, s in events] for events in (fused, unfused)]
    return Traces(session=SessionTime(latency=latency), fused=made[0], unfused=made[1])


@pytest.fixture
def mixed(save_model):
    """Return MatMul -> NonZero -> Cast and MatMul -> Relu, as a CUDA session splits them: NonZero's neighbours need copies."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Unique", ["h"], ["u"], name="unique"),
        helper.make_node("Neg", ["u"], ["a"], name="neg"),
        helper.make_node("Relu", ["h"], ["b"], name="relu"),
    ]
    outputs = [("a", FLOAT, ["n"]), ("b", FLOAT, [4, 4])]
    return load(save_model(nodes, [("x", FLOAT, [4, 4])], outputs, {"w": np.ones((4, 4), np.float32)}))


ORIGINALS = {"v0": "x", "v1": "w", "v2": "h", "v3": "u", "v4": "a", "v5": "b"}
KERNELS = [
    kernel("n0", "MatMul", "v0 v1", "v2_CUDAExecutionProvider"),
    kernel("Memcpy", "MemcpyToHost", "v2_CUDAExecutionProvider", "v2"),
    kernel("n1", "Unique", "v2", "v3"),
    kernel("Memcpy_token_1", "MemcpyFromHost", "v3", "v3_CUDAExecutionProvider"),
    kernel("n2", "Neg", "v3_CUDAExecutionProvider", "v4"),
    kernel("n3", "Relu", "v2_CUDAExecutionProvider", "v5"),
]
FUSED = [
    ("n0", CUDA_PROVIDER, 4e-5),
    ("Memcpy", CUDA_PROVIDER, 1e-5),
    ("n1", CPU_PROVIDER, 3e-5),
    ("Memcpy_token_1", CUDA_PROVIDER, 2e-5),
    ("n2", CUDA_PROVIDER, 5e-5),
    ("n3", CUDA_PROVIDER, 5e-5),
    ("b0", CPU_PROVIDER, 9.0),
]
UNFUSED = [(f"n{index}", CUDA_PROVIDER, 1e-5) for index in range(4)]


def test_copies_belong_to_neighbours_and_host_kernels_are_refused(mixed):
    found = assemble(mixed, KERNELS, ORIGINALS, traces(FUSED, UNFUSED, 1e-4), 0)
    seconds = {group.nodes: time for group, time in zip(found.groups, found.group_s, strict=True)}
    assert seconds == {
        ("dense",): pytest.approx(2e-5),
        ("unique",): pytest.approx(2e-5),
        ("neg",): pytest.approx(3.5e-5),
        ("relu",): pytest.approx(2.5e-5),
    }
    assert found.refused == {"unique": ON_HOST}
    assert found.kernel_sum_ratio == pytest.approx(2.0)


def test_costs_of_the_cpus_groups(mixed):
    found = assemble(mixed, KERNELS, ORIGINALS, traces(FUSED, UNFUSED, 1e-4), 0)
    together, refused = group_costs(
        found, [described(mixed, nodes) for nodes in (("dense", "relu"), ("unique", "neg"))], batch=4
    )
    assert (together.device, together.backend, together.batch, together.source) == ("gpu", "onnxruntime-cuda", 4, "measured")
    assert together.latency_s == pytest.approx(4.5e-5)
    assert (together.low_s, together.high_s) == (pytest.approx(4.05e-5), pytest.approx(5.4e-5))
    assert together.unfused_s == {"dense": 1e-5, "relu": 1e-5}
    assert (refused.latency_s, refused.low_s, refused.reason) == (None, None, ON_HOST)
    assert together.canonical == ("dense", "relu")
    assert together.signature
    assert together.work, "else the profile could not be replayed elsewhere, nor fitted to"


def test_work_on_shapes_stays_on_the_host_and_is_not_refused(save_model):
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="shape"),
        helper.make_node("Gather", ["s", "i"], ["g"], name="gather"),
        helper.make_node("Reshape", ["x", "g"], ["y"], name="reshape"),
    ]
    weights = {"i": np.array([1, 0])}
    graph = load(save_model(nodes, [("x", FLOAT, ["a", "b"])], [("y", FLOAT, ["b", "a"])], weights))
    kernels = [kernel(f"n{i}", node.op.op_type, "", "") for i, node in enumerate(graph.nodes)]
    events = [(f"n{i}", CPU_PROVIDER if node.name == "gather" else CUDA_PROVIDER, 1e-5) for i, node in enumerate(graph.nodes)]
    assert assemble(graph, kernels, {}, traces(events, events, 1e-4), 0).refused == {}


def test_the_cpu_refuses_nothing_of_itself(mixed):
    events = [(name, CPU_PROVIDER, seconds) for name, _, seconds in FUSED]
    assert assemble(mixed, KERNELS, ORIGINALS, traces(events, UNFUSED, 1e-4), None).refused == {}


# Nodes that fail when they run


@pytest.fixture
def failing(save_model, monkeypatch):
    """Return how to make x -> Relu -> h -> Sin -> Dropout... -> Exp -> y, where a Neg reads h, too.

    A session without optimisations runs the Dropouts, whose ratio onnxruntime refuses; one with them drops them. In place of
    the CPU that runs what a GPU fails at, the values come from the same model with another ratio, which changes no value.
    """

    def made(count, ratio):
        nodes = [helper.make_node("Relu", ["x"], ["h"], name="relu"), helper.make_node("Sin", ["h"], ["d0"], name="sin")]
        nodes += [helper.make_node("Dropout", [f"d{i}", "ratio"], [f"d{i + 1}"], name=f"drop{i}") for i in range(count)]
        nodes.append(helper.make_node("Exp", [f"d{count}"], ["y"], name="exp"))
        nodes.append(helper.make_node("Neg", ["h"], ["z"], name="neg"))
        outputs = [(name, FLOAT, [64, 64]) for name in "yz"]
        return load(save_model(nodes, [("x", FLOAT, [64, 64])], outputs, {"ratio": np.float32(ratio)}))

    def both(count=1):
        graph, works = made(count, 2.0), made(count, 0.5)
        monkeypatch.setattr(ort_cuda, "boundary_values", lambda _, inputs, segments: boundary_values(works, inputs, segments))
        return graph

    return both


@pytest.mark.parametrize("level", ["all", "none"])
def test_a_node_that_fails_is_refused_and_the_rest_is_measured(failing, temporary, level):
    """With ``all`` only the run of single nodes meets the failing ones."""
    graph = failing(2)
    found = on_cpu(graph, level=level)
    assert not isinstance(found, Failure), found
    assert set(found.refused) == {"drop0", "drop1"}
    assert all("dropout_op" in reason for reason in found.refused.values())
    assert set(found.unfused_s) == {"relu", "sin", "exp", "neg"}
    seconds = found.node_seconds()
    assert seconds["drop0"] == seconds["drop1"] == 0
    assert min(seconds[name] for name in found.unfused_s) > 0
    assert sum(seconds.values()) == pytest.approx(found.session.latency.median)
    priced = group_costs(found, [described(graph, names) for names in (("relu", "sin"), ("drop0", "drop1", "exp"))], batch=1)
    assert [group.latency_s is None for group in priced] == [False, True]
    assert priced[1].reason == found.refused["drop0"]
    assert not list(temporary.glob("cutset-*"))


def test_nodes_that_fail_end_somewhere(failing, monkeypatch):
    monkeypatch.setattr(ort_cuda, "MAX_REFUSED", 1)
    failure = on_cpu(failing(2), level="none")
    assert isinstance(failure, Failure)
    assert failed_node(failure.detail).name == "n3"


def test_a_node_that_fails_on_the_cpu_too_is_a_failure(failing, monkeypatch):
    graph = failing()
    monkeypatch.setattr(ort_cuda, "boundary_values", boundary_values)
    failure = on_cpu(graph, level="none")
    assert isinstance(failure, Failure)
    assert failed_node(failure.detail).name == "n2"


def test_a_model_of_nothing_but_a_failing_node_is_a_failure(save_model):
    weights = {"ratio": np.float32(2)}
    nodes = [helper.make_node("Dropout", ["x", "ratio"], ["y"], name="drop")]
    failure = on_cpu(load(save_model(nodes, [("x", FLOAT, [4])], [("y", FLOAT, [4])], weights)), level="none")
    assert isinstance(failure, Failure)
    assert "Dropout" in failure.detail


def test_the_model_around_a_node(failing):
    graph = failing()
    rest = around(graph, {"drop0"})
    assert (rest.inputs, rest.outputs) == (("x", "d1"), ("y", "z", "d0"))
    last = around(graph, {"exp", "drop0"})
    assert (last.inputs, last.outputs) == (("x",), ("z", "d0"))
    assert around(graph, {"relu"}).inputs == ("x", "h")
    whole = around(graph, ())
    assert (whole.inputs, whole.outputs) == (("x",), ("y", "z"))


def test_what_onnxruntime_says_of_a_failing_node():
    said = (
        "ProfileError: Error in execution: Non-zero status code returned while running Resize node. Name:'n16' Status Message: "
        "NHWC antialias resize is not supported\n for 8-bit integer types on CUDA"
    )
    found = failed_node(said)
    assert (found.op_type, found.name) == ("Resize", "n16")
    assert found.reason.endswith("NHWC antialias resize is not supported for 8-bit integer types on CUDA")
    inner = "Non-zero status code returned while running If node. Name:'a' Status Message: " + said
    assert failed_node(inner).name == "a"
    assert failed_node("CUDA failure 700") is None
