"""Parts of a model compute what the whole computes, keep symbolic sizes and weights, and anonymous copies hide every name."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from cutset.errors import ModelError
from cutset.graph import extract as extract_module
from cutset.graph.extract import data_type, extract, write_anonymous, write_part
from cutset.graph.load import dtype_name, load

FLOAT = TensorProto.FLOAT
HOSTILE = ['"},{', "`'\"\n\\", "</script>", "../../x", "n0", "v1", "日本語 \U0001f600", " "]


def run(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    source = str(model) if not isinstance(model, onnx.ModelProto) else model.SerializeToString()
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def sizes(info):
    return [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def cnn(cnn_path):
    return load(cnn_path)


@pytest.fixture(scope="module")
def image():
    return {"x": np.random.default_rng(3).random((2, 3, 16, 16), dtype=np.float32)}


def test_two_parts_compose_to_the_whole(cnn, cnn_path, image):
    head = extract(cnn, ["x"], ["r1", "c2"], name="head")
    tail = extract(cnn, ["c2", "r1"], ["y"], name="tail")
    assert [value.name for value in tail.graph.input] == ["c2", "r1"]
    assert head.graph.name == "head"
    middle = run(head, image)
    np.testing.assert_allclose(run(tail, middle)["y"], run(cnn_path, image)["y"], rtol=1e-4, atol=1e-6)


def test_symbolic_sizes_stay_symbolic_after_a_measured_run(cnn):
    measured = cnn.with_measured({"x": (1, 3, 16, 16), "r1": (1, 8, 16, 16)}, {})
    part = extract(measured, ["x"], ["r1"], name="p")
    assert sizes(part.graph.input[0]) == ["N", 3, 16, 16]
    assert sizes(part.graph.output[0])[0] == "N"


def test_a_size_that_a_run_has_proven_wrong_is_opened(cnn):
    part = extract(cnn.with_measured({"r1": (1, 8, 14, 16)}, {}), ["r1"], ["y"], name="p")
    assert sizes(part.graph.input[0]) == ["N", 8, "r1_dim2", 16]


def test_a_rank_that_a_run_has_proven_wrong_is_opened(cnn):
    part = extract(cnn.with_measured({"r1": (8, 16)}, {}), ["r1"], ["y"], name="p")
    assert not part.graph.input[0].type.tensor_type.HasField("shape")


def test_an_unbounded_cut_is_refused(cnn):
    with pytest.raises(ModelError, match="cannot cut `tail` out of the model"):
        extract(cnn, ["c2"], ["y"], name="tail")


def test_the_source_model_is_left_alone(cnn):
    before = {name: value.shape for name, value in ((str(v.name), v) for n in cnn.source.graph for v in n.outputs)}
    extract(cnn.with_measured({"r1": (1, 9, 9, 9)}, {}), ["r1"], ["y"], name="p")
    assert {str(v.name): v.shape for n in cnn.source.graph for v in n.outputs} == before
    assert [node.name for node in cnn.source.graph] == [node.name for node in cnn.nodes]


def test_captures_of_nested_bodies_become_inputs(if_path):
    graph = load(if_path)
    assert set(graph.by_name["branch"].inputs) == {"flag", "x", "h", "scale"}
    part = extract(graph, ["flag", "x", "h"], ["y"], name="branch")
    x = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    for flag in (True, False):
        got = run(part, {"flag": np.array(flag), "x": x, "h": np.maximum(x, 0)})["y"]
        np.testing.assert_allclose(got, 2 * np.maximum(x, 0) if flag else np.abs(x))


def test_opaque_types_survive(zipmap_path):
    graph = load(zipmap_path)
    part = extract(graph, ["p"], ["probabilities"], name="zip")
    assert part.graph.output[0].type.sequence_type.elem_type.map_type.key_type == TensorProto.INT64
    (row,) = run(part, {"p": np.array([[0.25, 0.5, 0.25]], np.float32)})["probabilities"]
    assert row == {0: 0.25, 1: 0.5, 2: 0.25}


@pytest.fixture
def external_cnn(cnn_path, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    onnx.save(onnx.load(cnn_path), folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    return load(folder / "m.onnx")


def test_parts_of_an_external_model_bring_their_weights(external_cnn, cnn_path, image, tmp_path):
    (tmp_path / "parts").mkdir()
    files = write_part(external_cnn, ["x"], ["y"], tmp_path / "parts" / "all.onnx")
    assert files == [tmp_path / "parts" / "all.onnx"]
    np.testing.assert_allclose(run(files[0], image)["y"], run(cnn_path, image)["y"], rtol=1e-5)
    np.testing.assert_allclose(
        run(extract(external_cnn, ["x"], ["y"], name="a"), image)["y"], run(cnn_path, image)["y"], rtol=1e-5
    )


@pytest.mark.parametrize("threshold", [None, 1000], ids=["asked for", "over the limit"])
def test_large_weights_go_beside_the_part(external_cnn, cnn_path, image, tmp_path, monkeypatch, threshold):
    if threshold is not None:
        monkeypatch.setattr(extract_module, "EXTERNAL_THRESHOLD_BYTES", threshold)
    (tmp_path / "parts").mkdir()
    path = tmp_path / "parts" / "all.onnx"
    assert write_part(external_cnn, ["x"], ["y"], path, external=threshold is None) == [path, path.with_name("all.onnx.data")]
    stored = {t.name: t.data_location for t in onnx.load(path, load_external_data=False).graph.initializer}
    assert stored["w2"] == TensorProto.EXTERNAL
    assert stored["fc"] == TensorProto.DEFAULT
    np.testing.assert_allclose(run(path, image)["y"], run(cnn_path, image)["y"], rtol=1e-5)


def test_a_constant_that_lies_outside_comes_along(save_model, tmp_path):
    value = helper.make_tensor("v", FLOAT, [4], np.arange(4, dtype=np.float32).tobytes(), raw=True)
    path = save_model(
        [helper.make_node("Constant", [], ["c"], value=value), helper.make_node("Add", ["x", "c"], ["y"])],
        [("x", FLOAT, [4])], [("y", FLOAT, [4])],
    )  # fmt: skip
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True)
    assert onnx.load(path, load_external_data=False).graph.node[0].attribute[0].t.data_location == TensorProto.EXTERNAL
    (part,) = write_part(load(path), ["x"], ["y"], tmp_path / "p.onnx")
    np.testing.assert_array_equal(run(part, {"x": np.ones(4, np.float32)})["y"], [1, 2, 3, 4])


def test_string_weights_stay_inside(save_model, tmp_path):
    words = np.array([f"word{number}" * 20 for number in range(200)], dtype=object)
    path = save_model(
        [helper.make_node("Gather", ["words", "i"], ["y"])],
        [("i", TensorProto.INT64, [2])], [("y", TensorProto.STRING, [2])], {"words": words},
    )  # fmt: skip
    (part,) = write_part(load(path), ["i"], ["y"], tmp_path / "p.onnx", external=True)
    assert run(part, {"i": np.array([3, 199])})["y"].tolist() == [words[3], words[199]]


# The anonymous copy


def test_anonymous_names_lead_back(cnn, cnn_path, image, tmp_path):
    path = tmp_path / "a.onnx"
    originals = write_anonymous(cnn, path)
    copy = onnx.load(path)
    index = {node.name: number for number, node in enumerate(cnn.nodes)}
    for node in copy.graph.node:
        original = cnn.nodes[int(node.name.removeprefix("n"))]
        assert index[original.name] == int(node.name[1:])
        assert [originals[value] for value in node.input] == list(original.inputs)
        assert [originals[value] for value in node.output] == list(original.outputs)
    assert [originals[value.name] for value in copy.graph.input] == ["x"]
    back = {original: name for name, original in originals.items()}
    got = run(path, {back["x"]: image["x"]})[back["y"]]
    np.testing.assert_allclose(got, run(cnn_path, image)["y"], rtol=1e-5)
    assert [node.name for node in cnn.source.graph] == [node.name for node in cnn.nodes]


def test_no_hostile_name_is_left(save_model, tmp_path):
    nodes, value = [], "x"
    for name in HOSTILE:
        nodes.append(helper.make_node("Relu", [value], [name], name=f"{name}!"))
        value = name
    nodes.append(helper.make_node("Add", [value, "w`"], ["y"], name="{}"))
    graph = load(save_model(nodes, [("x", FLOAT, [2])], [("y", FLOAT, [2])], {"w`": np.ones(2, np.float32)}))
    originals = write_anonymous(graph, tmp_path / "a.onnx")
    copy = onnx.load(tmp_path / "a.onnx").graph
    names = {n.name for n in copy.node} | {v for n in copy.node for v in (*n.input, *n.output)}
    names |= {t.name for t in copy.initializer} | {v.name for v in (*copy.input, *copy.output)}
    assert all(name[0] in "nv" and name[1:].isdecimal() for name in names)
    assert sorted(originals.values()) == sorted({*HOSTILE, "x", "y", "w`"})


def test_names_inside_bodies_do_not_collide(if_path, tmp_path):
    """The bodies hold values called v0 to v3, which are also what values of the main graph are renamed to."""
    graph = load(if_path)
    path = tmp_path / "a.onnx"
    back = {original: name for name, original in write_anonymous(graph, path).items()}
    x = np.array([[1, -2, 3, -4], [5, -6, 7, -8]], np.float32)
    np.testing.assert_allclose(run(path, {back["x"]: x})[back["y"]], 2 * np.maximum(x, 0))
    np.testing.assert_allclose(run(path, {back["x"]: -np.abs(x)})[back["y"]], np.abs(x))


def test_opaque_types_survive_anonymously(zipmap_path, tmp_path):
    graph = load(zipmap_path)
    back = {original: name for name, original in write_anonymous(graph, tmp_path / "a.onnx").items()}
    rows = run(tmp_path / "a.onnx", {back["x"]: np.ones((2, 4), np.float32)})[back["probabilities"]]
    assert [sorted(row) for row in rows] == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64", "uint8", "bool", "string"])
def test_type_names_are_each_others_inverse(dtype):
    assert dtype_name(data_type(dtype)) == dtype
