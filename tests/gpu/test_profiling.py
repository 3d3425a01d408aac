"""Measuring on a GPU: what was measured adds up, copies behave like copies, engines name their nodes."""

import numpy as np
import pytest

from cutset.graph.load import load
from cutset.profilers.child import Failure, Limits
from cutset.profilers.ort_cuda import group_costs, profile_cuda
from cutset.profilers.profile import described
from cutset.profilers.segments import SegmentOptions, boundary_values, segment_of, time_segments
from cutset.profilers.transfer import profile_transfers

LIMITS = Limits(time_s=300)
CONVOLUTIONS = [f"{kind}{index}" for index in range(4) for kind in ("conv", "relu")]


@pytest.fixture
def inputs():
    return {"x": np.random.default_rng(1).random((8, 3, 128, 128), dtype=np.float32)}


def test_the_cuda_provider_in_place(needs, model, inputs):
    needs("onnxruntime-cuda")
    graph = load(model)
    found = profile_cuda(graph, inputs, budget_s=0.5, limits=LIMITS)
    assert not isinstance(found, Failure), found
    seconds = found.node_seconds()
    assert sum(seconds.values()) == pytest.approx(found.session.latency.median)
    assert sum(seconds[name] for name in CONVOLUTIONS) > 0.5 * found.session.latency.median
    assert 0.5 < found.kernel_sum_ratio < 4, "events must cover the work, not the launch"
    assert set(found.refused) == {"unique"}
    costs = group_costs(found, [described(graph, (node.name,)) for node in graph.nodes], batch=8)
    assert [cost.nodes for cost in costs if cost.latency_s is None] == [("unique",)]
    assert found.session.device_bytes is not None
    assert found.session.device_bytes > 0


def test_copies(needs):
    needs("nvidia-driver")
    found = profile_transfers(limits=LIMITS)
    assert not isinstance(found, Failure), found
    for measured in found.measurements:
        assert 1e9 < measured.model.bytes_per_s < 1e12
        assert 0 <= measured.model.fixed_s < 1e-3
    pageable, pinned = found.models(), found.models(pinned=True)
    assert pinned[0].bytes_per_s > pageable[0].bytes_per_s


@pytest.mark.parametrize("backend", ["onnxruntime-cuda", "tensorrt", "tensorrt-rtx"])
def test_segments(needs, backend, model, inputs):
    needs("nvidia-driver")
    needs(backend)
    graph = load(model)
    segments = [segment_of(graph, CONVOLUTIONS[:4]), segment_of(graph, CONVOLUTIONS[4:])]
    values = boundary_values(graph, inputs, segments)
    options = SegmentOptions(backend=backend, budget_s=0.5, limits=LIMITS)
    for segment, found in zip(segments, time_segments(graph, segments, values, options=options), strict=True):
        assert not isinstance(found, Failure), found
        assert found.latency.median > 0
        assert found.device_bytes is not None
        assert found.device_bytes > 0
        if backend != "onnxruntime-cuda":
            assert sum(layer.seconds for layer in found.layers) == pytest.approx(found.latency.median)
            assert {name for layer in found.layers for name in layer.nodes} == set(segment.nodes)
