"""Lines of text out of the heat map of a text detector: connected regions, which ONNX has no operator for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

THRESHOLD = 0.3
SURE = 0.5
GROWTH = 1.6
SMALLEST = 3
"""Of the package the detector comes in; a box grows because the detector is trained on lines shrunk by as much."""

Floats = npt.NDArray[np.float32]


def lines(heat: Floats) -> tuple[Floats, Floats]:
    """Return boxes [n, 4] (x1, y1, x2, y2 in pixels of the map) and scores [n], from the top of the map down.

    Args:
        heat: Chance that a pixel is text, [1, 1, height, width].

    Source:
        Liao et al., "Real-time Scene Text Detection with Differentiable Binarization", AAAI 2020, with upright boxes.
    """
    chance = heat[0, 0]
    height, width = chance.shape
    labels, count = ndimage.label(chance > THRESHOLD)
    boxes, scores = [], []
    for place in ndimage.find_objects(labels, count):
        rows, columns = place
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        score = float(chance[place].mean())
        if min(high, wide) < SMALLEST or score < SURE:
            continue
        grow = GROWTH * high * wide / (2 * (high + wide))
        boxes.append((columns.start - grow, rows.start - grow, columns.stop + grow, rows.stop + grow))
        scores.append(score)
    limits = np.array([width, height, width, height], np.float32)
    found = np.clip(np.array(boxes, np.float32).reshape(-1, 4), 0, limits)
    return found, np.array(scores, np.float32)
