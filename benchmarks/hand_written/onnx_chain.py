"""What both chains of models written by hand share: sessions, a decoder, a resize, suppression in numpy.

Decoding, resizing and cutting boxes are sessions of one operator, as numpy has none of them; all else is numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_extensions

EXTENSIONS = "com.microsoft.extensions"


@dataclass(frozen=True, kw_only=True)
class Threads:
    """How the sessions of a script compute: each has threads of its own, which spin while they wait unless told not to."""

    count: int
    spinning: bool = True


def session(model: onnx.ModelProto, threads: Threads) -> ort.InferenceSession:
    """Return a session as a script opens it."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads.count
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(threads.spinning)))
    options.register_custom_ops_library(onnxruntime_extensions.get_library_path())
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def text_session(signature: str, body: str, threads: Threads) -> ort.InferenceSession:
    """Return a session of one operator."""
    header = f'<ir_version: 8, opset_import: ["" : 18, "{EXTENSIONS}" : 1]>'
    return session(onnx.parser.parse_model(f"{header}\none {signature} {{ {body} }}"), threads)


class Pictures:
    """Bytes to pixels, and pixels to other sizes."""

    def __init__(self, threads: Threads) -> None:
        self._decode = text_session(
            "(uint8[n] file) => (uint8[h, w, 3] image)", f"image = {EXTENSIONS}.DecodeImage (file)", threads
        )
        self._resize = {policy: _resize_session(policy, threads) for policy in ("not_larger", "not_smaller")}

    def decode(self, file: np.ndarray) -> np.ndarray:
        """Return blue-green-red pixels."""
        return self._decode.run(None, {"file": file})[0]

    def resize(self, image: np.ndarray, height: int, width: int, policy: str) -> np.ndarray:
        """Return the picture, its shape kept, at the size that is not larger or not smaller than what is given."""
        feeds = {"image": np.ascontiguousarray(image), "sizes": np.array([height, width])}
        return self._resize[policy].run(None, feeds)[0]

    def letterbox(self, image: np.ndarray, height: int, width: int, fill: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the picture in its frame, and offset and scale (x, y, x, y) that lead back."""
        small = self.resize(image, height, width, "not_larger")
        high, wide = small.shape[:2]
        top, left = (height - high) // 2, (width - wide) // 2
        framed = np.full((height, width, 3), fill, np.uint8)
        framed[top : top + high, left : left + wide] = small
        scale = max(image.shape[0] / height, image.shape[1] / width)
        return framed, np.array([left, top] * 2, np.float32), np.full(4, scale, np.float32)


def _resize_session(policy: str, threads: Threads) -> ort.InferenceSession:
    attributes = f'mode = "linear", antialias = 1, axes = [0, 1], keep_aspect_ratio_policy = "{policy}"'
    signature = "(uint8[h, w, 3] image, int64[2] sizes) => (uint8[H, W, 3] out)"
    return text_session(signature, f'out = Resize <{attributes}> (image, "", "", sizes)', threads)


def tensor(image: np.ndarray, scale: float, mean: list[float], std: list[float]) -> np.ndarray:
    """Return pixels [h, w, 3] as [1, 3, h, w], scaled, without their mean, over their deviation."""
    pixels = (image.astype(np.float32) * np.float32(scale) - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], dtype=np.float32)


def suppress(boxes: np.ndarray, scores: np.ndarray, iou: float, score: float) -> list[int]:
    """Return indices of the boxes that stay, the surest first."""
    order = [index for index in np.argsort(-scores, kind="stable") if scores[index] > score]
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order:
        best = order.pop(0)
        kept.append(int(best))
        rest = np.array(order, np.int64)
        near, far = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(far - near, 0), axis=1)
        order = [index for index, same in zip(order, shared / (areas[best] + areas[rest] - shared), strict=True) if same <= iou]
    return kept


def restore(boxes: np.ndarray, offset: np.ndarray, scale: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Return boxes of a letterboxed picture in the picture itself."""
    limit = np.array([image.shape[1], image.shape[0]] * 2, np.float32)
    return np.clip((boxes.reshape(-1, 4) - offset) * scale, 0, limit).astype(np.float32)
