"""Give a model that was made for one sample a first dimension for any number of them.

Whether its rows then stay apart is not asked here: `codegen.batchability` has two judges for that.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from cutset.graph.names import FreshNames

AXIS = "rows"


def with_free_rows(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """Return a model of one sample that takes any number, and the name of that dimension.

    The first dimension of every input and output is made free. A reshape to ``[1, ...]`` takes the first dimension of what
    it reshapes. Shapes that were inferred are dropped.

    Args:
        model: The first dimension of its inputs and outputs is one.
    """
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    graph = freed.graph
    axis = _unused(graph)
    names = FreshNames.beside(graph)
    freed_shapes: dict[str, str] = {}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made = {node.output[0]: node.attribute[0].t for node in graph.node if _is_tensor_constant(node)}
    for node in graph.node:
        shape = weights.get(node.input[1]) or made.get(node.input[1]) if _may_reshape_rows(node) else None
        if shape is None or shape.data_type != TensorProto.INT64:
            continue
        sizes = numpy_helper.to_array(shape)
        if sizes.size < 2 or sizes[0] != 1:
            continue
        name = freed_shapes.get(node.input[1])
        if name is None:
            name = freed_shapes[node.input[1]] = names.make(f"{node.input[1]}.{axis}")
            graph.initializer.append(numpy_helper.from_array(np.concatenate([[0], sizes[1:]]).astype(np.int64), name))
        node.input[1] = name
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and len(dims):
            dims[0].dim_param = axis
    del graph.value_info[:]
    return freed, axis


def with_fixed_rows(model: onnx.ModelProto, axis: str, rows: int) -> onnx.ModelProto:
    """Return a model in which a free dimension of its inputs and outputs is a number."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == axis:
                dim.dim_value = rows
    return fixed


def _may_reshape_rows(node: onnx.NodeProto) -> bool:
    """Return whether zero in the shape of a node would mean the size that is there."""
    zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
    return node.op_type == "Reshape" and node.domain in {"", "ai.onnx"} and len(node.input) > 1 and not zero


def _is_tensor_constant(node: onnx.NodeProto) -> bool:
    return node.op_type == "Constant" and len(node.attribute) == 1 and node.attribute[0].name == "value"


def _unused(graph: onnx.GraphProto) -> str:
    taken = {dim.dim_param for value in _typed(graph) for dim in value.type.tensor_type.shape.dim}
    name = AXIS
    while name in taken:
        name += "_"
    return name


def _typed(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info
