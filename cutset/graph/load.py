"""Read an ONNX file into a `ModelGraph`, or say in one sentence why it cannot be read.

The quirks of real files are mended here once, so nothing below meets them: unsorted or unnamed nodes, initializers
listed as inputs, local functions, unused opset imports, dimensions written as ``-1`` or ``?``, map types.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import RemoveUnusedOpsetsPass

from cutset.digest import sha256_file, sha256_json
from cutset.errors import ModelError, UnavailableError
from cutset.files import check_regular, is_utf8
from cutset.graph.declared import follow_inputs, read_declared
from cutset.graph.external_data import settle_weights
from cutset.graph.local_functions import inline_functions
from cutset.graph.model import ModelGraph, iter_bodies, op_node
from cutset.graph.optional_inputs import take_defaults
from cutset.graph.shapes import holds_map, infer
from cutset.graph.sparse import densify
from cutset.graph.types import Dim, TensorSpec

MIN_IR_VERSION = 8
"""Below IR 4 initializers had to be graph inputs, and inference then sees no weights."""

KNOWN_DOMAINS = frozenset({
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview", "ai.onnx.preview.training",
    "com.microsoft", "com.microsoft.nchwc", "com.microsoft.experimental", "com.ms.internal.nhwc", "org.pytorch.aten",
})  # fmt: skip
"""Operator domains that a plain onnxruntime registers."""

EXTENSIONS_MODULE = "onnxruntime_extensions"
EXTENSIONS_DOMAINS = frozenset({"com.microsoft.extensions", "ai.onnx.contrib"})
"""Operator domains of the onnxruntime-extensions package, whose library Cutset finds by itself."""

HOOK_DOMAIN = "cutset.python"
"""How the operator domains of Python functions begin, which cascades may have."""


def load(path: Path | str, *, custom_ops: tuple[str, ...] = ()) -> ModelGraph:
    """Return the model at `path`, normalised and with inferred shapes.

    Weights stay on disk (external data is mapped, not read).

    Args:
        path: An ``.onnx`` file.
        custom_ops: Shared libraries that register custom operators.

    Raises:
        ModelError: If the file is missing, not ONNX or cyclic, or its external data is absent or outside its folder.
    """
    path = Path(path)
    if not is_utf8(path):
        raise ModelError(f"the name {path} is not UTF-8", cause="onnxruntime opens no such file", hint="rename it")
    proto = _read_proto(path)
    densify(proto, path)
    opaque = _take_opaque_types(proto)
    defaults, frozen = take_defaults(proto, path)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    model = _to_ir(proto, path)
    del proto
    externals = settle_weights(model, path)
    model = _normalise(model, path)
    declared = read_declared(model.graph)
    opaque = infer(model, path) | opaque
    sha = sha256_file(path)
    digest = sha if not externals else sha256_json([sha, *(sha256_file(file) for file in externals)])
    graph = from_ir(model, path=path, sha256=sha, digest=digest, opaque=opaque, custom_ops=custom_ops)
    inputs = tuple(replace(spec, default=defaults.get(spec.name)) for spec in graph.inputs)
    declared = follow_inputs(declared, model.graph.inputs)
    files = (path, *externals)
    return replace(graph, files=files, inputs=inputs, frozen_inputs=frozen, metadata=metadata, declared=declared)


def from_ir(
    model: ir.Model,
    *,
    path: Path,
    sha256: str = "",
    digest: str = "",
    opaque: dict[str, bytes] | None = None,
    custom_ops: tuple[str, ...] = (),
) -> ModelGraph:
    """Return the `ModelGraph` of a model that is already normalised."""
    opaque = opaque or {}
    graph = model.graph
    values = {}
    for value in [*graph.inputs, *graph.initializers.values(), *(o for node in graph for o in node.outputs)]:
        if value.name:
            values[value.name] = _spec(value, opaque)
    return ModelGraph(
        source=model,
        path=path,
        sha256=sha256,
        digest=digest,
        inputs=tuple(values[str(value.name)] for value in graph.inputs),
        outputs=tuple(values[str(value.name)] for value in graph.outputs),
        nodes=tuple(op_node(node, graph) for node in graph),
        values=values,
        initializers=frozenset(str(name) for name in graph.initializers),
        opset_imports=dict(graph.opset_imports),
        opaque_types=opaque,
        custom_ops=custom_ops,
    )


def _read_proto(path: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        check_regular(path)
        proto.ParseFromString(path.read_bytes())
    except IsADirectoryError as error:
        raise ModelError(f"{path} is a folder, not a model", hint="give the .onnx file inside it") from error
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a path that no file can have
        raise ModelError(
            f"there is no file {path}", hint="give the path of an .onnx file; `cutset samples` lists models to try"
        ) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read", cause=error.strerror, hint="check the path and its permissions") from error
    except DecodeError as error:
        raise ModelError(
            f"{path} cannot be read as ONNX", cause=f"{error}", hint="the file is truncated or is not an ONNX model"
        ) from error
    if not proto.ir_version or not proto.HasField("graph") or not (proto.graph.output or proto.graph.node):
        raise ModelError(
            f"{path} is not an ONNX model",
            cause="it holds no graph" if proto.ir_version else "it names no ONNX version",
            hint="the file is truncated or is another kind of file",
        )
    if not proto.opset_import:
        raise ModelError(f"{path} names no operator set", hint="export the model again with a recent exporter")
    return proto


def _take_opaque_types(proto: onnx.ModelProto) -> dict[str, bytes]:
    """Set aside the types that onnx_ir refuses to hold; `extract` puts them back."""
    taken = {}
    for value in [*proto.graph.input, *proto.graph.output, *proto.graph.value_info]:
        if holds_map(value.type):
            taken[value.name] = value.type.SerializeToString()
            value.ClearField("type")
    return taken


def _to_ir(proto: onnx.ModelProto, path: Path) -> ir.Model:
    proto = inline_functions(proto, str(path))
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many kinds for malformed graphs; each means the same to the user
        root: BaseException = error
        while root.__cause__ is not None:
            root = root.__cause__
        raise ModelError(f"{path} is not a valid ONNX model", cause=f"{root}"[:300]) from error
    assert isinstance(model, ir.Model)
    return model


def _normalise(model: ir.Model, path: Path) -> ir.Model:
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)
    RemoveUnusedOpsetsPass()(model)
    try:
        model.graph.sort()
    except ValueError as error:
        raise ModelError(f"the graph of {path} has a cycle", cause=str(error)[:300]) from error
    _name_nodes(model.graph)
    _check_values(model.graph, path)
    return model


def _check_values(graph: ir.Graph, path: Path) -> None:
    for node in graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.name and not _is_written(value):
                raise ModelError(f"node `{node.name}` reads `{value.name}`, which nothing writes", where=f"{path}")
    for value in graph.outputs:
        if not _is_written(value):
            raise ModelError(f"graph output `{value.name}` is written by no node", where=f"{path}")
    names = [value.name for value in graph.inputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f"two graph inputs are called `{twice}`", where=f"{path}")


def _is_written(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _name_nodes(graph: ir.Graph) -> None:
    """Give every node, in bodies too, a name of its own: the given one, else ``<op_type>_<index>``."""
    nodes: list[ir.Node] = []

    def collect(inner: ir.Graph) -> None:
        for node in inner:
            nodes.append(node)
            for body in iter_bodies(node):
                collect(body)

    collect(graph)
    used = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    attempts: dict[str, int] = {}  # of earlier nodes with the same base: a search from the start each time is quadratic
    for index, node in enumerate(nodes):
        if node.name and node.name not in seen:
            seen.add(node.name)
            continue
        base = node.name or f"{node.op_type}_{index}"
        name, attempt = base, attempts.get(base, 0)
        while name in used or name in seen:
            attempt += 1
            name = f"{base}_{attempt}"
        attempts[base] = attempt
        node.name = name
        seen.add(name)


def _spec(value: ir.Value, opaque: dict[str, bytes]) -> TensorSpec:
    name = str(value.name)
    if name in opaque:
        return TensorSpec(name=name, dtype=_proto_type_name(onnx.TypeProto.FromString(opaque[name])), shape=None)
    return TensorSpec(name=name, dtype=_type_name(value.type), shape=_dims(value))


def _dims(value: ir.Value) -> tuple[Dim, ...] | None:
    if value.shape is None or not isinstance(value.type, ir.TensorType):
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}


def dtype_name(dtype: ir.DataType) -> str:
    """Return Cutset's name of an ONNX element type: ``float32``, ``int64``, ``bool``, ``string``, ..."""
    return _NAMES.get(dtype.name, dtype.name.lower())


