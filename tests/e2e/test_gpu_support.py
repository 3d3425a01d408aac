"""What the GPU takes, as a user meets it: custom operators, onnxruntime's own operators, and what holds a model back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.e2e.harness import QUICK, onnx_file

FLOAT, UINT8 = TensorProto.FLOAT, TensorProto.UINT8
PIPELINE = """
inputs:
  x: {type: float32, shape: [b, 8, 16]}
stages:
  a: {model: net.onnx, inputs: {x: x}}
  s:
    python: glue:Sign
    inputs:
      values: {from: a.y, type: float32}
    outputs:
      out: {type: float32, shape: [b, 8, 16]}
outputs:
  y: s.out
"""


@pytest.fixture
def named_as_an_operator(tmp_path):
    """A cascade whose Python function is called as an operator of ONNX is, and computes something else."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], name="mm"), helper.make_node("Relu", ["h"], ["y"], name="relu")]
    value = ["b", 8, 16]
    weights = {"w": np.eye(16, dtype=np.float32)}
    onnx_file(tmp_path / "net.onnx", nodes, [("x", FLOAT, value)], [("y", FLOAT, value)], weights=weights)
    (tmp_path / "glue.py").write_text(
        "import numpy as np\n\n\ndef Sign(values):\n    return (values > 0.5).astype(np.float32)\n"
    )
    file = tmp_path / "PIPELINE.yaml"
    file.write_text(PIPELINE)
    np.savez(tmp_path / "PIPELINE.npz", x=np.random.default_rng(0).random((1, 8, 16), dtype=np.float32))
    return file


@pytest.mark.parametrize("backend", ["auto", "onnxruntime-cuda"])
def test_a_python_function_is_no_operator_of_its_name(cutset, named_as_an_operator, backend):
    words = ("--plan-only", "--json", "--target", "l4", *QUICK, "--gpu-backend", backend)
    plan = cutset("partition", named_as_an_operator, *words, "--pin", "a/mm=gpu").json
    assert plan["placement"] == {"a/mm": "gpu", "a/relu": plan["placement"]["a/relu"], "s/Sign": "cpu"}
    assert "Python function" in plan["reasons"]["s/Sign"]
    pinned = cutset("partition", named_as_an_operator, *words, "--pin", "s/Sign=gpu")
    assert pinned.code == 1
    assert "Python function" in pinned.error["cause"]


def test_operators_of_onnxruntime_and_uint8_run_in_its_cuda_provider(cutset, tmp_path):
    width = 16
    weights = {"size": np.array([1, 8, width]), "g": np.ones(width, np.float32), "w": np.eye(width, dtype=np.float32)}
    nodes = [
        helper.make_node("Resize", ["image", "", "", "size"], ["larger"], name="resize", mode="nearest"),
        helper.make_node("Cast", ["larger"], ["x"], name="cast", to=FLOAT),
        helper.make_node("MultiHeadAttention", ["x"] * 3, ["a"], name="mha", domain="com.microsoft", num_heads=2),
        helper.make_node("SkipLayerNormalization", ["a", "x", "g"], ["n"], name="norm", domain="com.microsoft"),
        helper.make_node("MatMul", ["n", "w"], ["y"], name="mm"),
    ]
    model = onnx_file(
        tmp_path / "m.onnx", nodes, [("image", UINT8, [1, 4, 8])], [("y", FLOAT, [1, 8, width])], weights=weights,
        opsets={"": 20, "com.microsoft": 1},
    )  # fmt: skip
    pins = [word for name in ("resize", "cast", "mha", "norm", "mm") for word in ("--pin", f"{name}=gpu")]
    out = tmp_path / "out"
    done = cutset(
        "partition", model, "-o", out, "--target", "l4", "--gpu-backend", "onnxruntime-cuda", *pins, *QUICK, "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    (stage,) = done.json["stages"]
    assert (stage["device"], stage["backend"]) == ("gpu", "onnxruntime-cuda")
    assert done.json["verification"]["passed"]
    assert "list of CUDA kernels" in done.json["engines"]["answered_by"]
    inspected = cutset("inspect", model, "--target", "l4", "--gpu-backend", "onnxruntime-cuda", "--json", "--no-costs").json
    assert all(node["gpu"] for node in inspected["nodes"])


@pytest.fixture(scope="module")
def integers(tmp_path_factory):
    """A model of 8-bit operators that neither TensorRT nor the CUDA provider computes."""
    rng, width = np.random.default_rng(0), 128
    weights = {"s": np.float32(0.02), "z": np.uint8(117), "w": rng.integers(0, 255, (width, width)).astype(np.uint8)}
    quantised = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q0"], name="quantise")]
    for index in range(3):
        read = [f"q{index}", "s", "z", "w", "s", "z", "s", "z"]
        quantised.append(helper.make_node("QLinearMatMul", read, [f"q{index + 1}"], name=f"product{index}"))
    quantised.append(helper.make_node("DequantizeLinear", ["q3", "s", "z"], ["y"], name="dequantise"))
    value = [1, 256, width]
    path = tmp_path_factory.mktemp("integers") / "m.onnx"
    return onnx_file(path, quantised, [("x", FLOAT, value)], [("y", FLOAT, value)], weights=weights)


def test_what_keeps_an_8_bit_model_off_the_gpu_is_told_with_a_way_out(cutset, integers, tmp_path):
    out = tmp_path / "out"
    done = cutset("partition", integers, "-o", out, "--target", "l4", *QUICK)
    assert done.code == 0, done.err
    assert "of the CPU's time off the GPU" in done.out
    assert "integer operators of 8-bit models in 3 nodes" in " ".join(done.out.split())
    held = json.loads((out / "plan.json").read_text())["held_back"]
    first = held["obstacles"][0]
    assert (first["what"], first["nodes"], first["first"]) == (
        "integer operators of 8-bit models", 3, ["product0", "product1", "product2"],
    )  # fmt: skip
    assert "QuantFormat.QDQ" in first["way_out"]
    assert first["way_out"] in (out / "report.html").read_text()
    explained = cutset("explain", out)
    assert "of the CPU's time off the GPU" in explained.out
    assert cutset("explain", out, "--json").json["held_back"] == held
