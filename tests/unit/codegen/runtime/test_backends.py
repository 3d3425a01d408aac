"""Stages in the real ONNX Runtime: element types, substitution, custom operators, failures."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.runtime import ConfigError, DegradedWarning, Pipeline, StageError

IDENTITY = [helper.make_node("Identity", ["x"], ["y"])]


def _identity(package, dtype, shape, **plan):
    return package(
        {"x": (dtype, shape), "y": (dtype, shape)}, [("cpu", IDENTITY, ["x"], ["y"])], inputs=["x"], outputs=["y"], **plan
    )


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.arange(6, dtype=np.float32).reshape(3, 2).T,
        np.arange(3, dtype=np.float16)[None],
        np.array([[True, False]]),
        np.array([["a", "é\0b", ""]], object),
        np.zeros((0, 3), np.float32),
        np.empty((0, 3), object),
        np.frombuffer(b"_" + np.arange(3, dtype="<f4").tobytes(), "<f4", offset=1).reshape(1, 3),
    ],
    ids=["plain", "strided", "float16", "bool", "string", "empty", "no strings", "unaligned"],
)
def test_what_goes_in_comes_out(package, array):
    dtype = "string" if array.dtype == object else array.dtype.name
    with Pipeline.load(_identity(package, dtype, [None, "n"]).folder) as pipeline:
        result = pipeline.run({"x": array})["y"]
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_a_scalar_stays_a_scalar(package):
    with Pipeline.load(_identity(package, "float32", []).folder) as pipeline:
        result = pipeline.run({"x": 2.5})["y"]
    assert isinstance(result, np.ndarray)
    assert (result.shape, float(result)) == ((), 2.5)


def test_bfloat16_travels_as_bits_through_inputs_cuts_and_outputs(package):
    tensors = {"x": ("bfloat16", ["n"]), "f": ("float32", ["n"]), "b": ("bfloat16", ["n"]), "y": ("bfloat16", ["n"])}
    stages = [
        (
            "cpu",
            [helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT), helper.make_node("Identity", ["x"], ["b"])],
            ["x"],
            ["f", "b"],
        ),
        ("cpu", [helper.make_node("Identity", ["b"], ["y"])], ["b"], ["y"]),
    ]
    values = np.array([1.0, -2.5, 3e38], ml_dtypes.bfloat16)
    with Pipeline.load(package(tensors, stages, inputs=["x"], outputs=["f", "y"]).folder) as pipeline:
        result = pipeline.run({"x": values})
        empty = pipeline.run({"x": values[:0]})
    np.testing.assert_array_equal(result["f"], values.astype(np.float32))
    np.testing.assert_array_equal(result["y"].view(ml_dtypes.bfloat16), values)
    assert empty["y"].shape == (0,)


def test_bfloat16_beside_strings_is_refused_at_load(package):
    tensors = {"x": ("string", ["n"]), "f": ("float32", ["n"]), "y": ("bfloat16", ["n"]), "s": ("string", ["n"])}
    nodes = [helper.make_node("Cast", ["f"], ["y"], to=TensorProto.BFLOAT16), helper.make_node("Identity", ["x"], ["s"])]
    folder = package(tensors, [("cpu", nodes, ["x", "f"], ["y", "s"])], inputs=["x", "f"], outputs=["y", "s"]).folder
    with pytest.raises(ConfigError, match="cannot return bfloat16 beside"):
        Pipeline.load(folder)


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has CUDA")
def test_a_gpu_stage_without_a_gpu_runs_on_the_cpu_pool_and_says_why(chain):
    package = chain(2, devices=("cpu", "gpu"))
    with pytest.warns(DegradedWarning, match=r"stage 1 .* runs on the cpu: .*CUDA provider") as caught:
        pipeline = Pipeline.load(package.folder)
    with pipeline:
        assert pipeline.run({"t0": [0.0]})["t2"].tolist() == [2.0]
        assert [stage.device for stage in pipeline.stats().stages] == ["cpu", "cpu"]
    assert len(caught) == 1


def test_custom_operators_are_registered(package):
    node = helper.make_node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")
    tensors = {"x": ("string", ["n"]), "y": ("string", ["n"])}
    build = lambda **plan: package(tensors, [("cpu", [node], ["x"], ["y"])], inputs=["x"], outputs=["y"], **plan)  # noqa: E731
    with Pipeline.load(build(custom_ops=[{"module": "onnxruntime_extensions"}]).folder) as pipeline:
        assert pipeline.run({"x": ["abc"]})["y"].tolist() == ["ABC"]
    with pytest.raises(ConfigError, match="cannot load the model"):
        Pipeline.load(build().folder)


def test_a_library_file_that_is_none_is_refused(chain):
    package = chain(1, custom_ops=[{"file": "bad.so"}])
    (package.folder / "bad.so").write_text("no library")
    with pytest.raises(ConfigError, match="cannot load the model") as caught:
        Pipeline.load(package.folder)
    assert caught.value.where == "stage 0 (00.onnx)"


def test_a_model_that_is_not_the_plans_is_refused(chain):
    package = chain(2)
    (package.folder / "stages/01.onnx").write_bytes((package.folder / "stages/00.onnx").read_bytes())
    with pytest.raises(ConfigError, match="the plan says") as caught:
        Pipeline.load(package.folder)
    assert caught.value.where == "stage 1 (01.onnx)"


def test_a_damaged_model_and_an_unknown_backend_are_refused(chain):
    package = chain(1)
    (package.folder / "stages/00.onnx").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="cannot load the model"):
        Pipeline.load(package.folder)
    package.document["stages"][0]["backend"] = "abacus"
    package.write()
    with pytest.raises(ConfigError, match="unknown backend 'abacus'"):
        Pipeline.load(package.folder)


def test_a_failing_run_names_stage_cause_and_shapes_and_the_next_one_works(package):
    tensors = {"x": ("float32", ["n"]), "i": ("int64", ["k"]), "y": ("float32", ["k"])}
    gather = [helper.make_node("Gather", ["x", "i"], ["y"])]
    folder = package(tensors, [("cpu", gather, ["x", "i"], ["y"])], inputs=["x", "i"], outputs=["y"]).folder
    with Pipeline.load(folder) as pipeline:
        with pytest.raises(StageError, match="stage 0 failed on the cpu") as caught:
            pipeline.run({"x": [1.0, 2.0], "i": [7]})
        assert caught.value.shapes == {"x": (2,), "i": (1,)}
        assert "out of" in caught.value.cause
        assert pipeline.run({"x": [1.0, 2.0], "i": [1]})["y"].tolist() == [2.0]
        assert (pipeline.stats().failed, pipeline.stats().completed) == (1, 1)


@pytest.mark.parametrize("given", [True, False])
def test_a_file_with_defaults_is_a_stage_whether_or_not_the_stage_gives_them(package, given):
    """A model that is left whole may be the file as it is: an initializer of it may be an input, too."""
    inputs = ["x", "gain"] if given else ["x"]
    tensors = {name: ("float32", [2]) for name in ("x", "gain", "y")}
    scale = helper.make_node("Mul", ["x", "gain"], ["y"])
    made = package(tensors, [("cpu", [scale], ["x", "gain"], ["y"])], inputs=inputs, outputs=["y"])
    path = made.folder / "stages/00.onnx"
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([3, 3], np.float32), "gain"))
    path.write_bytes(model.SerializeToString())
    made.document["stages"][0]["inputs"] = inputs
    made.write()
    feeds = {"x": np.ones(2, np.float32)} | ({"gain": np.full(2, 5, np.float32)} if given else {})
    with Pipeline.load(made.folder) as pipeline:
        assert pipeline.run(feeds)["y"].tolist() == ([5, 5] if given else [3, 3])
