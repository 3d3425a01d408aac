"""Weights that lie in files beside the model: each is found and checked once, before anything reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

from cutset.beside import find_beside
from cutset.errors import ModelError
from cutset.graph.model import iter_bodies


def settle_weights(model: ir.Model, path: Path) -> list[Path]:
    """Check every stored tensor, make those in other files read the checked file, and return these files in name order.

    Data must lie in the model's folder. Where the model itself is a link, as in a hub's cache, the folder of the file behind
    the link counts as well; a link of the weights alone that leads elsewhere is refused.

    Args:
        model: The model, as read; changed in place.
        path: Where it was read from.

    Raises:
        ModelError: If a tensor has no type, or its data is missing, too short or elsewhere.
    """
    files: dict[Path, None] = {}
    for owner, holder, tensor in _tensors(model.graph):
        where = f"{path}, {owner}"
        if tensor.dtype == ir.DataType.UNDEFINED:
            raise ModelError("a weight has no element type", where=where)
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        file = find_data(path, os.fspath(tensor.location), where)
        if file.stat().st_size < (tensor.offset or 0) + (tensor.length or 0):
            raise ModelError(f"external data file `{tensor.location}` is too short", where=where, hint="copy it again")
        files[file] = None
        _point_at(holder, tensor, file)
    return sorted(files)


def find_data(path: Path, location: str, where: str) -> Path:
    """Return the file that a model at `path` calls `location`, all links followed.

    Raises:
        ModelError: If the file is missing or lies elsewhere than beside the model.
    """
    try:
        (path.parent / location).resolve()
    except (ValueError, OSError, RuntimeError) as error:  # a zero byte, a name too long, links in a circle
        raise ModelError("external data has a name that no file can have", where=where, cause=str(error)[:200]) from error
    file = find_beside(path, location)
    if file is None:
        raise ModelError(
            f"external data `{location}` lies outside the model's folder",
            where=where,
            hint="weights must lie beside the model; one that points out of its folder may be an attack",
        )
    if not _is_file(file):
        raise ModelError(
            f"external data file `{location}` is missing",
            where=where,
            hint=f"copy it into {path.parent.resolve()} beside the model",
        )
    return file


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def read_whole(path: Path) -> onnx.ModelProto:
    """Return the model of a file that `load` has accepted, with the weights that lie beside it inside."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in proto_tensors(model.graph):
        take_inside(tensor, path, f"{path}, `{tensor.name}`")
    return model


def take_inside(tensor: onnx.TensorProto, path: Path, where: str) -> None:
    """Read the data of a tensor that lies beside the model at `path` into the tensor.

    Raises:
        ModelError: As `find_data`.
    """
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    file = find_data(path, entries.get("location", ""), where)
    with file.open("rb") as data:
        data.seek(int(entries.get("offset", 0)))
        tensor.raw_data = data.read(int(entries["length"]) if "length" in entries else -1)
    tensor.ClearField("data_location")
    del tensor.external_data[:]


def proto_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every stored tensor of a graph and its bodies: weights, sparse ones in their two parts, and attributes."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from proto_tensors(body)


def _tensors(graph: ir.Graph) -> Iterator[tuple[str, ir.Value | tuple[ir.Node, str], ir.TensorProtocol]]:
    """Yield every stored tensor with who holds it, in words and as an object: initializers and attributes, also of bodies."""
    for value in graph.initializers.values():
        if value.const_value is not None:
            yield f"initializer `{value.name}`", value, value.const_value
    for node in graph:
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                yield f"node `{node.name}`, attribute `{name}`", (node, name), attribute.as_tensor()
        for body in iter_bodies(node):
            yield from _tensors(body)


def _point_at(holder: ir.Value | tuple[ir.Node, str], tensor: ir.ExternalTensor, file: Path) -> None:
    """Make the holder of a tensor read `file`, an initializer when it is needed and an attribute at once.

    Parts are written to other folders, and the tensors of attributes are small. Without a base folder onnx_ir checks the
    place of the file no more, which was checked here, and takes files with several hard links.
    """
    found = ir.ExternalTensor(
        str(file),
        tensor.offset,
        tensor.length,
        tensor.dtype,
        shape=tensor.shape,
        name=tensor.name,
        doc_string=tensor.doc_string,
    )
    if isinstance(holder, ir.Value):
        holder.const_value = found
        return
    node, name = holder
    (inside,) = ir.external_data.convert_tensors_from_external([found])
    node.attributes[name] = ir.AttrTensor(name, inside)
