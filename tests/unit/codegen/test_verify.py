"""A pipeline passes only if it gives the whole model's numbers, and the error names output, sample and difference."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from cutset.codegen.numerics import Tolerance
from cutset.codegen.verify import reference_outputs, verify
from cutset.errors import VerificationError
from cutset.graph.load import load
from cutset.profilers.session import open_session, run

FLOAT = TensorProto.FLOAT


@pytest.fixture(scope="module")
def graph(save_model):
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("ArgMax", ["x"], ["k"], name="best", axis=1, keepdims=0),
    ]
    return load(save_model(nodes, [("x", FLOAT, [1, 4])], [("y", FLOAT, [1, 4]), ("k", TensorProto.INT64, [1])]))


SAMPLES = [{"x": np.array([[1, -2, 3, -4]], np.float32)}, {"x": np.array([[-1, 20, -3, 4]], np.float32)}]


def whole(graph):
    session = open_session(graph.path)
    return lambda sample: run(session, sample)


def changed(graph, name, value, *, at=1):
    """A pipeline that is wrong on one sample."""
    honest = whole(graph)
    return lambda sample: honest(sample) | ({name: value} if sample is SAMPLES[at] else {})


def test_the_whole_model_equals_itself(graph):
    proof = verify(graph, SAMPLES, whole(graph), origin="a file")
    assert (proof.passed, proof.max_abs, proof.samples, proof.inputs) == (True, 0.0, 2, "a file")
    assert (proof.outputs, proof.unrepeatable) == (("y", "k"), ())


def test_a_small_difference_is_reported_and_passes(graph):
    proof = verify(graph, SAMPLES, changed(graph, "y", np.array([[0, 20.001, 0, 4]], np.float32)), origin="o")
    assert proof.max_abs == pytest.approx(0.001, rel=0.01)
    assert proof.max_rel == pytest.approx(0.001 / 20, rel=0.01)


@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("y", np.array([[0, 21, 0, 4]], np.float32), "1 of 4 elements differ by up to 1"),
        ("y", np.array([[0, np.nan, 0, 4]], np.float32), "not-a-numbers differ"),
        ("y", np.array([0, 20, 0, 4], np.float32), "shape [4]"),
        ("k", np.array([2]), "1 of 1 elements differ"),
    ],
)
def test_a_difference_names_output_and_sample(graph, name, value, cause):
    with pytest.raises(VerificationError, match=f"output `{name}` of the parts differs") as caught:
        verify(graph, SAMPLES, changed(graph, name, value), origin="a file")
    assert caught.value.where.endswith("sample 1 (a file)")
    assert cause in caught.value.cause
    assert "--rtol" in caught.value.hint
    assert caught.value.exit_code == 4


def test_a_wider_tolerance(graph):
    wrong = changed(graph, "y", np.array([[0, 21, 0, 4]], np.float32))
    assert verify(graph, SAMPLES, wrong, origin="o", tolerance=Tolerance(rtol=0.1)).max_abs == 1.0


def test_random_outputs_are_not_compared(save_model):
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"], name="random"),
        helper.make_node("Abs", ["x"], ["y"], name="abs"),
    ]
    graph = load(save_model(nodes, [("x", FLOAT, [1, 4])], [("noise", FLOAT, [1, 4]), ("y", FLOAT, [1, 4])]))
    proof = verify(graph, SAMPLES, whole(graph), origin="o")
    assert (proof.outputs, proof.unrepeatable) == (("y",), ("noise",))
    with pytest.raises(VerificationError, match="`y`"):
        verify(graph, SAMPLES, changed(graph, "y", np.zeros((1, 4), np.float32)), origin="o")


def test_references_come_from_the_file_itself(graph):
    first, again = reference_outputs(graph, SAMPLES)
    assert [found["k"].tolist() for found in first] == [found["k"].tolist() for found in again] == [[2], [1]]
