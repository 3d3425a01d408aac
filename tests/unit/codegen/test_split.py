"""Stages become files whose interfaces are the plan's and that together compute the whole model."""

from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from cutset.codegen.split import external_files, write_stages
from cutset.errors import PlanError
from cutset.graph.load import load
from cutset.partitioner.plan import Part, form_stages
from cutset.profilers.session import open_session, run, session_options
from tests.support import as_planned


def test_the_files_compute_the_whole(cnn_path, tmp_path):
    graph = load(cnn_path)
    names = [node.name for node in graph.placeable]
    parts = [
        Part(device="cpu", nodes=tuple(names[:3])),
        Part(device="gpu", nodes=tuple(names[3:8])),
        Part(device="cpu", nodes=tuple(names[8:])),
    ]
    stages = form_stages(graph, parts)
    files = write_stages(graph, stages, tmp_path)
    assert [file.relative_to(tmp_path).as_posix() for file in files] == [stage.model for stage in stages]
    x = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    values = {"x": x}
    for stage, file in zip(stages, files, strict=True):
        proto = onnx.load(file)
        assert [value.name for value in proto.graph.input] == list(stage.inputs)
        assert [value.name for value in proto.graph.output] == list(stage.outputs)
        values |= run(open_session(file), {name: values[name] for name in stage.inputs})
    np.testing.assert_allclose(values["y"], run(open_session(cnn_path), {"x": x})["y"], rtol=1e-4, atol=1e-6)


def test_a_model_that_computes_nothing(save_model, tmp_path):
    graph = load(save_model([], [("x", TensorProto.FLOAT, [4])], [("x", TensorProto.FLOAT, [4])]))
    with pytest.raises(PlanError, match="computes nothing"):
        write_stages(graph, form_stages(graph, []), tmp_path)


HIDDEN = 8


def residual(save_model, *, declared, unused=False):
    """A residual sum whose shape onnxruntime cannot infer: it fuses the sum and the normalisation only where that is told."""
    shape = ["batch size", "words", HIDDEN]
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"], name="shape"),
        helper.make_node("Abs", ["sizes"], ["same"], name="abs"),
        helper.make_node("MatMul", ["x", "w"], ["product"], name="dense"),
        helper.make_node("Reshape", ["product", "same"], ["r"], name="reshape"),
        helper.make_node("Add", ["r", "x"], ["s"], name="skip"),
        helper.make_node("LayerNormalization", ["s", "scale", "shift"], ["n"], name="norm", axis=-1),
        helper.make_node("Erf", ["n"], ["e"], name="erf"),
        helper.make_node("TopK", ["e", "k"], ["y", "place"], name="top"),
    ]
    weights = {
        "w": np.random.default_rng(0).normal(size=(HIDDEN, HIDDEN)).astype(np.float32),
        "scale": np.ones(HIDDEN, np.float32), "shift": np.zeros(HIDDEN, np.float32), "k": np.array([2]),
    }  # fmt: skip
    inputs = [("x", TensorProto.FLOAT, shape)] + ([("mask", TensorProto.FLOAT, ["m"])] if unused else [])
    path = save_model(nodes, inputs, [("y", TensorProto.FLOAT, ["batch size", "words", 2])], weights)
    model = onnx.load(path)
    model.graph.value_info.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in declared)
    path.write_bytes(model.SerializeToString())
    return path


def kernels(model, tmp_path):
    """What onnxruntime makes of a model."""
    options = session_options()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    open_session(model, options=options)
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


