"""Compose the stages of a cascade into one valid ONNX model, with the archive of its Python functions."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import onnx
import onnx_ir as ir
from onnx import helper
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
    RemoveUnusedOpsetsPass,
)

from cutset.cascade.document import Document, Stage
from cutset.cascade.empty import padded, takes_none
from cutset.cascade.hooks import Hooks, hooks_of
from cutset.cascade.parts.base import OPSET
from cutset.cascade.stages import Finder, bind, model_of_hook, model_of_part, read_models, spec_of, value_info
from cutset.errors import ModelError
from cutset.graph.load import MIN_IR_VERSION
from cutset.graph.types import TensorSpec

_DEFAULT = ("", "ai.onnx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """A cascade as one model.

    Args:
        model: Valid ONNX; what a stage computes is named ``<stage>/<name>``.
        hooks: Its Python functions, None where it has none.
    """

    model: onnx.ModelProto
    hooks: Hooks | None


def compose(document: Document, find: Finder, *, name: str) -> Composed:
    """Return a cascade as one model.

    Equal work on equal inputs is done once, wherever it was written: two models that carry the same pre-processing share it.

    Args:
        document: The cascade.
        find: Brings sample models.
        name: Of the graph.

    Raises:
        UsageError: If stages do not fit each other, or a model cannot be read; the message names the line.
        ModelError: If the result is not valid ONNX.
    """
    order = _order(document)
    hooks = hooks_of(document)
    models = read_models(document, find)
    opsets = _opsets(document, models)
    models = {stage: _converted(document, stage, model, opsets[""]) for stage, model in models.items()}
    writer = _Writer(document)
    for stage in (document.stages[entry] for entry in order):
        reads = {key: writer.read(reference, "stages", stage.name, "inputs", key) for key, reference in stage.inputs.items()}
        if stage.kind == "model":
            model = models[stage.name]
        elif stage.kind == "part":
            model = _converted(document, stage.name, model_of_part(document, stage, reads), opsets[""])
        else:
            assert hooks is not None
            model = model_of_hook(document, stage, reads, hooks)
        bound = bind(document, stage, model, reads)
        writer.add(stage, _guarded(document, bound, reads) if stage.kind == "model" else bound)
    model = writer.model(name)
    _check_use(document, order)
    return Composed(model=_finished(model), hooks=hooks)


def _guarded(document: Document, model: onnx.ModelProto, reads: Mapping[str, TensorSpec]) -> onnx.ModelProto:
    """Return a model that takes no rows where what it reads may have none: their number is found at run time.

    Rows are what a model gives as many of as it takes: the height of a picture is none.
    """
    given = {dim for tensor in document.inputs.values() for dim in tensor.shape}
    firsts = {spec.shape[0] for spec in reads.values() if spec.shape}
    gives = {spec.shape[0] for spec in map(spec_of, model.graph.output) if spec.shape}
    rows = {dim for dim in firsts & gives if isinstance(dim, str) and dim not in given}
    return padded(model, rows) if len(rows) == 1 and not takes_none(model, rows) else model


class _Writer:
    """Collects the stages of a cascade into one graph."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._graph = onnx.GraphProto()
        self._opsets: dict[str, int] = {}
        self._tensors: dict[str, str] = {}
        self._specs: dict[str, TensorSpec] = {}
        for name, tensor in document.inputs.items():
            self._graph.input.append(value_info(name, tensor.dtype, tensor.shape))
            self._tensors[name] = name
            self._specs[name] = spec_of(self._graph.input[-1])

    def read(self, reference: str, *keys: str) -> TensorSpec:
        """Return the type of what a reference stands for."""
        self._check(reference, *keys)
        return self._specs[reference]

    def add(self, stage: Stage, model: onnx.ModelProto) -> None:
        """Add a stage whose inputs exist, its names prefixed with its own."""
        prefix = f"{stage.name}/"
        for index, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{index}"
        outputs = {value.name: spec_of(value) for value in model.graph.output}
        sources = {key: self._tensors[reference] for key, reference in stage.inputs.items()}
        _rename(model.graph, lambda name: sources.get(name) or f"{prefix}{name}")
        for node in _nodes(model.graph):
            node.name = f"{prefix}{node.name}"
        self._graph.node.extend(model.graph.node)
        self._graph.initializer.extend(model.graph.initializer)
        self._graph.sparse_initializer.extend(model.graph.sparse_initializer)
        own = [value for value in model.graph.output if value.name.startswith(prefix)]
        self._graph.value_info.extend([*model.graph.value_info, *own])
        for entry in model.opset_import:
            self._opsets[entry.domain] = max(entry.version, self._opsets.get(entry.domain, 0))
        for name, spec in outputs.items():
            reference = f"{stage.name}.{name.removesuffix('.out') if stage.kind == 'python' else name}"
            self._tensors[reference] = sources.get(name, f"{prefix}{name}")
            self._specs[reference] = spec

    def model(self, name: str) -> onnx.ModelProto:
        """Return the finished model."""
        renamed: dict[str, str] = {}
        for output, reference in self._document.outputs.items():
            self._check(reference, "outputs", output)
            if output in self._document.inputs:
                what = f"`{output}` is an input and an output of the pipeline"
                raise self._document.refusal(what, "outputs", output, hint="give the output another name")
            tensor = self._tensors[reference]
            if tensor in renamed or tensor in self._document.inputs:
                source = renamed.get(tensor, tensor)
                self._graph.node.append(helper.make_node("Identity", [source], [output], name=f"{output}/again"))
            else:
                renamed[tensor] = output
            spec = self._specs[reference]
            self._graph.output.append(value_info(output, spec.dtype, spec.shape))
        inner = set(renamed)
        kept = [value for value in self._graph.value_info if value.name not in inner]
        del self._graph.value_info[:]
        self._graph.value_info.extend(kept)
        _rename(self._graph, lambda value: renamed.get(value, value))
        self._graph.name = name
        imports = [helper.make_opsetid(domain, version) for domain, version in sorted(self._opsets.items())]
        return helper.make_model(self._graph, producer_name="cutset.cascade", opset_imports=imports, ir_version=MIN_IR_VERSION)

    def _check(self, reference: str, *keys: str) -> None:
        if reference in self._tensors:
            return
        near = difflib.get_close_matches(reference, self._tensors, n=1)
        stage = reference.partition(".")[0]
        known = [name for name in self._tensors if name.startswith(f"{stage}.")] if stage in self._document.stages else []
        hint = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known or self._tensors)}"
        raise self._document.refusal(f"`{reference}` is neither an input nor an output of a stage", *keys, hint=hint)


