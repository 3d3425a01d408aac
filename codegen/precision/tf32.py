"""What tf32 does to a part's numbers: its matrix products read float32 and use ten bits of the fraction.

No rewrite makes an engine compute in tf32, a switch of the builder does; here it is only emulated, to see the error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cutset.codegen.precision.floats import MATRIX_OPS
from cutset.graph.names import FreshNames
from cutset.graph.protos import copy_model

FRACTION_BITS = 10
_OPERANDS = {"LSTM": 3, "GRU": 3, "RNN": 3}
"""Inputs that are multiplied, by operator; of the others the first two. What recurrent ones carry along is not rounded."""


def emulated_tf32(model: onnx.ModelProto, dtypes: Mapping[str, str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Return a model that computes in float32 with the operands of its products rounded to tf32, and the products' names.

    Products of other types (float16, bfloat16, float64) are left as they are: tf32 is about float32 alone.

    Args:
        model: The part, of opset 7 or later.
        dtypes: Element type of each tensor by name.

    Source:
        Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18, 1971: the
        larger half of a split number. It is split as float64, so that no float32 overflows.
    """
    result = copy_model(model)
    nodes = list(result.graph.node)
    del result.graph.node[:]
    weights = {weight.name: weight for weight in result.graph.initializer}
    names = FreshNames.beside(model.graph)
    factor = names.make("tf32.factor")
    rounded: dict[str, str] = {}
    products = []
    for node in nodes:
        operands = [name for name in node.input[: _OPERANDS.get(node.op_type, 2)] if dtypes.get(name) == "float32"]
        if node.op_type in MATRIX_OPS and node.domain in {"", "ai.onnx"} and operands:
            products.append(node.name)
            for name in operands:
                if name not in rounded:
                    rounded[name] = names.make(f"{name}.tf32")
                    if name in weights:
                        array = round_tf32(numpy_helper.to_array(weights[name]))
                        result.graph.initializer.append(numpy_helper.from_array(array, rounded[name]))
                    else:
                        result.graph.node.extend(_rounding(name, rounded[name], factor, names))
            for index in range(_OPERANDS.get(node.op_type, 2)):
                node.input[index] = rounded.get(node.input[index], node.input[index])
        result.graph.node.append(node)
    if rounded.keys() - weights.keys():
        value = np.float64(2 ** (np.finfo(np.float64).nmant - FRACTION_BITS) + 1)
        result.graph.initializer.append(numpy_helper.from_array(np.asarray(value), factor))
    return result, tuple(products)


def round_tf32(array: np.ndarray) -> np.ndarray:
    """Return a float32 array with ten bits of the fraction, rounded half to even; infinities and NaN stay what they are.

    An array of another type is returned as it is.
    """
    if array.dtype != np.float32:
        return array
    cut = np.finfo(np.float32).nmant - FRACTION_BITS
    bits = array.view(np.uint32)
    rounded = ((bits + np.uint32((1 << cut - 1) - 1) + (bits >> cut & 1)) >> cut << cut).view(np.float32)
    return np.where(np.isfinite(array), rounded, array)


def _rounding(name: str, target: str, factor: str, names: FreshNames) -> list[onnx.NodeProto]:
    """Return the nodes that round a tensor into `target`: c = factor x, then c - (c - x)."""
    wide, scaled, rest, high = (names.make(f"{name}.tf32.{step}") for step in ("wide", "scaled", "rest", "high"))
    steps = [
        ("Cast", [name], wide), ("Mul", [wide, factor], scaled), ("Sub", [scaled, wide], rest), ("Sub", [scaled, rest], high),
        ("Cast", [high], target),
    ]  # fmt: skip
    made = [helper.make_node(op, reads, [written], name=names.make(f"{written}.made")) for op, reads, written in steps]
    for cast, element in ((made[0], TensorProto.DOUBLE), (made[-1], TensorProto.FLOAT)):
        cast.attribute.append(helper.make_attribute("to", element))
    return made
