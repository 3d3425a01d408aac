"""What plan.json says about the engine of a GPU stage: which library, from which file, for which inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

EngineBackend = Literal["tensorrt", "tensorrt-rtx"]
ENGINE_BACKENDS: tuple[EngineBackend, ...] = ("tensorrt", "tensorrt-rtx")
Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInput:
    """What an engine must take at one input.

    Args:
        name: The input.
        shapes: Least, usual and largest shape.
        values: Least, usual and largest elements, should the input turn out to be a shape; of no account otherwise.
    """

    name: str
    shapes: tuple[Sizes, Sizes, Sizes]
    values: tuple[Sizes, Sizes, Sizes] = ((), (), ())

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> EngineInput:
        """Return the input of a decoded JSON object.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        shapes, values = (_ranges(entry[key]) for key in ("shapes", "values"))
        return cls(name=str(entry["name"]), shapes=shapes, values=values)

    @classmethod
    def fixed(cls, name: str, shape: Sizes, values: Sizes = ()) -> EngineInput:
        """Return an input of exactly one shape."""
        return cls(name=name, shapes=(shape,) * 3, values=(values,) * 3)

    def takes(self, shape: Sizes) -> bool:
        """Return whether an array of this shape is within the range."""
        least, _, most = self.shapes
        return len(shape) == len(least) and all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How to come by the engine of a stage.

    Args:
        backend: Which library runs it.
        model: The ONNX file it is built from, in the engine's precision.
        folder: Where engines are kept.
        precision: ``fp32``, ``tf32``, ``fp16``, ``bf16`` or ``int8``.
        inputs: What it must take.
        sample: One value for each input of the stage, to compare the engine's numbers on; None where there is none.
        tolerance: How far its numbers may be from the stage's ONNX file, over an output's largest magnitude.
    """

    backend: EngineBackend
    model: Path
    folder: Path
    precision: str
    inputs: tuple[EngineInput, ...]
    sample: Path | None = None
    tolerance: float = 0.0

    @classmethod
    def read(cls, entry: Mapping[str, Any], model: Path, folder: Path, sample: Path | None = None) -> EngineConfig:
        """Return the engine of a stage's decoded JSON object.

        Args:
            entry: The object.
            model: Its ``model``, resolved and checked.
            folder: The package's ``engines/``.
            sample: Its ``sample``, resolved and checked, if it has one.

        Raises:
            KeyError, TypeError, ValueError: If it is none.
        """
        if entry["backend"] not in ENGINE_BACKENDS:
            raise ValueError(f"unknown backend {entry['backend']!r}")
        return cls(
            backend=cast("EngineBackend", entry["backend"]),
            model=model,
            folder=folder,
            precision=str(entry["precision"]),
            inputs=tuple(EngineInput.read(given) for given in entry["inputs"]),
            sample=sample,
            tolerance=float(entry.get("tolerance", 0.0)),
        )


def _ranges(three: Any) -> tuple[Sizes, Sizes, Sizes]:
    least, usual, most = (tuple(int(size) for size in sizes) for sizes in three)
    return least, usual, most
