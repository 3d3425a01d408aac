"""Models whose weights do not fit into one message: protobuf ends at 2 GiB, also where it copies, measures or converts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

MOST_INSIDE_BYTES = 1 << 30
"""Models with more weights than this keep them in a file beside them."""

SMALL_BYTES = 1024
"""Weights up to this stay in the model, where shape inference and conversion read them as shapes, axes and the like."""


def fits_inside(model: onnx.ModelProto) -> bool:
    """Return whether the weights of a model may lie in its own file."""
    return sum(_size(weight) for weight in model.graph.initializer) <= MOST_INSIDE_BYTES


def shell(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model without its weights."""
    found = onnx.ModelProto()
    _copy_fields(model, found, without="graph")
    _copy_fields(model.graph, found.graph, without="initializer")
    return found


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model with its weights, however many."""
    found = shell(model)
    found.graph.initializer.extend(model.graph.initializer)
    return found


def without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of the same types and shapes: large weights are inputs."""
    found = shell(model)
    given = {value.name for value in model.graph.input}
    for weight in model.graph.initializer:
        if _size(weight) <= SMALL_BYTES:
            found.graph.initializer.append(weight)
        elif weight.name not in given:
            found.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, list(weight.dims)))
    return found


def with_large_weights(model: onnx.ModelProto, weights: Iterable[TensorProto]) -> onnx.ModelProto:
    """Return a model that was made of `without_large_weights` with the weights again; the model is changed."""
    large = {weight.name: weight for weight in weights if _size(weight) > SMALL_BYTES}
    inputs = [value for value in model.graph.input if value.name not in large]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.graph.initializer.extend(large.values())
    return model


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model to a file, with the weights in ``<path>.data`` where one message cannot hold them."""
    data = path.with_name(f"{path.name}.data")
    if fits_inside(model):
        path.write_bytes(model.SerializeToString())
        data.unlink(missing_ok=True)
        return
    light = shell(model)
    with data.open("wb") as file:
        for weight in model.graph.initializer:
            if weight.data_type == TensorProto.STRING or _size(weight) <= SMALL_BYTES:
                light.graph.initializer.append(weight)
            else:
                raw = weight.raw_data or numpy_helper.from_array(numpy_helper.to_array(weight)).raw_data
                light.graph.initializer.append(_outside(weight, data.name, file.tell(), len(raw)))
                file.write(raw)
    path.write_bytes(light.SerializeToString())


def _outside(weight: TensorProto, location: str, offset: int, length: int) -> TensorProto:
    """Return a weight whose elements are in a file."""
    tensor = TensorProto(name=weight.name, data_type=weight.data_type, dims=weight.dims, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _size(weight: TensorProto) -> int:
    """Return the bytes of a weight's elements; of texts, what the message holds of them."""
    if weight.data_type == TensorProto.STRING:
        return sum(map(len, weight.string_data))
    if weight.raw_data:
        return len(weight.raw_data)
    itemsize: int = helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
    return int(math.prod(weight.dims)) * itemsize


def _copy_fields(source: Message, target: Message, *, without: str) -> None:
    for field, value in source.ListFields():
        if field.name == without:
            continue
        if isinstance(value, Message):
            getattr(target, field.name).CopyFrom(value)
        elif isinstance(value, (int, float, str, bytes)):
            setattr(target, field.name, value)
        else:
            getattr(target, field.name).extend(value)
