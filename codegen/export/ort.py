"""The plan inside one session of ONNX Runtime: the model with each node's device written on it, and the options that heed it.

Nodes carry ``layer_ann`` in their metadata, and the session is told which device takes which annotation. Versions without
this take the option and ignore it, so support is found by what an impossible setting does.

Source:
    ONNX Runtime, layer annotations (``session.layer_assignment_settings``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from cutset.cascade.hooks import SUFFIX as ARCHIVE
from cutset.codegen.export.open_session import SETTING, heeds_annotations
from cutset.codegen.export.source import Source
from cutset.errors import UnavailableError, UsageError
from cutset.graph.external_data import read_whole
from cutset.graph.protos import write_model
from cutset.profilers.session import KEEP_DROPOUT

SCHEMA = "cutset.ort/1"
KEY = "layer_ann"
MODEL = "annotated.onnx"
ANNOTATIONS = {"cpu": "cutset_cpu", "gpu": "cutset_gpu"}
OPENER = Path(__file__).with_name("open_session.py")


def check_ort() -> None:
    """Check that the onnxruntime here heeds annotations; nothing could be verified with one that does not.

    Raises:
        UnavailableError: If it does not.
    """
    import onnxruntime  # noqa: PLC0415 - heavy

    if not heeds_annotations():
        raise UnavailableError(
            f"--emit ort: onnxruntime {onnxruntime.__version__} does not heed placement annotations",
            hint="pip install --upgrade onnxruntime, or leave ort out of --emit",
        )


def write_ort(source: Source, folder: Path) -> None:
    """Write ``annotated.onnx``, ``session_options.json`` and ``open_session.py`` into `folder`.

    Raises:
        UnavailableError: If the onnxruntime here could not be asked whether it takes them.
        UsageError: If the model has Python functions, whose errors only the runtime of a package tells apart from answers.
    """
    check_ort()
    if any(library.file is not None and library.file.suffix == ARCHIVE for library in source.plan.custom_ops):
        raise UsageError(
            "--emit ort: the model has Python functions, which one session cannot serve", hint="leave ort out of --emit"
        )
    folder.mkdir(parents=True)
    model = read_whole(source.graph.path)
    marked = _annotate(model, source)
    write_model(model, folder / MODEL)
    (folder / "session_options.json").write_text(json.dumps(_options(source, marked), indent=1), "utf-8")
    shutil.copyfile(OPENER, folder / OPENER.name)
    for library in source.plan.custom_ops:
        if library.file is not None:
            shutil.copyfile(library.file, folder / library.file.name)


def _annotate(model: onnx.ModelProto, source: Source) -> dict[str, int]:
    """Write each node's device on it and on the nodes of its bodies, and return how many nodes each device has."""
    placement = source.document["placement"]
    placed = [node for node in source.graph.nodes if node.name in placement]
    device_of = {output: placement[node.name] for node in placed for output in node.outputs}
    marked = dict.fromkeys(ANNOTATIONS, 0)
    for node in model.graph.node:
        device = next((device_of[output] for output in node.output if output in device_of), None)
        if device is None:
            continue
        marked[device] += 1
        for inner in _with_bodies(node):
            inner.metadata_props.add(key=KEY, value=ANNOTATIONS[device])
    return marked


def _with_bodies(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    yield node
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from _with_bodies(inner)


def _options(source: Source, marked: dict[str, int]) -> dict[str, Any]:
    libraries = [{"module": one.module, "file": one.file and one.file.name} for one in source.plan.custom_ops]
    config = {SETTING: "; ".join(f"{device}({name})" for device, name in reversed(ANNOTATIONS.items()))}
    return {
        "schema": SCHEMA,
        "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
        "intra_op_num_threads": source.plan.intra_op_threads,
        "config": config | (KEEP_DROPOUT if source.graph.keeps_dropout else {}),
        "custom_ops": libraries,
        "nodes": marked,
    }
