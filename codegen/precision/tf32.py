"""What tf32 does to a part's numbers: its matrix products read float32 and use ten bits of the fraction.

No rewrite makes an engine compute in tf32, a switch of the builder does; here it is only emulated, to see the error.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.precision.floats import MATRIX_OPS

FRACTION_BITS = 10
_OPERANDS = {"LSTM": 3, "GRU": 3, "RNN": 3}
"""Inputs that are multiplied, by operator; of the others the first two. What recurrent ones carry along is not rounded."""


def emulated_tf32(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a model that computes in float32 with the operands of its products rounded to tf32, and the products' names.

    Args:
        model: The part, of opset 7 or later.

    Source:
        Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18, 1971: the
        larger half of a split number. It is split as float64, so that no float32 overflows.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    del result.graph.node[:]
    weights = {weight.name: weight for weight in result.graph.initializer}
    rounded: set[str] = set()
    products = []
    for node in nodes:
        if node.op_type in MATRIX_OPS and node.domain in {"", "ai.onnx"}:
            products.append(node.name)
            for index, name in enumerate(node.input[: _OPERANDS.get(node.op_type, 2)]):
                if name not in rounded and name in weights:
                    array = round_tf32(numpy_helper.to_array(weights[name]))
                    result.graph.initializer.append(numpy_helper.from_array(array, f"{name}.tf32"))
                elif name not in rounded:
                    result.graph.node.extend(_rounding(name))
                rounded.add(name)
                node.input[index] = f"{name}.tf32"
        result.graph.node.append(node)
    if rounded - weights.keys():
        factor = np.float64(2 ** (np.finfo(np.float64).nmant - FRACTION_BITS) + 1)
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(factor), _FACTOR))
    return result, tuple(products)


def round_tf32(array: np.ndarray) -> np.ndarray:
    """Return a float32 array with ten bits of the fraction, rounded half to even; infinities and NaN stay what they are."""
    cut = np.finfo(np.float32).nmant - FRACTION_BITS
    bits = array.view(np.uint32)
    rounded = ((bits + np.uint32((1 << cut - 1) - 1) + (bits >> cut & 1)) >> cut << cut).view(np.float32)
    return np.where(np.isfinite(array), rounded, array)


_FACTOR = "tf32.factor"


def _rounding(name: str) -> list[onnx.NodeProto]:
    """Return the nodes that round a tensor: c = factor x, then c - (c - x)."""
    wide, scaled, rest, high = (f"{name}.tf32.{step}" for step in ("wide", "scaled", "rest", "high"))
    steps = [
        ("Cast", [name], wide), ("Mul", [wide, _FACTOR], scaled), ("Sub", [scaled, wide], rest), ("Sub", [scaled, rest], high),
        ("Cast", [high], f"{name}.tf32"),
    ]  # fmt: skip
    made = [helper.make_node(op, reads, [written], name=f"{written}.made") for op, reads, written in steps]
    for cast, element in ((made[0], TensorProto.DOUBLE), (made[-1], TensorProto.FLOAT)):
        cast.attribute.append(helper.make_attribute("to", element))
    return made
