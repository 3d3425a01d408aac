"""`face-crops`: a detector of faces, as many crops as it finds, and a second network that looks at each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.sample_models import cascade_files, media
from cutset.sample_models.orientation_jpeg import LABELS


def build(*, seed: int = 0) -> onnx.ModelProto:
    """Return the cascade as one model: `photo`, the bytes of a JPEG file, to `boxes`, `scores`, `upright`, `dropped`.

    Args:
        seed: Not used, the weights being trained; every builder takes one.
    """
    del seed
    return cascade_files.composed("face-crops").model


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return a photo as a JPEG file; the first of the four photos shows a face, the others none.

    Raises:
        UnavailableError: If Pillow, which comes with scikit-image, is missing.
    """
    return {"photo": media.jpeg(media.photo(seed))}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return where the faces are and which way up, as a sentence."""
    faces = [
        f"({', '.join(f'{edge:.0f}' for edge in box)}) with {score:.2f}, turned by {LABELS[int(np.argmax(turn))]}"
        for box, score, turn in zip(outputs["boxes"], outputs["scores"], outputs["upright"], strict=True)
    ]
    return f"{len(faces)} face(s): {'; '.join(faces)}" if faces else "no face"
