"""Requests that a server runs at the same time, up to eight in a stage: each answer is that of the request alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.e2e.harness import ask, assert_equal, onnx_file, whole_model

FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(0)


def tower(first: str, last: str) -> tuple[list, dict[str, np.ndarray]]:
    """Return matrix products that belong on a GPU, from one value to another."""
    nodes, weights = [], {}
    for index in range(3):
        weights[f"w{index}"] = (RNG.normal(size=(256, 256)) * 0.08).astype(np.float32)
        source, target = first if index == 0 else f"t{index}", last if index == 2 else f"t{index + 1}"
        nodes.append(helper.make_node("MatMul", [source, f"w{index}"], [f"m{index}"], name=f"mm{index}"))
        nodes.append(helper.make_node("Relu", [f"m{index}"], [target], name=f"relu{index}"))
    return nodes, weights


def peak(path: Path) -> tuple[Path, list[str]]:
    """Each request is divided by the largest magnitude of whatever it runs with."""
    nodes, weights = tower("scaled", "y")
    head = [
        helper.make_node("Abs", ["x"], ["abs"], name="abs"),
        helper.make_node("ReduceMax", ["abs"], ["peak"], name="peak", keepdims=0),
        helper.make_node("Div", ["x", "peak"], ["scaled"], name="scale"),
    ]
    onnx_file(path, [*head, *nodes], [("x", FLOAT, ["n", 256])], [("y", FLOAT, ["n", 256])], weights=weights)
    return path, [node.name for node in (*head, *nodes)]


def dynamic(path: Path) -> tuple[Path, list[str]]:
    """One scale for the activations of all requests."""
    nodes, weights = tower("x", "hidden")
    tail = [
        helper.make_node("DynamicQuantizeLinear", ["hidden"], ["q", "s", "z"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], name="back"),
    ]
    onnx_file(path, [*nodes, *tail], [("x", FLOAT, ["n", 256])], [("y", FLOAT, ["n", 256])], weights=weights)
    return path, [node.name for node in nodes]


def places(path: Path) -> tuple[Path, list[str]]:
    """A flatten as one exporter writes it: places of row r begin at 256 r, computed outside the stage that reads them."""
    nodes, weights = tower("x", "hidden")
    weights |= {"zero": np.int64(0), "one": np.int64(1), "width": np.int64(256), "minus": np.array([-1]), "last": np.array([1])}
    weights |= {"columns": np.arange(256)[None], "first": np.array([0])}
    index = [
        helper.make_node("Shape", ["x"], ["sizes"], name="sizes"),
        helper.make_node("Gather", ["sizes", "zero"], ["rows"], name="rows"),
        helper.make_node("Range", ["zero", "rows", "one"], ["numbers"], name="numbers"),
        helper.make_node("Mul", ["numbers", "width"], ["starts"], name="starts"),
        helper.make_node("Unsqueeze", ["starts", "last"], ["column"], name="column"),
        helper.make_node("Add", ["column", "columns"], ["index"], name="index"),
    ]
    tail = [
        helper.make_node("Reshape", ["hidden", "minus"], ["flat"], name="flat"),
        helper.make_node("Gather", ["flat", "index"], ["features"], name="features"),
        helper.make_node("Mul", ["features", "width_f"], ["big"], name="big"),
        helper.make_node("Softmax", ["big"], ["y"], name="softmax"),
    ]
    weights["width_f"] = np.float32(0.1)
    onnx_file(path, [*index, *nodes, *tail], [("x", FLOAT, ["n", 256])], [("y", FLOAT, ["n", 256])], weights=weights)
    return path, [node.name for node in (*nodes, *tail)]


@pytest.mark.parametrize("build", [peak, dynamic, places], ids=["peak", "dynamic quantisation", "another's places"])
def test_answers_do_not_depend_on_the_company(
    build: Callable[[Path], tuple[Path, list[str]]], tmp_path: Path, long_cutset, alone
) -> None:
    model, on_gpu = build(tmp_path / "model.onnx")
    pins = [word for name in on_gpu for word in ("--pin", f"{name}=gpu") if name not in {"abs", "peak", "scale"}]
    done = long_cutset.partition(model, tmp_path / "out", *pins)
    assert done.code == 0, done.err
    stages = done.json["stages"]
    assert any(stage["device"] == "gpu" for stage in stages)
    scales = (1.0, 30.0, 0.01, 5.0, 100.0, 1.0, 0.3, 2.0, 1.0, 50.0)
    requests = [{"x": (RNG.normal(size=(1, 256)) * scale).astype(np.float32)} for scale in scales]
    serving = tmp_path / "out" / "serving"
    batching = ("--max-batch", "8", "--max-delay-s", "0.02")
    with alone.served(serving, *batching) as (_, url), ThreadPoolExecutor(len(requests)) as threads:
        answers = list(threads.map(lambda request: ask(url, request), requests))
    for request, answer in zip(requests, answers, strict=True):
        assert_equal(answer, whole_model(model, request))