def _type_name(kind: ir.TypeProtocol | None) -> str:
    if kind is None:
        return "undefined"
    if isinstance(kind, ir.SequenceType):
        return f"seq({_type_name(kind.elem_type)})"
    if isinstance(kind, ir.OptionalType):
        return f"optional({_type_name(kind.elem_type)})"
    if isinstance(kind, ir.SparseTensorType):
        return f"sparse({dtype_name(kind.dtype)})"
    return dtype_name(kind.dtype)


def _proto_type_name(kind: onnx.TypeProto) -> str:
    which = kind.WhichOneof("value")
    if which == "sequence_type":
        return f"seq({_proto_type_name(kind.sequence_type.elem_type)})"
    if which == "optional_type":
        return f"optional({_proto_type_name(kind.optional_type.elem_type)})"
    if which == "map_type":
        key = dtype_name(ir.DataType(kind.map_type.key_type))
        return f"map({key},{_proto_type_name(kind.map_type.value_type)})"
    return dtype_name(ir.DataType(kind.tensor_type.elem_type))


def with_operators(graph: ModelGraph) -> ModelGraph:
    """Return `graph` with a library for every custom operator; that of onnxruntime-extensions is found by itself.

    Raises:
        ModelError: If a node's domain is unknown and no library was given.
        UnavailableError: If the model needs onnxruntime-extensions and it is not installed.
    """
    domains = {node.domain: node for node in graph.source.graph.all_nodes() if node.domain not in KNOWN_DOMAINS}
    libraries = graph.custom_ops
    if EXTENSIONS_DOMAINS & set(domains):
        library = _extensions_library()
        libraries = (*libraries, *(() if library in libraries else (library,)))
    unknown = [node for domain, node in domains.items() if domain not in EXTENSIONS_DOMAINS]
    if unknown and not graph.custom_ops:
        node = unknown[0]
        if node.domain.startswith(HOOK_DOMAIN):
            raise ModelError(
                f"node `{node.name}` is a Python function, and its archive was not given",
                where=str(graph.path),
                hint="give the archive that `cutset compose` wrote beside the model: --custom-ops FILE.pyz",
            )
        raise ModelError(
            f"operator {node.domain}::{node.op_type} is a custom operator and no library was given for it",
            where=f"{graph.path}, node `{node.name}`",
            hint="register the library that implements it: --custom-ops LIB.so",
        )
    return replace(graph, custom_ops=libraries)


def _extensions_library() -> str:
    try:
        module = importlib.import_module(EXTENSIONS_MODULE)
    except ImportError as error:
        raise UnavailableError(
            "the model uses operators of onnxruntime-extensions, which is not installed",
            hint="pip install 'cutset[extensions]'",
        ) from error
    return str(module.get_library_path())
