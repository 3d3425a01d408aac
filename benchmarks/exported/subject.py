"""What a model to export is, and the inputs that belong to it. Nothing here imports a framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
Draw = Callable[[int], Arrays]
"""Inputs by an index: 0 is what the model is planned with, 1 to 3 have other sizes and other content."""
Write = Callable[[str, Path], Draw]
"""Write a model to a file with an exporter, and return how to draw the model's inputs."""

EXPORTERS = ("torchscript", "dynamo")
"""Both exporters of torch: the tracer of old, and `torch.export`."""
OTHERS = (1, 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A model and the exporters that can write it.

    Args:
        name: Of the model.
        size: In what the model is smaller than the one that people use.
        write: Writes the file.
        exporters: Names of the exporters.
    """

    name: str
    size: str
    write: Write
    exporters: tuple[str, ...] = EXPORTERS


def generator(index: int) -> np.random.Generator:
    """Return the source of the values of an index."""
    return np.random.default_rng(1000 + index)


def images(name: str, sizes: Mapping[int, tuple[int, ...]], *, spread: float = 1.0) -> Draw:
    """Return inputs of smooth random pictures: blobs, so that neighbours are alike as in a photo."""

    def draw(index: int) -> Arrays:
        rng, shape = generator(index), sizes[index]
        height, width = shape[-2:]
        coarse = rng.random((*shape[:-2], height // 16 + 2, width // 16 + 2))
        fine = np.kron(coarse, np.ones((16, 16)))[..., :height, :width]
        return {name: (spread * (0.8 * fine + 0.2 * rng.random(shape))).astype(np.float32)}

    return draw


def batches(shape: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Return sizes that differ in the batch."""
    return {index: (batch, *shape) for index, batch in enumerate((1, 2, 3, 5))}


def pictures(scale: int = 32) -> dict[int, tuple[int, ...]]:
    """Return sizes of one picture without a batch, all a multiple of a scale."""
    return {index: (3, height * scale, width * scale) for index, (height, width) in enumerate(((5, 6), (4, 4), (6, 4), (3, 7)))}
