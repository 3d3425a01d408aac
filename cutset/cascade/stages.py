"""One stage as an ONNX model whose inputs and outputs are typed by what the stage reads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from cutset.cascade.document import Document, Stage
from cutset.cascade.hooks import Hooks
from cutset.cascade.parts.base import PartError, Use
from cutset.cascade.parts.library import PARTS
from cutset.errors import CutsetError, ModelError
from cutset.graph.load import MIN_IR_VERSION
from cutset.graph.local_functions import inline_functions
from cutset.graph.types import Dim, TensorSpec

TEXT_SUFFIX = ".onnxtxt"
"""Of a model in ONNX text, which a person can write: glue that the library lacks."""

Finder = Callable[[str], onnx.ModelProto]
"""Returns a sample model by its id."""

_NAMES = {"FLOAT": "float32", "DOUBLE": "float64"}
_UNNAMED = frozenset({"", "?", "-1", "None"})


def read_models(document: Document, find: Finder) -> dict[str, onnx.ModelProto]:
    """Return the models of the stages that are files or samples, by stage.

    Raises:
        CutsetError: If one cannot be read; the message names the line.
    """
    return {name: _read(document, stage, find) for name, stage in document.stages.items() if stage.kind == "model"}


def model_of_part(document: Document, stage: Stage, reads: Mapping[str, TensorSpec]) -> onnx.ModelProto:
    """Return the model of a stage that is a piece of glue.

    Raises:
        UsageError: If it cannot read what it is given.
    """
    part = PARTS[stage.what]
    check_inputs(document, stage, part.inputs)
    safe = {name: _plain(spec) for name, spec in reads.items()}
    try:
        text = part.text(Use(name=stage.name, reads=safe, settings=stage.settings, document=document.path))
    except PartError as error:
        keys = next((key for key in stage.inputs if f"`{key}`" in str(error)), None)
        place = ("stages", stage.name) if keys is None else ("stages", stage.name, "inputs", keys)
        raise document.refusal(f"part `{stage.what}`: {error}", *place) from error
    try:
        model = onnx.parser.parse_model(text)
        onnx.checker.check_model(model)
    except Exception as error:  # the parser's and the checker's errors share no base class
        what = f"part `{stage.what}` cannot be made under these names"
        hint = "names that ONNX text keeps for itself, such as `float`, cannot stand here"
        raise document.refusal(what, "stages", stage.name, cause=str(error)[:300], hint=hint) from error
    return model


def model_of_hook(document: Document, stage: Stage, reads: Mapping[str, TensorSpec], hooks: Hooks) -> onnx.ModelProto:
    """Return the model of a stage that is a Python function: one node that only a CPU can run.

    Raises:
        UsageError: If what it reads is not of the declared types.
    """
    for name, wanted in stage.takes.items():
        if reads[name].dtype != wanted:
            what = f"`{stage.inputs[name]}` is {reads[name].dtype}, and `{name}` is declared as {wanted}"
            raise document.refusal(what, "stages", stage.name, "inputs", name)
    domain, function = hooks.operator(stage.name)
    node = helper.make_node(function, list(stage.inputs), [f"{name}.out" for name in stage.gives], name=function, domain=domain)
    inputs = [value_info(name, spec.dtype, spec.shape) for name, spec in reads.items()]
    outputs = [value_info(f"{name}.out", tensor.dtype, tensor.shape) for name, tensor in stage.gives.items()]
    graph = helper.make_graph([node], stage.name, inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 1)], ir_version=8)


def bind(document: Document, stage: Stage, model: onnx.ModelProto, reads: Mapping[str, TensorSpec]) -> onnx.ModelProto:
    """Return a model with the shapes of what it reads, and the shapes that follow from them.

    A name of a size becomes what is read there, or ``<stage>__<name>``, so that equal names stay equal and no two stages
    share one by accident.

    Args:
        document: The cascade.
        stage: The stage.
        model: Its model.
        reads: Type of what each input reads.

    Raises:
        UsageError: If element types, ranks or sizes do not fit.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    graph = bound.graph
    sizes: dict[str, Dim] = {}
    for value in graph.input:
        declared = spec_of(value)
        if value.name in stage.shapes:
            declared = TensorSpec(name=value.name, dtype=declared.dtype, shape=stage.shapes[value.name])
        _unify(document, stage, declared, reads[value.name], sizes)
        _set_shape(value, declared.shape)
    if stage.shapes:
        for value in graph.output:
            value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    for dim in _dims(graph.input, graph.output):
        _rename(dim, stage.name, sizes)
    given = {dim.dim_param for dim in _dims(graph.input, graph.output)}
    try:
        inferred = onnx.shape_inference.infer_shapes(bound, data_prop=True)
    except Exception as error:  # inference raises several kinds that share no base class
        keys = ("stages", stage.name)
        raise document.refusal(f"stage `{stage.name}` does not fit what it reads", *keys, cause=str(error)[:300]) from error
    for dim in _dims(inferred.graph.value_info, inferred.graph.output):
        if dim.dim_param and dim.dim_param not in given:  # `unk__0`, which inference calls a size in every model
            dim.dim_param = _own(stage.name, dim.dim_param)
    return inferred


def check_inputs(document: Document, stage: Stage, wanted: tuple[str, ...] | None) -> None:
    """Check that a stage names the inputs there are.

    Raises:
        UsageError: If one is missing or unknown.
    """
    if wanted is None:
        return
    known = ", ".join(f"`{name}`" for name in wanted)
    for name in stage.inputs:
        if name not in wanted:
            what = f"`{stage.what}` has no input `{name}`"
            raise document.refusal(what, "stages", stage.name, "inputs", name, hint=f"its inputs are {known}")
    missing = [name for name in wanted if name not in stage.inputs]
    if missing:
        what = f"nothing is given for input `{missing[0]}` of `{stage.what}`"
        raise document.refusal(what, "stages", stage.name, "inputs", hint=f"its inputs are {known}")


def spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    """Return the type of a value: its element type, and its shape as far as it is declared."""
    tensor = value.type.tensor_type
    name = TensorProto.DataType.Name(tensor.elem_type) if value.type.HasField("tensor_type") else "no tensor"
    shape: tuple[Dim, ...] | None = None
    if tensor.HasField("shape"):
        shape = tuple(
            dim.dim_value
            if dim.HasField("dim_value") and dim.dim_value >= 0
            else None
            if dim.dim_param.strip() in _UNNAMED
            else dim.dim_param
            for dim in tensor.shape.dim
        )
    return TensorSpec(name=value.name, dtype=_NAMES.get(name, name.lower()), shape=shape)


def value_info(name: str, dtype: str, shape: tuple[Dim, ...] | None) -> onnx.ValueInfoProto:
    """Return the typed declaration of a value."""
    kind = TensorProto.DataType.Value({"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    return helper.make_tensor_value_info(name, kind, shape)


def _read(document: Document, stage: Stage, find: Finder) -> onnx.ModelProto:
    path = Path(document.folder / stage.what)
    keys = ("stages", stage.name, "model")
    if path.suffix not in {".onnx", TEXT_SUFFIX}:
        try:
            model = find(stage.what)
        except CutsetError as error:
            raise type(error)(error.what, where=document.line(*keys), cause=error.cause, hint=error.hint) from error
    else:
        if not path.is_file():
            raise document.refusal(f"there is no file {path}", *keys, hint="paths are relative to the folder of this file")
        try:
            text = path.suffix == TEXT_SUFFIX
            model = onnx.parser.parse_model(path.read_text("utf-8")) if text else onnx.load(str(path))
            onnx.checker.check_model(model)
        except Exception as error:  # a decoder's, the parser's and the checker's errors share no base class
            raise document.refusal(f"{path} is not a valid ONNX model", *keys, cause=str(error)[:300]) from error
    try:
        model = inline_functions(model, str(path))
    except ModelError as error:
        raise document.refusal(error.what, *keys, cause=error.cause, hint=error.hint) from error
    weights = {tensor.name for tensor in (*model.graph.initializer, *(s.values for s in model.graph.sparse_initializer))}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)  # below 4 the converter wants weights among the inputs
    check_inputs(document, stage, tuple(value.name for value in inputs))
    for name in stage.shapes:
        if name not in stage.inputs:
            raise document.refusal(f"`{stage.what}` has no input `{name}`", "stages", stage.name, "shapes", name)
    return model


def _plain(spec: TensorSpec) -> TensorSpec:
    """Return a type whose named sizes are words, as ONNX text needs them."""
    if spec.shape is None:
        return spec
    shape = tuple(_word(dim) if isinstance(dim, str) else dim for dim in spec.shape)
    return TensorSpec(name=spec.name, dtype=spec.dtype, shape=shape)


def _unify(document: Document, stage: Stage, declared: TensorSpec, given: TensorSpec, sizes: dict[str, Dim]) -> None:
    """Note in `sizes` what the named sizes of an input are; refuse what does not fit."""
    reference = stage.inputs[declared.name]
    keys = ("stages", stage.name, "inputs", declared.name)
    expected = f"`{declared.name}` of `{stage.name}` takes {_text(declared)}"
    if declared.dtype != given.dtype:
        raise document.refusal(f"`{reference}` is {_text(given)}; {expected}", *keys)
    if declared.shape is None or given.shape is None:
        return
    if len(declared.shape) != len(given.shape):
        hint = "a model whose file declares another shape than it takes: `shapes: {INPUT: [...]}`"
        raise document.refusal(f"`{reference}` is {_text(given)}; {expected}", *keys, hint=hint)
    for wanted, found in zip(declared.shape, given.shape, strict=True):
        if isinstance(wanted, int):
            fits = not isinstance(found, int) or found == wanted
        else:
            known = sizes.get(wanted) if wanted is not None else None
            fits = not isinstance(known, int) or not isinstance(found, int) or known == found
            if wanted is not None and found is not None and not isinstance(known, int):
                sizes[wanted] = found
        if not fits:
            hint = "a model whose file declares another shape than it takes: `shapes: {INPUT: [...]}`"
            raise document.refusal(f"`{reference}` is {_text(given)}; {expected}", *keys, hint=hint)


def _text(spec: TensorSpec) -> str:
    shape = "of any rank" if spec.shape is None else f"[{', '.join('?' if dim is None else str(dim) for dim in spec.shape)}]"
    return f"{spec.dtype} {shape}"


def _dims(*sides: Iterable[onnx.ValueInfoProto]) -> list[onnx.TensorShapeProto.Dimension]:
    return [dim for side in sides for value in side for dim in value.type.tensor_type.shape.dim]


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[Dim, ...] | None) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, shape))


def _rename(dim: onnx.TensorShapeProto.Dimension, stage: str, sizes: Mapping[str, Dim]) -> None:
    name = dim.dim_param
    if dim.HasField("dim_value"):
        if dim.dim_value < 0:
            dim.Clear()
        return
    if name.strip() in _UNNAMED:
        dim.Clear()
        return
    bound = sizes.get(name)
    if isinstance(bound, int):
        dim.dim_value = bound
    else:
        dim.dim_param = bound or _own(stage, name)


def _own(stage: str, name: str) -> str:
    """Return the name of a size that is a stage's own; no stage's name holds two underscores, so no two are the same."""
    return f"{stage}__{_word(name)}"


def _word(name: str) -> str:
    """Return a name of letters, digits and underscores."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)
