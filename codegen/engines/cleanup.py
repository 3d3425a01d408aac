"""Rewrite a GPU stage so that engines can be built of it, without changing a number.

Each pass returns whether it changed anything. The stage's file is replaced, so that what is proven equal to the whole model
is what engines are built from.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from cutset.advisory import advisory
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.graph.extract import give_ranks
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.graph.names import FreshNames
from cutset.partitioner.support import MOVEMENT
from cutset.profilers.session import open_session, run, session_options

CleanUp = Literal["ranks", "constants", "casts", "squeeze", "shapes"]
CLEAN_UPS: tuple[CleanUp, ...] = get_args(CleanUp)
DEFAULT: tuple[CleanUp, ...] = ("ranks", "constants", "casts", "squeeze")
"""``shapes`` is left to the optimisation profile: fixed in the file, they would bind onnxruntime too."""

MOST_FOLDED_BYTES = 1 << 16
"""Larger constants stay computed: files of models that make their weights would grow a thousandfold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A part that is cleaned up.

    Args:
        model: The part, which passes change.
        graph: The same, as it was when it was read.
        inputs: What its engine must take.
    """

    model: onnx.ModelProto = field(repr=False)
    graph: ModelGraph
    inputs: Mapping[str, EngineInput]


def clean(path: Path, inputs: Collection[EngineInput], chosen: Collection[CleanUp] = DEFAULT) -> tuple[CleanUp, ...]:
    """Rewrite the part in a file and return the passes that changed it; the file stays as it is if none did.

    Args:
        path: The part.
        inputs: What its engine must take.
        chosen: Passes to run.
    """
    changed: list[CleanUp] = []
    given = {one.name: one for one in inputs}
    subject: Subject | None = None
    for name in CLEAN_UPS:
        if name in chosen:
            done = False
            with advisory(f"the clean-up `{name}`", f"stage {path.stem}"):
                subject = subject or Subject(
                    model=onnx.load(str(path), load_external_data=False), graph=load(path), inputs=given
                )
                untouched = not _PASSES[name](subject)
                if not untouched:
                    path.write_bytes(subject.model.SerializeToString())
                    changed.append(name)
                done = untouched
            subject = subject if done else None  # else it is no longer the file, or a pass failed in the middle
    return tuple(changed)


def name_ranks(subject: Subject) -> bool:
    """Say how many dimensions an input has where inference could not tell."""
    return give_ranks(subject.model, {name: given.shapes[1] for name, given in subject.inputs.items()})


def fold_constants(subject: Subject) -> bool:
    """Replace what depends on weights alone by its value: axes, sizes and the like become weights that the parser can read.

    Weights in eight bits stay: what reads them from a DequantizeLinear is what libraries compute in eight bits.
    """
    graph, model = subject.graph, subject.model
    outputs = {value.name for value in model.graph.output}
    read = {name for node in graph.nodes if node.name not in graph.constant_nodes for name in node.inputs} | outputs
    wanted = [
        value for node in graph.nodes if node.name in graph.constant_nodes and node.op.op_type != "DequantizeLinear"
        for value in node.outputs
        if value in read and value not in outputs and graph.values[value].is_tensor and graph.values[value].dtype != "string"
    ]  # fmt: skip
    if not wanted:
        return False
    found = _evaluate(graph, wanted)
    small = {name: array for name, array in found.items() if array.nbytes <= MOST_FOLDED_BYTES}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in small.items())
    _drop(model, set(small))
    return bool(small)


def _evaluate(graph: ModelGraph, wanted: list[str]) -> dict[str, np.ndarray]:
    """Return the values of constant tensors, computed by onnxruntime as it stands in the model."""
    model = onnx.load(str(graph.path), load_external_data=False)
    kept = _needed(model.graph, wanted)
    read = {name for node in kept for name in _all_reads(node)}
    weights = [weight for weight in model.graph.initializer if weight.name in read]
    del model.graph.node[:], model.graph.input[:], model.graph.output[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(weights)
    onnx.load_external_data_for_model(model, str(graph.path.parent))
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    options = session_options()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = run(open_session(model.SerializeToString(), options=options), {}, wanted)
    return {name: np.asarray(value) for name, value in found.items()}


def _needed(graph: onnx.GraphProto, wanted: list[str]) -> list[onnx.NodeProto]:
    """Return the nodes that values are computed by, in graph order."""
    needed = set(wanted)
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed.update(_all_reads(node))
    return kept[::-1]


def _drop(model: onnx.ModelProto, values: set[str]) -> None:
    """Remove the nodes that made `values`, then every node whose outputs nobody reads any more."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in _all_reads(node)} | {value.name for value in graph.output}
        dead = [node for node in graph.node if all(name in values or name not in read for name in node.output)]
        if not dead:
            return
        for node in dead:
            graph.node.remove(node)


