"""Engines on disk. They are a cache: an engine that was built for something else is never used, only replaced.

``engines/engines.json`` lists them, each under the digest of all that an engine depends on.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..engine_config import EngineConfig

SCHEMA = "cutset.engines/1"
MANIFEST = "engines.json"
_LIBRARY_NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Library and GPU that an engine is for.

    Args:
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Of the library.
        compute_capability: Such as ``8.9``.
        gpu: Name of the GPU; empty for an engine built ahead of time, which runs on all of that compute capability.
        driver: Version of the driver; empty likewise.
    """

    backend: str
    version: str
    compute_capability: str
    gpu: str = ""
    driver: str = ""

    def __str__(self) -> str:
        about = [f"{_LIBRARY_NAMES[self.backend]} {self.version}", f"compute capability {self.compute_capability}"]
        return ", ".join([*about, *([self.gpu, f"driver {self.driver}"] if self.gpu else ["any GPU of it"])])


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One engine of the manifest: its key, what the key is made of, and its file."""

    key: str
    stage: int
    made_of: Mapping[str, Any]
    file: str
    sha256: str
    size_bytes: int
    build_s: float

    @property
    def builder(self) -> Builder:
        """Library and GPU it was built for."""
        return Builder(**{name: str(self.made_of[name]) for name in Builder.__slots__})


def ingredients(engine: EngineConfig, builder: Builder) -> dict[str, Any]:
    """Return what an engine depends on: the part, its precision, the shapes, the library, the GPU and the driver."""
    return {
        "part": part_digest(engine.model),
        "precision": engine.precision,
        "inputs": [asdict(given) for given in engine.inputs],
        **asdict(builder),
    }


def key_of(made_of: Mapping[str, Any]) -> str:
    """Return the digest of `ingredients`."""
    return hashlib.sha256(json.dumps(made_of, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def part_digest(model: Path) -> str:
    """Return the SHA-256 of an ONNX file and of the weights beside it."""
    digest = hashlib.sha256()
    for path in (model, model.with_name(model.name + ".data")):
        if path.is_file():
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


class EngineCache:
    """The engines of one package.

    Args:
        folder: ``engines/`` of the package.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def entries(self) -> list[EngineEntry]:
        """Return what the manifest lists; nothing where there is none, or none that can be read."""
        try:
            document = json.loads((self.folder / MANIFEST).read_text("utf-8"))
            return [EngineEntry(**entry) for entry in document["engines"]] if document["schema"] == SCHEMA else []
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def find(self, key: str) -> bytes | None:
        """Return the engine under a key, None where there is none or its file is not what was written."""
        for entry in self.entries():
            if entry.key == key:
                try:
                    data = (self.folder / Path(entry.file).name).read_bytes()
                except OSError:
                    return None
                return data if hashlib.sha256(data).hexdigest() == entry.sha256 else None
        return None

    def add(self, stage: int, made_of: Mapping[str, Any], engine: Path, build_s: float) -> EngineEntry:
        """Move a built engine into the cache, replacing the one under the same key, and return its entry."""
        key = key_of(made_of)
        data = engine.read_bytes()
        name = f"{stage:02d}-{key[:16]}.engine"
        entry = EngineEntry(
            key=key, stage=stage, made_of=dict(made_of), file=name, sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data), build_s=round(build_s, 3),
        )  # fmt: skip
        self.folder.mkdir(parents=True, exist_ok=True)
        engine.replace(self.folder / name)
        kept = [other for other in self.entries() if other.key != key]
        self._write(sorted([*kept, entry], key=lambda one: (one.stage, one.key)))
        return entry

    def why_none(self, stage: int, made_of: Mapping[str, Any]) -> str:
        """Return in words why no engine of the cache fits."""
        there = [entry for entry in self.entries() if entry.stage == stage]
        if not there:
            return "no engine was built"
        if all(entry.made_of.get("part") != made_of["part"] for entry in there):
            return "the engine is of another version of this stage"
        wanted = Builder(**{name: str(made_of[name]) for name in Builder.__slots__})
        return f"the engine is for {'; '.join(str(entry.builder) for entry in there)}, and this is {wanted}"

    def _write(self, entries: list[EngineEntry]) -> None:
        text = json.dumps({"schema": SCHEMA, "engines": [asdict(entry) for entry in entries]}, indent=1)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=MANIFEST)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(self.folder / MANIFEST)
