"""The steps of `benchmarks.exports` that run in a process of their own; each writes one line of JSON on stdout.

usage: python -m benchmarks.exported.child list
       python -m benchmarks.exported.child export FAMILY NAME EXPORTER FOLDER
       python -m benchmarks.exported.child load MODEL
       python -m benchmarks.exported.child compare FOLDER PACKAGE
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks.exported.subject import OTHERS
from cutset.codegen.numerics import compare as compare_outputs
from cutset.graph.load import load as load_model

FAMILIES = ("vision", "yolo", "text", "tables", "reduced")
MODEL = "model.onnx"
SAMPLE = "model.npz"


def list_subjects() -> dict[str, Any]:
    """Return the models that can be exported here, and of each family that cannot, what is missing."""
    subjects, missing = [], {}
    for family in FAMILIES:
        try:
            module = importlib.import_module(f"benchmarks.exported.{family}")
        except ImportError as error:
            missing[family] = str(error)
            continue
        subjects += [
            {"family": family, "name": subject.name, "size": subject.size, "exporter": exporter}
            for subject in module.SUBJECTS
            for exporter in subject.exporters
        ]
    return {"subjects": subjects, "missing": missing}


def export(family: str, name: str, exporter: str, folder: str) -> dict[str, Any]:
    """Export a model, and write inputs beside it: a sample to plan with and others to compare with."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    subjects = importlib.import_module(f"benchmarks.exported.{family}").SUBJECTS
    subject = next(subject for subject in subjects if subject.name == name)
    draw = subject.write(exporter, place / MODEL)
    names = _inputs(place / MODEL)
    for index in (0, *OTHERS):
        drawn = {key: array for key, array in draw(index).items() if key in names}  # an exporter leaves out what is not used
        np.savez(place / (SAMPLE if index == 0 else f"other_{index}.npz"), **drawn)
    return {"size_bytes": (place / MODEL).stat().st_size}


def _inputs(model: Path) -> set[str]:
    graph = onnx.load(model, load_external_data=False).graph
    return {value.name for value in graph.input}


def load(model: str) -> dict[str, Any]:
    """Load a model as `cutset partition` does, and return the seconds and the number of nodes."""
    start = time.perf_counter()
    graph = load_model(Path(model))
    return {"load_s": time.perf_counter() - start, "nodes": len(graph.placeable)}


def compare(folder: str, package: str) -> dict[str, Any]:
    """Run a package and onnxruntime on the whole model, and return how far they are apart on the other inputs."""
    place, found = Path(folder), []
    session = onnxruntime.InferenceSession(place / MODEL, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    sys.path.insert(0, str(Path(package).parent))
    with importlib.import_module(Path(package).name).Pipeline.load() as pipeline:
        for index in OTHERS:
            with np.load(place / f"other_{index}.npz") as arrays:
                inputs = dict(arrays)
            expected = dict(zip(outputs, session.run(outputs, inputs), strict=True))
            actual = pipeline.run(inputs)
            found += [(index, compare_outputs(name, expected[name], actual[name]), expected[name]) for name in outputs]
    return {
        "max_abs": max(item.max_abs for _, item, _ in found),
        "max_rel": max(item.max_rel for _, item, _ in found),
        "unequal": [f"inputs {index}: {item.name}: {item.reason}" for index, item, _ in found if item.reason],
        "values": sum(value.size for _, _, value in found if isinstance(value, np.ndarray)),
        "types": sorted({str(value.dtype) for _, _, value in found if isinstance(value, np.ndarray)}),
    }


STEPS: dict[str, Callable[..., dict[str, Any]]] = {"list": list_subjects, "export": export, "load": load, "compare": compare}


def main() -> None:
    """Do one step; what libraries print goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    found = STEPS[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(found, allow_nan=True), file=out)


if __name__ == "__main__":
    main()
