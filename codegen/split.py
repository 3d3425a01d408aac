"""Write the stages of a plan as ONNX files; a model that is left whole is its own file, byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath

import onnx
from onnx.external_data_helper import uses_external_data

from cutset.errors import CutsetError, PlanError
from cutset.graph.external_data import find_data, proto_tensors
from cutset.graph.extract import write_part
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Stage
from cutset.profilers.session import open_session, release_memory, session_options

RENAMED = "model.onnx"
"""What exports call a stage's file, so that no external data beside it may have this name."""


def write_stages(graph: ModelGraph, stages: Sequence[Stage], folder: Path) -> list[Path]:
    """Write each stage to its place under `folder` and return the files written.

    The only stage of a model that is left whole is the file that the user gave, with its external data, wherever the
    package can hold those files: a rewritten model is fused otherwise, and would not be the user's.

    Args:
        graph: The whole model.
        stages: All stages of a plan; their interfaces become the interfaces of the files.
        folder: The package folder; ``stages/`` is made in it.

    Raises:
        PlanError: If a stage writes nothing, which happens only for a model that computes nothing.
        ModelError: If a stage needs a value that it does not read.
    """
    if len(stages) == 1 and stages[0].outputs:
        copied = _copy_original(graph, stages[0], folder / stages[0].model)
        if copied:
            return copied
    return [file for stage in stages for file in write_stage(graph, stage, folder / stage.model)]


def write_stage(graph: ModelGraph, stage: Stage, path: Path) -> list[Path]:
    """Write one stage, cut out of the normalised model, and return the files written; raises as `write_stages`."""
    if not stage.outputs:
        raise PlanError("the model computes nothing: its outputs are its inputs", where=str(graph.path))
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_part(graph, stage.inputs, stage.outputs, path)


def external_files(model: Path) -> list[str]:
    """Return the places of a model's external data, relative to its folder, in the order of their first use."""
    proto = onnx.load(str(model), load_external_data=False)
    tensors = filter(uses_external_data, proto_tensors(proto.graph))
    return list(dict.fromkeys(entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"))


def copy_model_files(model: Path, target: Path, places: Sequence[str] | None = None) -> list[Path]:
    """Copy a model and its external data, relative places kept, and return the copies.

    Args:
        model: The file.
        target: Where it goes.
        places: From `external_files`; None reads them.
    """
    copies = [target]
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, target)
    for place in external_files(model) if places is None else places:
        copy = target.parent / place
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(find_data(model, place, str(model)), copy)
        copies.append(copy)
    return copies


def _copy_original(graph: ModelGraph, stage: Stage, path: Path) -> list[Path]:
    """Copy the user's file to `path` and return the copies; none where stage or package cannot use the file unchanged."""
    wanted = {spec.name for spec in graph.inputs}
    if wanted != set(stage.inputs) or not graph.path.is_file():
        return []
    places = external_files(graph.path)
    taken = {path.name, RENAMED}
    if any(_leaves(place) or PurePath(place).name in taken or PurePath(place).name.startswith(path.stem) for place in places):
        return []
    copied = copy_model_files(graph.path, path, places)
    if _opens(graph, path):
        return copied
    for file in copied:
        file.unlink()
    return []


def _opens(graph: ModelGraph, path: Path) -> bool:
    """Return whether onnxruntime loads the user's file: Cutset also reads others, with duplicate node names."""
    try:
        open_session(path, custom_ops=graph.custom_ops, options=session_options(level="none"))
    except CutsetError:
        return False
    finally:
        release_memory()
    return True


def _leaves(place: str) -> bool:
    """Return whether a place is not simply below the model's folder."""
    path = PurePath(place)
    return path.is_absolute() or ".." in path.parts or "\\" in place