def _all_reads(node: onnx.NodeProto) -> list[str]:
    found = list(node.input)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            found += [name for inner in body.node for name in _all_reads(inner)] + [value.name for value in body.output]
    return found


def raise_casts(subject: Subject) -> bool:
    """Move a Cast from uint8 above what only moves elements, where TensorRT takes uint8: at the border of the engine."""
    changed = False
    uint8 = {name for name, spec in subject.graph.values.items() if spec.dtype == "uint8"}
    while _raise_one(subject.model.graph, uint8):
        changed = True
    return changed


def _raise_one(graph: onnx.GraphProto, uint8: Collection[str]) -> bool:
    """Move one Cast above the node before it, if there is one to move."""
    outputs = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in _all_reads(node):
            readers.setdefault(name, []).append(node)
    for cast in graph.node:
        mover = makers.get(cast.input[0]) if cast.op_type == "Cast" else None
        if mover is None or mover.op_type not in MOVEMENT or mover.input[0] not in uint8:
            continue
        if mover.output[0] not in outputs and len(readers[mover.output[0]]) == 1:
            _swap(graph, mover, cast)
            return True
    return False


def _swap(graph: onnx.GraphProto, mover: onnx.NodeProto, cast: onnx.NodeProto) -> None:
    """Move a cast from the output of a node to the inputs; node and output keep their names."""
    position = list(graph.node).index(mover)
    moved = len(mover.input) if mover.op_type == "Concat" else 1
    names = FreshNames.beside(graph)
    raised: dict[str, onnx.NodeProto] = {}
    for index, name in enumerate(list(mover.input)[:moved]):
        if name not in raised:
            copy = onnx.NodeProto()
            copy.CopyFrom(cast)
            copy.input[0], copy.output[0] = name, names.make(f"{cast.output[0]}.raised{index}")
            copy.name = names.make(f"{cast.name}.{index}") if raised else cast.name
            raised[name] = copy
        mover.input[index] = raised[name].output[0]
    mover.output[0] = cast.output[0]
    nodes = [node for node in graph.node if node.name != cast.name]
    del graph.node[:]
    graph.node.extend([*nodes[:position], *raised.values(), *nodes[position:]])


def name_axes(subject: Subject) -> bool:
    """Name the axes of a Squeeze that takes all of size one, where they are known: no parser knows them of open shapes."""
    changed = False
    names = FreshNames.beside(subject.model.graph)
    for node in subject.model.graph.node:
        named = len(node.input) > 1 or any(attribute.name == "axes" for attribute in node.attribute)
        if node.op_type != "Squeeze" or named:
            continue
        shape = subject.graph.values[node.input[0]].shape
        if shape is None or not all(isinstance(dim, int) for dim in shape):
            continue
        axes = [index for index, dim in enumerate(shape) if dim == 1]
        if subject.graph.opset_imports.get("", 0) >= 13:
            name = names.make(f"{node.output[0]}.axes")
            subject.model.graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), name))
            del node.input[1:]
            node.input.append(name)
        else:
            node.attribute.append(helper.make_attribute("axes", axes))
        changed = True
    return changed


def fix_shapes(subject: Subject) -> bool:
    """Write into the file the sizes that are the same for all that the engine must take."""
    changed = False
    for value in subject.model.graph.input:
        given = subject.inputs.get(value.name)
        dims = value.type.tensor_type.shape.dim
        if given is None or len(dims) != len(given.shapes[0]):
            continue
        for dim, least, most in zip(dims, given.shapes[0], given.shapes[2], strict=True):
            if least == most and not dim.HasField("dim_value"):
                dim.dim_value = least
                changed = True
    if changed:
        for value in subject.model.graph.output:
            for dim in value.type.tensor_type.shape.dim:
                dim.ClearField("dim_param")
    return changed


_PASSES: Mapping[CleanUp, Callable[[Subject], bool]] = {
    "ranks": name_ranks,
    "constants": fold_constants,
    "casts": raise_casts,
    "squeeze": name_axes,
    "shapes": fix_shapes,
}
"""In the order of `CLEAN_UPS`."""
