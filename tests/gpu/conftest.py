"""Tests that need a GPU; each says which backend, and is skipped with the reason why it cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cutset.devices import Availability
from cutset.profilers.availability import availability


@pytest.fixture(scope="session")
def states() -> Mapping[str, Availability]:
    """Return the state of every backend."""
    return {found.name: found for found in availability()}


@pytest.fixture
def needs(states: Mapping[str, Availability]) -> Callable[[str], None]:
    """Return a function that skips the test where a backend is not ready, with its reason."""

    def check(name: str) -> None:
        if not states[name].ready:
            pytest.skip(f"{name}: {states[name].state}: {states[name].detail}")

    return check


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a convolutional network with work enough for a GPU, and one operator in it that has no CUDA kernel."""
    rng = np.random.default_rng(0)
    nodes, weights, last = [], [], "x"
    for index, channels in enumerate([3, 64, 64, 64]):
        weight = rng.normal(size=(64, channels, 3, 3)).astype(np.float32) / 24
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"c{index}"], name=f"conv{index}", pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], name=f"relu{index}"))
        last = f"r{index}"
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
        helper.make_node("Unique", ["y"], ["u"], name="unique"),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 128, 128])
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64]),
        helper.make_tensor_value_info("u", TensorProto.FLOAT, ["count"]),
    ]
    graph = helper.make_graph(nodes, "g", [image], outputs, weights)
    path = tmp_path_factory.mktemp("gpu") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
