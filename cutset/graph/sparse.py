"""Write sparse weights out as dense ones, as onnxruntime does when it opens a model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from cutset.errors import ModelError
from cutset.graph.external_data import take_inside

MOST_DENSE_BYTES = 2 << 30
"""Bytes of one sparse weight when dense; a file of a few bytes may name any size."""


def densify(model: onnx.ModelProto, path: Path) -> None:
    """Replace the sparse initializers and sparse constants of `model`, those of bodies included, by dense ones.

    Args:
        model: As read; changed in place.
        path: Where `model` was read from.

    Raises:
        ModelError: If a sparse tensor says where its elements are in a way that ONNX does not define, or is very large.
    """
    _densify_graph(model.graph, path)
    for function in model.functions:
        _densify_nodes(function.node, path)


def _densify_graph(graph: onnx.GraphProto, path: Path) -> None:
    for tensor in graph.sparse_initializer:
        graph.initializer.append(_dense(tensor, f"{path}, initializer `{tensor.values.name}`", path))
    del graph.sparse_initializer[:]
    _densify_nodes(graph.node, path)


def _densify_nodes(nodes: list[onnx.NodeProto], path: Path) -> None:
    for node in nodes:
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                _densify_graph(body, path)
            if node.op_type == "Constant" and attribute.name == "sparse_value":
                dense = _dense(attribute.sparse_tensor, f"{path}, node `{node.name}`", path)
                attribute.CopyFrom(onnx.helper.make_attribute("value", dense))


def _dense(tensor: onnx.SparseTensorProto, where: str, path: Path) -> onnx.TensorProto:
    name, sizes = tensor.values.name, tuple(tensor.dims)
    try:
        for part in (tensor.values, tensor.indices):
            take_inside(part, path, where)
        values, indices = numpy_helper.to_array(tensor.values), numpy_helper.to_array(tensor.indices)
        size_bytes = math.prod(sizes) * values.itemsize
        if min(sizes, default=0) > 0 and size_bytes > MOST_DENSE_BYTES:
            raise ModelError(
                f"a sparse weight takes {size_bytes / 2**30:.1f} GiB when dense",
                where=where,
                cause="onnxruntime has no sparse kernels and stores such a weight in full",
            )
        dense = np.zeros(sizes, values.dtype)
        if indices.ndim == 1:
            flat = indices
        else:
            if indices.shape[1:] != (len(sizes),):
                raise ValueError(f"its indices have the shape {list(indices.shape)}")
            flat = np.ravel_multi_index(tuple(indices.T), sizes) if len(indices) else np.zeros(0, np.int64)
        if len(flat) != values.size or (len(flat) and not 0 <= flat.min() <= flat.max() < dense.size):
            raise ValueError(f"{len(flat)} indices for {values.size} values and {dense.size} elements do not fit")
        dense.reshape(-1)[flat] = values.reshape(-1)
    except (ValueError, TypeError, IndexError, MemoryError) as error:
        raise ModelError("a sparse weight cannot be read", where=where, cause=str(error)[:300]) from error
    return numpy_helper.from_array(dense, name)
