"""Inputs with a default value: graph inputs that are initializers at once, which a caller may give or leave out.

Exporters may list every weight as an input in this way (``keep_initializers_as_inputs``), and before IR version 4 had to.
Weights are frozen: an input that is a weight keeps onnxruntime and TensorRT from preparing the weight.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from cutset.graph.external_data import take_inside

FIRST_WITH_DEFAULTS = 4
"""IR version since which an initializer need not be an input."""

LEAST_WEIGHT_ELEMENTS = 64
"""A matrix or kernel of fewer elements is not taken for a weight."""

_WEIGHT_TYPES = frozenset({
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT8, TensorProto.UINT8,
})  # fmt: skip
_SERVED_TYPES = _WEIGHT_TYPES | {
    TensorProto.BOOL, TensorProto.STRING, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT16,
    TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip


def take_defaults(model: onnx.ModelProto, path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Make every graph input either an input or a weight.

    Where all weights are listed as inputs, an exporter did so, and every listed initializer is frozen: a weight is a matrix
    or kernel with `LEAST_WEIGHT_ELEMENTS` elements. Else somebody chose these inputs: they stay inputs, with a default.

    Args:
        model: As read; changed in place.
        path: Where `model` was read from.

    Returns:
        The default of each input that has one, and the names of the inputs that were frozen although the file's IR version
        lets a caller give them.

    Raises:
        ModelError: If the data of a default is missing.
    """
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    listed = [value.name for value in graph.input if value.name in tensors]
    weights = {name for name, tensor in tensors.items() if _is_weight(tensor)}
    if model.ir_version < FIRST_WITH_DEFAULTS or (weights and weights <= set(listed)):
        optional: set[str] = set()
    else:
        optional = {name for name in listed if tensors[name].data_type in _SERVED_TYPES}
    defaults = {}
    for name in listed:
        if name in optional:
            take_inside(tensors[name], path, f"{path}, initializer `{name}`")
            defaults[name] = numpy_helper.to_array(tensors[name])
    _keep(graph.initializer, [tensor for tensor in graph.initializer if tensor.name not in optional])
    _keep(graph.input, [value for value in graph.input if value.name not in tensors or value.name in optional])
    frozen = tuple(name for name in listed if name not in optional)
    return defaults, () if model.ir_version < FIRST_WITH_DEFAULTS else frozen


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) > 1 and math.prod(tensor.dims) >= LEAST_WEIGHT_ELEMENTS and tensor.data_type in _WEIGHT_TYPES


def _keep(field: Any, kept: list[Any]) -> None:
    """Leave `kept` in a repeated field of a message."""
    if len(kept) < len(field):
        copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
        del field[:]
        field.extend(copies)
