"""The package that the soaks load: three stages, of which the middle one runs in processes of its own and may fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

NAME = "soak"
POISON = -2.0
"""An input of the right type and shape on which the stage of `poisonable` ends its process."""
_LEAST = -(2**31)


def write_package(folder: Path, middle: str | onnx.ModelProto) -> Path:
    """Write a package of three stages, ONNX, the given one in processes and ONNX, that adds 1 before and takes off 3 after.

    Args:
        folder: Where; made here.
        middle: What makes ``c`` out of ``b``: text of a Python stage, or a model, whose requests may then run as one.

    Returns:
        The folder.
    """
    (folder / "stages").mkdir(parents=True)
    for index, (operator, source, target, number) in {0: ("Add", "a", "b", 1.0), 2: ("Sub", "c", "d", 3.0)}.items():
        nodes = [constant("k", TensorProto.FLOAT, number), helper.make_node(operator, [source, "k"], [target])]
        onnx.save(model(nodes, source, target), folder / f"stages/{index}.onnx")
    python = isinstance(middle, str)
    if isinstance(middle, str):
        (folder / "stages/1.py").write_text(middle, "utf-8")
    else:
        onnx.save(middle, folder / "stages/1.onnx")
    tensors = [{"name": name, "dtype": "float32", "shape": ["n", "m"]} for name in ("a", "d")]
    stages = [
        {"index": index, "device": "cpu", "backend": backend, "model": f"stages/{index}{kind}", "inputs": [source],
         "outputs": [target], "service_s": 1e-4, "batching": {"proven": kind == ".onnx"}, "execution": execution}
        for index, (backend, kind, source, target, execution) in enumerate((
            ("onnxruntime-cpu", ".onnx", "a", "b", "thread"),
            ("python" if python else "onnxruntime-cpu", ".py" if python else ".onnx", "b", "c", "process"),
            ("onnxruntime-cpu", ".onnx", "c", "d", "thread"),
        ))
    ]  # fmt: skip
    plan = {"schema": "cutset.plan/1", "name": NAME, "decision": "split", "cpu_workers": 2, "intra_op_threads": 1,
            "tokens": 8, "queue_limit": 32, "custom_ops": [], "inputs": tensors[:1], "outputs": tensors[1:],
            "stages": stages, "max_batch": 4}  # fmt: skip
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder


def poisonable() -> onnx.ModelProto:
    """Return a stage that gives ``2 * b + 1`` for b in [1, 2), and on which ``POISON + 1`` raises SIGFPE in the process.

    The least 32-bit integer divided by -1 has no answer, and x86 has no way to say so but the signal; onnxruntime looks for
    a divisor of zero alone. What such an instruction does cannot be handled in the process, so the poison stays one.
    """
    nodes = [
        constant("least", TensorProto.INT32, _LEAST),
        helper.make_node("Cast", ["b"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Div", ["least", "whole"], ["quotient"]),
        helper.make_node("Div", ["quotient", "least"], ["one"]),
        helper.make_node("Cast", ["one"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["b", "b"], ["double"]),
        helper.make_node("Add", ["double", "real"], ["c"]),
    ]
    return model(nodes, "b", "c")


def draw_input(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Return a good input of `poisonable`'s package; its numbers and its answers are exact in float32, and short as JSON."""
    return random.integers(0, 256, (rows, columns)).astype(np.float32) / np.float32(256)


def right_answer(array: np.ndarray) -> np.ndarray:
    """Return what `poisonable`'s package must answer to a good input."""
    return array * np.float32(2)  # 2 * (a + 1) + 1 - 3


def constant(name: str, kind: int, number: float) -> NodeProto:
    """Return a node that gives one number."""
    return helper.make_node("Constant", [], [name], value=helper.make_tensor(name, kind, [], [number]))


def model(nodes: Sequence[NodeProto], source: str, target: str) -> onnx.ModelProto:
    """Return a model of one input and one output of any number of rows and columns."""
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "m"])] for name in (source, target)]
    graph = helper.make_graph(list(nodes), "g", *sides)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
