"""Cut a part out of a model, bounded by named values, and write it as an ONNX file of its own.

Symbolic dimensions stay symbolic: freezing them changes what onnxruntime fuses (21 % slower on a BERT). So do the shapes
that the file declares for values between nodes, without which onnxruntime misses fusions. The walk itself
is `onnx_ir.convenience.extract`, which follows captures of If/Loop bodies and refuses an unbounded cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from cutset.errors import ModelError
from cutset.graph.carriers import carry
from cutset.graph.model import ModelGraph
from cutset.graph.names import FreshNames
from cutset.graph.types import TensorSpec

EXTERNAL_THRESHOLD_BYTES = 1 << 28
"""Parts with more weights than this keep them in a file beside the model (protobuf ends at 2 GiB)."""

EXTERNAL_MIN_BYTES = 1024
"""Smaller weights stay in the model, where onnxruntime's shape inference sees them."""

_INFERRED = "pkg.onnx_shape_inference.sym_data"
"""Where symbolic shape inference notes the elements of a shape, which no part needs."""


def extract(graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str], *, name: str) -> onnx.ModelProto:
    """Return the part of `graph` that computes `outputs` from `inputs` and weights, with its weights inside.

    Args:
        graph: The whole model.
        inputs: Values that become graph inputs, in this order.
        outputs: Values that become graph outputs, in this order.
        name: Name of the new graph.

    Raises:
        ModelError: If `outputs` need a value that is not among `inputs`.
    """
    part = _extract_ir(graph, inputs, outputs, name=name)
    _load(_weights(part))
    return _to_proto(part, graph.opaque_types)


def write_part(
    graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str], path: Path, *, external: bool = False
) -> list[Path]:
    """Write the part that `extract` returns to `path` and return the files written.

    Args:
        graph: The whole model.
        inputs: Values that become graph inputs.
        outputs: Values that become graph outputs.
        path: The ``.onnx`` file; weights go to ``<path>.data`` when `external`, or when they exceed one GiB.
        external: Whether to keep weights beside the model, so that sessions can map them.
    """
    return _write(_extract_ir(graph, inputs, outputs, name=path.stem), path, graph.opaque_types, external=external)


def write_anonymous(
    graph: ModelGraph, path: Path, *, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None
) -> dict[str, str]:
    """Write the model, weights beside it and names replaced, and return the original name of each value.

    Nodes are called ``n<index>`` after their place in ``graph.nodes`` (see `name_plainly`), those of bodies ``b<index>``,
    values ``v<index>``, those of bodies ``w<index>``: onnxruntime does not escape names in its profile, and derives the
    names of fused kernels from them.

    Args:
        graph: The model.
        path: The ``.onnx`` file.
        inputs: Values that become graph inputs, None for those of the model.
        outputs: Values that become graph outputs, None for those of the model.
    """
    inputs = [spec.name for spec in graph.inputs] if inputs is None else inputs
    outputs = [spec.name for spec in graph.outputs] if outputs is None else outputs
    part = _extract_ir(graph, inputs, outputs, name="anonymous")
    name_plainly(graph, part.graph)
    main, *bodies = part.graphs()
    for index, node in enumerate(node for body in bodies for node in body):
        node.name = f"b{index}"
    values = _named_values(main)
    originals = {f"v{index}": str(value.name) for index, value in enumerate(values)}
    _rename([*values, *(value for body in bodies for value in _named_values(body))], [*originals])
    opaque = {name: graph.opaque_types[original] for name, original in originals.items() if original in graph.opaque_types}
    _write(part, path, opaque, external=True)
    return originals


def name_plainly(graph: ModelGraph, nodes: Iterable[ir.Node | onnx.NodeProto]) -> None:
    """Call the nodes of a part ``n<index>`` after their place in ``graph.nodes``, and casts that cutting added ``c<index>``."""
    for number, node in enumerate(nodes):
        index = graph.position.get(str(node.name))
        node.name = f"c{number}" if index is None else f"n{index}"


def _named_values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    return [value for value in dict.fromkeys(values) if value.name]


def _rename(values: Sequence[ir.Value], names: Sequence[str]) -> None:
    """Give `values` the names, and ``w<index>`` when those end; through names that nothing has, so that none is ever twice."""
    names = [*names, *(f"w{index}" for index in range(len(values) - len(names)))]
    fresh = FreshNames([*names, *(str(value.name) for value in values)])
    for value in values:
        value.name = fresh.make("renamed")
    for value, name in zip(values, names, strict=True):
        value.name = name


def _write(part: ir.Model, path: Path, opaque: Mapping[str, bytes], *, external: bool) -> list[Path]:
    weights = _weights(part)
    external = external or sum(_nbytes(value) for value in weights) > EXTERNAL_THRESHOLD_BYTES
    outside = [value for value in weights if external and _nbytes(value) >= EXTERNAL_MIN_BYTES]
    files = [path]
    if outside:
        data = path.with_name(path.name + ".data")
        tensors = [value.const_value for value in outside if value.const_value is not None]
        moved = ir.external_data.convert_tensors_to_external(tensors, path.parent, data.name)
        for value, tensor in zip(outside, moved, strict=True):
            value.const_value = tensor
        files.append(data)
    kept = set(outside)
    _load([value for value in weights if value not in kept])
    path.write_bytes(_to_proto(part, opaque).SerializeToString())
    return files


