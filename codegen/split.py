"""Write the stages of a plan as ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cutset.errors import PlanError
from cutset.graph.extract import write_part
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Stage


def write_stages(graph: ModelGraph, stages: Sequence[Stage], folder: Path) -> list[Path]:
    """Write each stage to its place under `folder` and return the files written.

    Args:
        graph: The whole model.
        stages: From a plan; their interfaces become the interfaces of the files.
        folder: The package folder; ``stages/`` is made in it.

    Raises:
        PlanError: If a stage writes nothing, which happens only for a model that computes nothing.
        ModelError: If a stage needs a value that it does not read.
    """
    files: list[Path] = []
    for stage in stages:
        if not stage.outputs:
            raise PlanError("the model computes nothing: its outputs are its inputs", where=str(graph.path))
        path = folder / stage.model
        path.parent.mkdir(parents=True, exist_ok=True)
        files += write_part(graph, stage.inputs, stage.outputs, path)
    return files