def _order(document: Document) -> list[str]:
    """Return the stages so that each comes after what it reads."""
    for name in document.stages:
        if name in document.inputs:
            raise document.refusal(f"`{name}` is an input and a stage", "stages", name, hint="rename one of them")
    reads = {name: {ref.partition(".")[0] for ref in stage.inputs.values()} for name, stage in document.stages.items()}
    known = {name: [other for other in found if other in document.stages] for name, found in reads.items()}
    try:
        order = list(TopologicalSorter(known).static_order())
    except CycleError as error:
        circle = error.args[1]
        what = f"stages wait for each other: {' -> '.join(reversed(circle))}"
        raise document.refusal(what, "stages", circle[0], "inputs") from error
    return order


def _check_use(document: Document, order: list[str]) -> None:
    """Check that an output depends on each stage and on each input."""
    reads = {name: {ref.partition(".")[0] for ref in stage.inputs.values()} for name, stage in document.stages.items()}
    wanted = {reference.partition(".")[0] for reference in document.outputs.values()}
    for name in reversed(order):
        if name in wanted:
            wanted |= reads[name]
    for kind, names in (("stages", document.stages), ("inputs", document.inputs)):
        idle = next((name for name in names if name not in wanted), None)
        if idle is not None:
            raise document.refusal(f"no output of the pipeline depends on `{idle}`", kind, idle, hint="remove it, or use it")


def _opsets(document: Document, models: Mapping[str, onnx.ModelProto]) -> dict[str, int]:
    """Return the version of each operator set: the largest of the default one, of others the only one there is."""
    found = {"": OPSET}
    first: dict[str, str] = {}
    for stage, model in models.items():
        used = {node.domain for node in _nodes(model.graph)}
        for entry in model.opset_import:
            if entry.domain in _DEFAULT:
                found[""] = max(found[""], entry.version)
            elif entry.domain in used and found.setdefault(entry.domain, entry.version) != entry.version:
                other = f"{found[entry.domain]} in `{first[entry.domain]}`"
                what = f"operator set {entry.domain}: version {entry.version} here, {other}"
                raise document.refusal(what, "stages", stage, hint="export both with one version: only ai.onnx is converted")
            first.setdefault(entry.domain, stage)
    return found


def _converted(document: Document, stage: str, model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Return a model in another version of the default operator set."""
    here = next((entry.version for entry in model.opset_import if entry.domain in _DEFAULT), version)
    if here == version:
        return model
    try:
        return onnx.version_converter.convert_version(model, version)
    except Exception as error:  # the converter raises several kinds that share no base class
        what = f"the model of `{stage}` cannot be converted from opset {here} to {version}, which another stage needs"
        raise document.refusal(what, "stages", stage, cause=str(error)[:300], hint="export it with a newer opset") from error


def _finished(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model in which nothing is done twice, checked."""
    try:
        shared = ir.from_proto(model)
        for step in (
            DeduplicateInitializersPass(),
            CommonSubexpressionEliminationPass(),
            RemoveUnusedNodesPass(),
            RemoveUnusedOpsetsPass(),
        ):
            shared = step(shared).model
        shared.graph.sort()
        finished = ir.to_proto(shared)
        onnx.checker.check_model(finished)
    except Exception as error:  # the checker's and the passes' errors share no base class
        raise ModelError("the composed model is not valid ONNX", cause=str(error)[:300]) from error
    return finished


def _bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [body for entry in node.attribute for body in ([entry.g] if entry.HasField("g") else []) + list(entry.graphs)]


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes of a graph and of its bodies."""
    inner = [found for node in graph.node for body in _bodies(node) for found in _nodes(body)]
    return [*graph.node, *inner]


def _rename(graph: onnx.GraphProto, new: Callable[[str], str]) -> None:
    """Rename the values of a graph wherever they stand, those that bodies read from outside too."""
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = new(value.name)
    for tensor in graph.sparse_initializer:
        tensor.values.name = new(tensor.values.name)
    for node in graph.node:
        node.input[:] = [name and new(name) for name in node.input]
        node.output[:] = [name and new(name) for name in node.output]
        for body in _bodies(node):
            _rename(body, new)
