"""The cut that changes numbers is found among those that do not, with the nodes that must then stay together."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.fault import cuts_at_fault, parted_by
from cutset.codegen.numerics import Tolerance
from cutset.graph.load import load
from cutset.partitioner.plan import Part, form_stages

CHANNELS = 4
NODES = ("first", "norm", "amplify", "sine", "turn", "flip")


@pytest.fixture(scope="module")
def sensitive(save_model):
    """A convolution that onnxruntime folds a normalisation into, whose last bits a sine then shows, and two exact nodes."""
    rng = np.random.default_rng(0)
    shape = [1, CHANNELS, 6, 6]
    weights = {name: rng.random(CHANNELS, np.float32) + 0.5 for name in ("scale", "bias", "mean", "variance")}
    weights |= {"w": rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32), "large": np.float32(3e6)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "bias", "mean", "variance"], ["n"], name="norm"),
        helper.make_node("Mul", ["n", "large"], ["m"], name="amplify"),
        helper.make_node("Sin", ["m"], ["s"], name="sine"),
        helper.make_node("Transpose", ["s"], ["t"], name="turn", perm=[0, 2, 3, 1]),
        helper.make_node("Neg", ["t"], ["y"], name="flip"),
    ]
    path = save_model(nodes, [("x", TensorProto.FLOAT, shape)], [("y", TensorProto.FLOAT, [1, 6, 6, CHANNELS])], weights)
    return load(path), [{"x": rng.normal(size=shape).astype(np.float32)}]


def staged(graph, *sets):
    return form_stages(graph, [Part(device="cpu", nodes=names) for names in sets])


@pytest.mark.parametrize(
    ("sets", "found"),
    [
        ((NODES[:1], NODES[1:]), [1]),
        ((NODES[:3], NODES[3:]), []),
        ((NODES[:1], NODES[1:3], NODES[3:4], NODES[4:5], NODES[5:]), [1]),
        ((NODES[:1], NODES[1:4], NODES[4:]), [1]),
        ((NODES[:3], NODES[3:5], NODES[5:]), []),
    ],
)
def test_the_cut_inside_what_is_folded_is_at_fault(sensitive, sets, found):
    graph, samples = sensitive
    assert cuts_at_fault(graph, staged(graph, *sets), samples, Tolerance()) == found


def test_what_writes_and_reads_a_crossing_value_is_parted(sensitive):
    graph, _ = sensitive
    stages = staged(graph, NODES[:1], NODES[1:4], NODES[4:])
    assert parted_by(graph, stages, 1, []) == [("first", "norm")]
    assert parted_by(graph, stages, 2, []) == [("sine", "turn")]


def test_a_fused_group_is_parted_as_a_whole(sensitive):
    graph, _ = sensitive
    stages = staged(graph, NODES[:1], NODES[1:])
    assert parted_by(graph, stages, 1, [("first", "norm", "amplify"), ("sine",)]) == [("first", "norm", "amplify")]
