"""The files of a cascade that ships as a sample: its YAML and what that names beside it."""

from __future__ import annotations

from pathlib import Path

from cutset.cascade.compose import Composed, compose
from cutset.cascade.document import Document, read_document
from cutset.cascade.stages import TEXT_SUFFIX
from cutset.sample_models import registry

FOLDER = Path(__file__).with_name("cascades")


def read(name: str) -> tuple[bytes, dict[str, bytes]]:
    """Return the YAML of a cascade, and the other files it needs by name."""
    document = document_of(name)
    others = {stage.what for stage in document.stages.values() if stage.what.endswith(TEXT_SUFFIX)}
    others |= {f"{stage.what.partition(':')[0]}.py" for stage in document.stages.values() if stage.kind == "python"}
    return document.path.read_bytes(), {other: (FOLDER / other).read_bytes() for other in sorted(others)}


def document_of(name: str) -> Document:
    """Return a cascade as it is written."""
    return read_document(FOLDER / f"{name}.yaml")


def composed(name: str) -> Composed:
    """Return a cascade as one model, with its Python functions.

    Raises:
        UnavailableError: If one of its models cannot be had.
    """
    return compose(document_of(name), registry.build, name=name)
