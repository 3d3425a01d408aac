"""Small cascades written as a user writes them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cutset.cascade.document import Document, read_document
from tests.cascades import DOUBLE, composed, open_composed

Write = Callable[..., Document]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a cascade, and files beside it, and reads it."""

    def written(text: str, **files: str) -> Document:
        (tmp_path / "double.onnxtxt").write_text(DOUBLE, "utf-8")
        for name, content in files.items():
            (tmp_path / name.replace("__", ".")).write_text(textwrap.dedent(content), "utf-8")
        path = tmp_path / "p.yaml"
        path.write_text(textwrap.dedent(text), "utf-8")
        return read_document(path)

    return written


@pytest.fixture
def part(write: Write, tmp_path: Path) -> Callable[..., dict[str, np.ndarray]]:
    """Return a function that runs one part on arrays and gives its outputs by name."""

    def run(name: str, outputs: list[str], settings: str = "{}", **arrays: Any) -> dict[str, np.ndarray]:
        lines = [f"  {key}: {{type: {_type(value)}, shape: {_names(key, value)}}}" for key, value in arrays.items()]
        reads = ", ".join(f"{key.removeprefix('in_')}: {key}" for key in arrays)
        text = "inputs:\n" + "\n".join(lines) + f"\nstages:\n  s:\n    part: {name}\n    inputs: {{{reads}}}\n"
        text += f"    with: {settings}\noutputs:\n" + "\n".join(f"  out_{key}: s.{key}" for key in outputs)
        session = open_composed(composed(write(text)), tmp_path)
        found = session.run(None, arrays)
        return dict(zip(outputs, found, strict=True))

    return run


def _type(value: np.ndarray) -> str:
    return "string" if value.dtype.kind in "OU" else str(value.dtype)


def _names(key: str, value: np.ndarray) -> str:
    """Return a shape of names, but for sizes that parts look at: the last of a picture, of boxes."""
    sizes = [f"{key}_{axis}" for axis in range(value.ndim)]
    if value.ndim and value.shape[-1] in {3, 4}:
        sizes[-1] = str(value.shape[-1])
    return f"[{', '.join(sizes)}]"
