"""Cascades for the tests: composed, and opened as they are served."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from cutset.cascade.compose import Composed, compose
from cutset.cascade.document import Document
from cutset.errors import UsageError
from cutset.profilers.session import register_libraries

DOUBLE = """<ir_version: 8, opset_import: ["" : 13]>
double (float[rows, 3] x) => (float[rows, 3] y) { y = Add (x, x) }"""
"""A model that any number of rows can go through, none included."""


def no_samples(name: str) -> onnx.ModelProto:
    raise UsageError(f"no sample is called `{name}`")


def composed(document: Document) -> Composed:
    return compose(document, no_samples, name="p")


def open_composed(made: Composed, folder: Path) -> ort.InferenceSession:
    libraries = []
    if made.hooks is not None:
        archive = folder / "p.pyz"
        archive.write_bytes(made.hooks.archive())
        libraries = [str(archive)]
    elif any(entry.domain not in {"", "ai.onnx"} for entry in made.model.opset_import):
        libraries = [pytest.importorskip("onnxruntime_extensions").get_library_path()]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    register_libraries(options, libraries)
    return ort.InferenceSession(made.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