def between_nodes(model):
    """What a file says of values that are neither weights nor its own inputs and outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [info for info in model.graph.value_info if info.name not in weights]


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize(("declared", "fused"), [((), 0), (("product", "r", "s", "n"), 1)])
def test_onnxruntime_fuses_a_stage_as_it_fuses_the_whole(save_model, tmp_path, declared, fused, measured):
    path = residual(save_model, declared=declared)
    graph = load(path)
    if measured:
        graph = as_planned(path, {"x": np.ones((1, 3, HIDDEN), np.float32)})
    names = [node.name for node in graph.placeable]
    parts = [Part(device="gpu", nodes=tuple(names[:-2])), Part(device="cpu", nodes=tuple(names[-2:]))]
    files = write_stages(graph, form_stages(graph, parts), tmp_path)
    assert kernels(path, tmp_path)["SkipLayerNormalization"] == fused
    assert kernels(files[0], tmp_path)["SkipLayerNormalization"] == fused
    assert kernels(files[0], tmp_path) + kernels(files[1], tmp_path) == kernels(path, tmp_path)


def test_a_stage_declares_what_the_file_declares_and_nothing_that_was_inferred(save_model, tmp_path):
    path = residual(save_model, declared=("s",))
    graph = as_planned(path, {"x": np.ones((1, 3, HIDDEN), np.float32)})
    parts = [Part(device="cpu", nodes=tuple(node.name for node in graph.placeable[:-1])), Part(device="cpu", nodes=("top",))]
    stage = onnx.load(write_stages(graph, form_stages(graph, parts), tmp_path)[0])
    (info,) = between_nodes(stage)
    dims = [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
    given = [dim.dim_param or dim.dim_value for dim in stage.graph.input[0].type.tensor_type.shape.dim]
    assert (info.name, dims) == ("s", given)


def test_what_the_file_declares_and_a_run_disproves_is_left_open(save_model, tmp_path):
    path = residual(save_model, declared=())
    model = onnx.load(path)
    model.graph.value_info.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 128, HIDDEN]))
    path.write_bytes(model.SerializeToString())
    graph = as_planned(path, {"x": np.ones((1, 3, HIDDEN), np.float32)})
    parts = [Part(device="cpu", nodes=tuple(node.name for node in graph.placeable[:-1])), Part(device="cpu", nodes=("top",))]
    stage = onnx.load(write_stages(graph, form_stages(graph, parts), tmp_path)[0])
    (info,) = between_nodes(stage)
    assert [dim.dim_value for dim in info.type.tensor_type.shape.dim] == [1, 0, HIDDEN]


def left_whole(graph, device="cpu"):
    return form_stages(graph, [Part(device=device, nodes=tuple(node.name for node in graph.placeable))])


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_model_left_whole_is_the_file_of_the_user(save_model, tmp_path, device):
    path = residual(save_model, declared=("s",))
    graph = load(path)
    (file,) = write_stages(graph, left_whole(graph, device), tmp_path)
    assert file.read_bytes() == path.read_bytes()


def test_inputs_that_nothing_uses_are_still_the_users(save_model, tmp_path):
    path = residual(save_model, declared=(), unused=True)
    graph = load(path)
    (stage,) = left_whole(graph)
    assert stage.inputs == ("x", "mask")
    assert write_stages(graph, [stage], tmp_path)[0].read_bytes() == path.read_bytes()


@pytest.mark.parametrize("place", ["w.bin", "weights/all.bin"])
def test_external_data_keeps_its_place(save_model, tmp_path, place):
    source = residual(save_model, declared=())
    path = tmp_path / "model" / "m.onnx"
    (path.parent / place).parent.mkdir(parents=True)
    onnx.save(onnx.load(source), path, save_as_external_data=True, location=place, size_threshold=64)
    graph = load(path)
    files = write_stages(graph, left_whole(graph), tmp_path / "out")
    assert [file.relative_to(tmp_path / "out/stages").as_posix() for file in files] == ["00_cpu.onnx", place]
    assert [file.read_bytes() for file in files] == [path.read_bytes(), (path.parent / place).read_bytes()]
    assert external_files(files[0]) == [place]


@pytest.mark.parametrize("place", ["00_cpu.onnx", "model.onnx", "00_cpu.free.onnx"])
def test_external_data_that_would_overwrite_a_file_of_the_package_is_written_anew(save_model, tmp_path, place):
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(residual(save_model, declared=())), path, save_as_external_data=True, location=place, size_threshold=64)
    graph = load(path)
    (file,) = write_stages(graph, left_whole(graph), tmp_path / "out")
    x = {"x": np.ones((1, 3, HIDDEN), np.float32)}
    np.testing.assert_array_equal(run(open_session(file), x)["y"], run(open_session(path), x)["y"])
