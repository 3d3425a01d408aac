"""A pipeline passes only if it gives the whole model's numbers, and the error names output, sample and difference."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen import numerics
from cutset.codegen.numerics import Tolerance
from cutset.codegen.verify import reference_outputs, reordering_noise, verify
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


@pytest.mark.parametrize(("times", "accepted"), [(1.0, True), (3.5, True), (5.0, False), (1000.0, False)])
def test_a_difference_is_held_to_what_the_order_of_sums_does_to_the_whole_model(tmp_path, monkeypatch, times, accepted):
    monkeypatch.setitem(numerics.TOLERANCES, "float32", 1e-12)  # so that this small network's noise is outside it
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((8, 64, 3, 3), dtype=np.float32), "w"),
        *(numpy_helper.from_array(rng.random(8, dtype=np.float32) + 0.5, name) for name in ("s", "b", "m", "v")),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 64, 9, 9]), ("y", [1, 8, 7, 7]))]
    body = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    graph, sample = load(path), {"x": rng.standard_normal((1, 64, 9, 9), dtype=np.float32)}
    reference = reference_outputs(graph, [sample])[0][0]
    noise = reordering_noise(graph, sample, reference)["y"]
    assert 0 < noise < 1e-3

    def shifted(_sample):
        found = reference["y"].astype(np.float64)
        found.flat[0] += times * noise
        return {"y": found.astype(np.float32)}

    if accepted:
        proof = verify(graph, [sample], shifted, origin="drawn")
        assert proof.reordering == pytest.approx(noise)
    else:
        with pytest.raises(VerificationError):
            verify(graph, [sample], shifted, origin="drawn")


@pytest.mark.parametrize("given", [Tolerance(rtol=0, atol=1e-9), Tolerance(rtol=1e-12)])
def test_a_given_tolerance_is_the_last_word(cnn_path, given):
    graph = load(cnn_path)
    sample = {spec.name: np.ones(spec.sizes({"N": 1}), np.float32) for spec in graph.inputs}
    reference = reference_outputs(graph, [sample])[0][0]
    shifted = {name: value + np.float32(1e-7) * np.abs(value).max() for name, value in reference.items()}
    with pytest.raises(VerificationError):
        verify(graph, [sample], lambda _sample: shifted, origin="drawn", tolerance=given)
