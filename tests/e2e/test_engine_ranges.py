"""Sizes that an engine does not take, through the server: answered by the next backend, counted, and told beforehand.

The engine is a stand-in on a device made of host memory, with a range as the real library has one.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import requests
from onnx import TensorProto, helper

pytest.importorskip("grpc", reason="the extra `grpc` is not installed")

import tritonclient.grpc as triton

from cutset.cli.engines import range_lines
from cutset.codegen.runtime import Pipeline
from tests.e2e.harness import QUICK, onnx_file
from tests.e2e.test_runtime_grpc import running
from tests.unit.codegen.runtime.conftest import Package
from tests.unit.codegen.runtime.engine_pipeline import engine_package, engines_on_host_memory

SHAPES = [(1, 3), (9, 3), (8, 3), (2, 7), (0, 3)]
OUTSIDE = 3


@pytest.mark.parametrize(("cuda", "backend"), [(True, "onnxruntime-cuda"), (False, "onnxruntime-cpu")])
def test_every_size_is_answered_over_both_protocols(tmp_path, cuda, backend):
    folder = engine_package(partial(Package, tmp_path / "p"))
    with engines_on_host_memory(cuda=cuda), running(Pipeline.load(folder)) as (grpc, http):
        for shape in SHAPES:
            x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            entry = {"name": "x", "shape": list(shape), "datatype": "FP32", "data": x.ravel().tolist()}
            answer = requests.post(f"http://{http}/v2/models/m/infer", json={"inputs": [entry]}, timeout=30)
            assert answer.status_code == 200, answer.text
            found = {output["name"]: output for output in answer.json()["outputs"]}
            assert found["y"]["shape"] == list(shape)
            np.testing.assert_allclose(found["y"]["data"], (2 * x).ravel(), rtol=1e-6)
            given = triton.InferInput("x", list(shape), "FP32")
            given.set_data_from_numpy(x)
            with triton.InferenceServerClient(grpc) as client:
                np.testing.assert_array_equal(client.infer("m", [given]).as_numpy("y"), 2 * x)
        text = requests.get(f"http://{http}/metrics", timeout=30).text
        assert f'cutset_stage_fallbacks_total{{backend="{backend}",stage="0"}} {2.0 * OUTSIDE}' in text
        assert 'cutset_stage_failures_total{device="gpu",stage="0"} 0.0' in text
        stats = requests.get(f"http://{http}/v2/models/m/stats", timeout=30).json()["model_stats"][0]["pipeline"]
        assert stats["stages"][0]["fallbacks"] == {backend: 2 * OUTSIDE}


def test_what_the_engine_takes_is_in_the_metadata(tmp_path):
    folder = engine_package(partial(Package, tmp_path / "p"))
    expected = [{"stage": 0, "backend": "tensorrt", "inputs": {"x": [[1, 3], [2, 3], [8, 3]]}}]
    with engines_on_host_memory(cuda=True), running(Pipeline.load(folder)) as (grpc, http):
        described = requests.get(f"http://{http}/v2/models/m", timeout=30).json()
        assert described["parameters"]["engines"] == expected
        with triton.InferenceServerClient(grpc) as client:
            config = client.get_model_config("m").config
            assert json.loads(config.parameters["engines"].string_value) == expected
            assert list(client.get_model_metadata("m").inputs[0].shape) == [-1, -1]


def test_the_lines_of_the_command():
    none = [[], [], []]
    inputs = [
        {"name": "x", "shapes": [[1, 3], [2, 3], [8, 3]], "values": none},
        {"name": "s", "shapes": none, "values": none},
        {"name": "sizes", "shapes": [[2], [2], [2]], "values": [[1, 1], [4, 4], [8, 8]]},
    ]
    stages = [
        {"index": 0},
        {"index": 1, "engine": {"inputs": inputs}},
    ]
    assert range_lines(stages) == [
        "the engine of stage 1 takes `x` of 1x3 to 8x3, tuned for 2x3; else onnxruntime runs it",
        "the engine of stage 1 takes `s` of only scalar; else onnxruntime runs it",
    ]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--shape", "x=2x16"), "takes `x` of 1x16 to 8x16, tuned for 2x16"),
        (("--shape", "x=2x16:3x16:5x16"), "takes `x` of 2x16 to 5x16, tuned for 3x16"),
        (("--shape", "x=2x16:2x16:2x16"), "takes `x` of only 2x16"),
    ],
)
def test_ranges_by_default_and_from_the_command_line(cutset, tmp_path, words, line):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    weights = {"w": np.ones((16, 16), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], name="dense")]
    sides = ([("x", TensorProto.FLOAT, ["n", 16])], [("y", TensorProto.FLOAT, ["n", 16])])
    model = onnx_file(tmp_path / "dense.onnx", nodes, *sides, weights=weights)
    words = ("--target", "l4", "--pin", "dense=gpu", *words, *QUICK)
    done = cutset("partition", model, "-o", tmp_path / "out", *words)
    assert done.code == 0, done.err
    assert line in done.out
