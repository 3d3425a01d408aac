"""`documents`: three networks read a page at once; what follows each of them has another number of rows for every page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.sample_models import cascade_files, media
from cutset.sample_models.orientation_jpeg import LABELS

REGIONS = (
    "text", "title", "figure", "figure caption", "table", "table caption", "header", "footer", "reference", "equation",
)  # fmt: skip
"""Classes of the layout network, in the order of its scores."""


def build(*, seed: int = 0) -> onnx.ModelProto:
    """Return the cascade as one model: `photo`, the bytes of a JPEG file, to the page's turn, lines and regions.

    One node is the Python function of `cutset.sample_models.cascades.text_lines`, which needs its archive to run.

    Args:
        seed: Not used, the weights being trained; every builder takes one.
    """
    del seed
    return cascade_files.composed("documents").model


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return a printed page as a JPEG file; the seed turns it clockwise by quarters.

    Raises:
        UnavailableError: If Pillow, which comes with scikit-image, is missing.
    """
    return {"photo": media.jpeg(np.rot90(media.page(), -seed))}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return what is on the page, as a sentence."""
    counts = Counter(REGIONS[int(index)] for index in outputs["region_classes"])
    regions = ", ".join(f"{count} {name}" for name, count in counts.items()) or "no region"
    return f"turned by {LABELS[int(outputs['turn'].item())]} degrees; {len(outputs['lines'])} lines of text; {regions}"