def _weights(part: ir.Model) -> list[ir.Value]:
    return [v for graph in part.graphs() for v in graph.initializers.values() if v.const_value is not None]


def _nbytes(value: ir.Value) -> int:
    """Return the bytes of a weight that may lie outside the model; ONNX keeps strings inside."""
    tensor = value.const_value
    return 0 if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.nbytes


def _load(weights: Sequence[ir.Value]) -> None:
    """Take weights that lie in the whole model's external data into memory."""
    for value in weights:
        if isinstance(value.const_value, ir.ExternalTensor):
            (value.const_value,) = ir.external_data.convert_tensors_from_external([value.const_value])


def _extract_ir(graph: ModelGraph, inputs: Sequence[str], outputs: Sequence[str], *, name: str) -> ir.Model:
    try:
        part = ir.convenience.extract(graph.source.graph, inputs=list(inputs), outputs=list(outputs))
    except ValueError as error:
        raise ModelError(f"cannot cut `{name}` out of the model", where=f"{graph.path}", cause=str(error)[:300]) from error
    part.name = name
    _order_weights(part, graph.source.graph)
    boundary = {*part.inputs, *part.outputs}
    for value in boundary:
        _set_type(value, graph.values[str(value.name)], graph.measured.get(str(value.name)))
    for node in part:
        for value in node.outputs:
            value.metadata_props.pop(_INFERRED, None)
            if value not in boundary:
                _declare(value, graph)
    carry(part, {spec.name for spec in (*graph.inputs, *graph.outputs)}, taken=[*graph.by_name, *graph.values])
    model = ir.Model(part, ir_version=graph.source.ir_version, producer_name="cutset")
    model.graph.opset_imports.update(graph.source.graph.opset_imports)
    model.metadata_props.update(graph.metadata)
    return model


def _declare(value: ir.Value, graph: ModelGraph) -> None:
    """Leave a value between nodes the type and shape that the file declares: what is inferred may be wrong at other sizes."""
    declared = graph.declared.get(str(value.name))
    value.type = None if declared is None else declared.type
    value.shape = None if declared is None else declared.shape
    _relax(value, graph.measured.get(str(value.name)))


def _order_weights(part: ir.Graph, whole: ir.Graph) -> None:
    """Put weights in the order of the whole model: the walk leaves them in that of a set, another one in every process."""
    weights = dict(part.initializers)
    part.initializers.clear()
    for name in whole.initializers:
        if name in weights:
            part.initializers.add(weights[name])


def _set_type(value: ir.Value, spec: TensorSpec, measured: tuple[int, ...] | None) -> None:
    if value.type is None and spec.is_tensor and spec.dtype != "undefined":
        value.type = ir.TensorType(data_type(spec.dtype))
    _relax(value, measured)


def _relax(value: ir.Value, measured: tuple[int, ...] | None) -> None:
    """Open the dimensions that one real run has proven wrong; inference is not always right."""
    if value.shape is None or measured is None:
        return
    if len(value.shape) != len(measured):
        value.shape = None
        return
    value.shape = ir.Shape(
        [
            f"{value.name}_dim{i}" if isinstance(dim, int) and dim != seen else dim
            for i, (dim, seen) in enumerate(zip(value.shape, measured, strict=True))
        ]
    )


def data_type(dtype: str) -> ir.DataType:
    """Return the ONNX element type of Cutset's name for it."""
    special = {"float32": "FLOAT", "float64": "DOUBLE"}
    return ir.DataType[special.get(dtype, dtype.upper())]


def _to_proto(part: ir.Model, opaque: Mapping[str, bytes]) -> onnx.ModelProto:
    proto = ir.to_proto(part)
    assert isinstance(proto, onnx.ModelProto)
    for value in [*proto.graph.input, *proto.graph.output]:
        if value.name in opaque:
            value.type.ParseFromString(opaque[value.name])
    return proto


def give_ranks(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], *, sizes: bool = False) -> bool:
    """Give the inputs of a model whose rank inference left open the rank that they have in a run.

    TensorRT takes an input of unknown rank for a scalar.

    Args:
        model: The model; changed.
        shapes: Shape of each input in a run.
        sizes: Whether they get its sizes, too, instead of free ones.

    Returns:
        Whether anything changed.
    """
    changed = False
    for value in model.graph.input:
        tensor = value.type.tensor_type
        if value.type.HasField("tensor_type") and not tensor.HasField("shape") and value.name in shapes:
            tensor.shape.SetInParent()
            for axis, size in enumerate(shapes[value.name]):
                dim = tensor.shape.dim.add()
                if sizes:
                    dim.dim_value = size
                else:
                    dim.dim_param = f"{value.name}_dim{axis}"
            changed = True
    return changed
