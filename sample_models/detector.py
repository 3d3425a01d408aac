"""`detector`: letterbox on the CPU, a YOLO-like network for the GPU, then boxes whose number is known only at run time.

Two cuts offer themselves: before the network (antialiased resize, computed pads) and after it (non-maximum suppression
has a dynamic output). The weights are seeded noise: boxes do appear, what they enclose means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.sample_models.graph_writer import GraphWriter, value
from cutset.sample_models.media import photo

SIDE = 320
CLASSES = 20
PAD_VALUE = 114
STRIDES = (8, 16, 32)

_CHANNELS = (24, 48, 96, 192, 384)
_REPEATS = (1, 2, 2, 1)
_SILU_POWER = 0.355  # mean square of SiLU of a standard normal
_BIAS_SHARE = 0.3  # of each layer's variance. SiLU stretches large values and shrinks small ones: weights alone would
# make the activations explode or vanish with the photo's contrast, a fixed part in each layer holds them near one
_BOXES_PER_CLASS = 10
_IOU = 0.5
_SCORE = 0.4
_CLASS_BIAS = -3.5  # few enough positions pass _SCORE that suppression has a choice to make
_DISTANCE_BIAS = 2.0  # boxes a few cells wide


def build(*, seed: int = 0) -> onnx.ModelProto:
    """Return the model: `image` uint8 [height, width, 3] to `boxes`, `scores` and `classes`, one row a detection.

    Boxes are x1, y1, x2, y2 in pixels of the photo given, clipped to it. A photo may have no detection. Sides may
    differ by a factor of up to 640, past which the letterboxed photo would have no pixel left across. The network is
    4.3 million weights and 1.25 billion multiply-adds.

    Args:
        seed: Of the weights; the same seed gives the same bytes.

    Source:
        The layout is that of the YOLO family: cross-stage partial blocks (Wang et al., "CSPNet", CVPRW 2020), spatial
        pyramid pooling, and a head that gives the four distances to a box's sides (Tian et al., "FCOS", ICCV 2019).
    """
    writer = GraphWriter("detector")
    letterboxed, extent, resized, pads = _letterbox(writer, "image")
    levels = _Network(writer, np.random.default_rng(seed)).levels(letterboxed)
    boxes, scores = _decode(writer, levels)
    found = _suppress(writer, boxes, scores)
    _to_photo(writer, found, extent, resized, pads)
    count = "num_detections"
    return writer.model(
        [value("image", np.uint8, ["height", "width", 3])],
        [
            value("boxes", np.float32, [count, 4]),
            value("scores", np.float32, [count]),
            value("classes", np.int64, [count]),
        ],
    )


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return one photo; another seed gives another photo of another size."""
    return {"image": photo(seed)}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the number of boxes and the surest one as a sentence."""
    scores = outputs["scores"]
    if not len(scores):
        return "no box scores enough"
    best = int(scores.argmax())
    corners = ", ".join(f"{edge:.0f}" for edge in outputs["boxes"][best])
    surest = f"class {outputs['classes'][best]} at ({corners}) with {scores[best]:.2f}"
    return f"{len(scores)} boxes, the surest {surest}; the weights are random"


def _letterbox(writer: GraphWriter, image: str) -> tuple[str, str, str, str]:
    """Return the [1, 3, 320, 320] network input, then three pairs: size before, size after, and top and left pad."""
    sizes = writer.constant("pre/sizes", [SIDE, SIDE], np.int64)
    resized = writer.node(
        "Resize",
        [image, "", "", sizes],
        "pre/resize",
        mode="linear",
        antialias=1,
        axes=[0, 1],
        keep_aspect_ratio_policy="not_larger",
    )
    before = writer.node("Shape", [image], "pre/extent", start=0, end=2)
    after = writer.node("Shape", [resized], "pre/resized_extent", start=0, end=2)
    spare = writer.node("Sub", [sizes, after], "pre/spare")
    first = writer.node("Div", [spare, writer.constant("pre/two", [2], np.int64)], "pre/pad_first")
    pads = writer.node("Concat", [first, writer.node("Sub", [spare, first], "pre/pad_last")], "pre/pads", axis=0)
    grey = writer.constant("pre/grey", PAD_VALUE, np.uint8)
    square = writer.node("Pad", [resized, pads, grey, writer.constant("pre/pad_axes", [0, 1], np.int64)], "pre/pad")
    planes = writer.node("Transpose", [square], "pre/to_chw", perm=[2, 0, 1])
    known = writer.constant("pre/network_shape", [1, 3, SIDE, SIDE], np.int64)
    batch = writer.node("Reshape", [planes, known], "pre/batch")
    real = writer.node("Cast", [batch], "pre/to_float", to=onnx.TensorProto.FLOAT)
    centred = writer.node("Sub", [real, writer.constant("pre/middle", 127.5, np.float32)], "pre/centre")
    unit = writer.node("Div", [centred, writer.constant("pre/spread", 64, np.float32)], "pre/normalise")
    return unit, before, after, first


class _Network:
    """Writes the backbone, the neck and the heads."""

    def __init__(self, writer: GraphWriter, rng: np.random.Generator) -> None:
        self._writer = writer
        self._rng = rng

    def levels(self, image: str) -> list[str]:
        """Return the raw outputs [1, 4 + classes, h, w] of strides 8, 16 and 32."""
        first, *deeper = _CHANNELS
        x = self._conv(image, "stem", (3, first, 3, 2), power=1.0)
        stages: list[str] = []
        channels = first
        for index, (out, repeats) in enumerate(zip(deeper, _REPEATS, strict=True), start=1):
            x = self._conv(x, f"stage{index}/down", (channels, out, 3, 2))
            x = self._csp(x, f"stage{index}", (out, out), repeats)
            stages.append(x)
            channels = out
        small, middle, large = stages[1], stages[2], self._pyramid(stages[3], channels)
        c3, c4, c5 = deeper[1:]
        middle = self._merge(large, middle, "neck/middle", (c5, c4))
        small = self._merge(middle, small, "neck/small", (c4, c3))
        return [
            self._head(level, f"head/{stride}", channels)
            for level, stride, channels in zip((small, middle, large), STRIDES, (c3, c4, c5), strict=True)
        ]

    def _csp(self, x: str, name: str, shape: tuple[int, int], repeats: int) -> str:
        """Return a cross-stage partial block: half the channels pass `repeats` residual blocks, half go around them."""
        (channels, out), half = shape, shape[1] // 2
        around = self._conv(x, f"{name}/around", (channels, half, 1, 1))
        inner = self._conv(x, f"{name}/inner", (channels, half, 1, 1))
        for repeat in range(repeats):
            step = self._conv(inner, f"{name}/{repeat}/a", (half, half, 1, 1))
            step = self._conv(step, f"{name}/{repeat}/b", (half, half, 3, 1), gain=0.5)
            inner = self._writer.node("Add", [inner, step], f"{name}/{repeat}/add")
        both = self._writer.node("Concat", [inner, around], f"{name}/both", axis=1)
        return self._conv(both, f"{name}/out", (2 * half, out, 1, 1))

    def _pyramid(self, x: str, channels: int) -> str:
        """Return `x` seen through windows of 1, 5, 9 and 13 cells."""
        half = channels // 2
        views = [self._conv(x, "pyramid/in", (channels, half, 1, 1))]
        for index in range(3):
            name = f"pyramid/pool{index}"
            views.append(self._writer.node("MaxPool", [views[-1]], name, kernel_shape=[5, 5], pads=[2, 2, 2, 2]))
        stacked = self._writer.node("Concat", views, "pyramid/stack", axis=1)
        return self._conv(stacked, "pyramid/out", (4 * half, channels, 1, 1))

    def _merge(self, coarse: str, fine: str, name: str, channels: tuple[int, int]) -> str:
        """Return `fine` joined by what the coarser level saw."""
        scales = self._writer.constant(f"{name}/scales", [1, 1, 2, 2], np.float32)
        wide = self._writer.node(
            "Resize",
            [coarse, "", scales],
            f"{name}/up",
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        joined = self._writer.node("Concat", [wide, fine], f"{name}/join", axis=1)
        return self._csp(joined, name, (sum(channels), channels[1]), 1)

    def _head(self, x: str, name: str, channels: int) -> str:
        x = self._conv(x, f"{name}/conv", (channels, channels, 3, 1))
        weight = self._noise((4 + CLASSES, channels, 1, 1), 1 / np.sqrt(_SILU_POWER * channels))
        bias = np.repeat([_DISTANCE_BIAS, _CLASS_BIAS], [4, CLASSES])
        inputs = [x, self._constant(f"{name}/weight", weight), self._constant(f"{name}/bias", bias)]
        return self._writer.node("Conv", inputs, f"{name}/raw", kernel_shape=[1, 1])

    def _conv(
        self, x: str, name: str, shape: tuple[int, int, int, int], *, power: float = _SILU_POWER, gain: float = 1.0
    ) -> str:
        """Return a convolution, of unit variance, and its SiLU; `shape` is channels in and out, kernel, stride."""
        channels, out, kernel, stride = shape
        spread = gain * np.sqrt((1 - _BIAS_SHARE) / (power * channels * kernel * kernel))
        weight = self._constant(f"{name}/weight", self._noise((out, channels, kernel, kernel), spread))
        bias = self._constant(f"{name}/bias", self._noise((out,), gain * np.sqrt(_BIAS_SHARE)))
        raw = self._writer.node(
            "Conv",
            [x, weight, bias],
            f"{name}/conv",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )
        gate = self._writer.node("Sigmoid", [raw], f"{name}/gate")
        return self._writer.node("Mul", [raw, gate], f"{name}/silu")

    def _constant(self, name: str, array: npt.NDArray[Any]) -> str:
        return self._writer.constant(name, array, np.float32)

    def _noise(self, shape: tuple[int, ...], spread: float) -> npt.NDArray[np.float32]:
        return self._rng.standard_normal(shape, dtype=np.float32) * np.float32(spread)


def _decode(writer: GraphWriter, levels: Sequence[str]) -> tuple[str, str]:
    """Return boxes [1, cells, 4] in letterbox pixels and scores [1, classes, cells]."""
    flat_shape = writer.constant("decode/flat_shape", [1, 4 + CLASSES, -1], np.int64)
    flat = [writer.node("Reshape", [raw, flat_shape], f"decode/{stride}") for raw, stride in zip(levels, STRIDES, strict=True)]
    cells = writer.node("Concat", flat, "decode/cells", axis=2)
    split = writer.constant("decode/split", [2, 2, CLASSES], np.int64)
    parts = writer.nodes("Split", [cells, split], ["decode/near", "decode/far", "decode/class"], axis=1)
    centres, strides = _grid()
    stride = writer.constant("decode/stride", strides, np.float32)
    centre = writer.constant("decode/centre", centres, np.float32)
    corners = []
    for part, turn in zip(parts[:2], ("Sub", "Add"), strict=True):
        distance = writer.node("Softplus", [part], f"{part}/softplus")
        pixels = writer.node("Mul", [distance, stride], f"{part}/pixels")
        corners.append(writer.node(turn, [centre, pixels], f"{part}/corner"))
    joined = writer.node("Concat", corners, "decode/corners", axis=1)
    boxes = writer.node("Transpose", [joined], "decode/boxes", perm=[0, 2, 1])
    return boxes, writer.node("Sigmoid", [parts[2]], "decode/scores")


def _grid() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the cells' centres [1, 2, cells] (x, y) and strides [1, 1, cells], in pixels, finest level first."""
    centres, strides = [], []
    for stride in STRIDES:
        at = (np.arange(SIDE // stride) + 0.5) * stride
        y, x = np.meshgrid(at, at, indexing="ij")
        centres.append(np.stack([x.ravel(), y.ravel()]))
        strides.append(np.full((1, x.size), float(stride)))
    return np.concatenate(centres, axis=1)[None], np.concatenate(strides, axis=1)[None]


def _suppress(writer: GraphWriter, boxes: str, scores: str) -> str:
    """Return the surviving boxes [n, 4] in letterbox pixels; write `scores` and `classes` of them."""
    limits = [
        writer.constant("nms/boxes_per_class", [_BOXES_PER_CLASS], np.int64),
        writer.constant("nms/iou", [_IOU], np.float32),
        writer.constant("nms/score", [_SCORE], np.float32),
    ]
    chosen = writer.node("NonMaxSuppression", [boxes, scores, *limits], "nms/chosen")  # rows: photo, class, cell
    writer.node("GatherND", [scores, chosen], "scores")
    writer.node("Gather", [chosen, writer.constant("nms/class_column", 1, np.int64)], "classes", axis=1)
    cells = writer.node("Gather", [chosen, writer.constant("nms/cell_column", 2, np.int64)], "nms/cells", axis=1)
    only = writer.node("Squeeze", [boxes, writer.constant("nms/photo_axis", [0], np.int64)], "nms/photo")
    return writer.node("Gather", [only, cells], "nms/boxes", axis=0)


def _to_photo(writer: GraphWriter, found: str, extent: str, resized: str, pads: str) -> None:
    """Write `boxes`: the found boxes moved, scaled and clipped into the photo given."""
    columns = writer.constant("post/xyxy", [1, 0, 1, 0], np.int64)  # height, width -> width, height, width, height

    def spread(pair: str, name: str) -> str:
        four = writer.node("Gather", [pair, columns], f"post/{name}_xyxy", axis=0)
        return writer.node("Cast", [four], f"post/{name}", to=onnx.TensorProto.FLOAT)

    photo_size, network_size, offset = spread(extent, "photo"), spread(resized, "resized"), spread(pads, "pad")
    scale = writer.node("Div", [photo_size, network_size], "post/scale")
    moved = writer.node("Sub", [found, offset], "post/moved")
    scaled = writer.node("Mul", [moved, scale], "post/scaled")
    positive = writer.node("Max", [scaled, writer.constant("post/zero", 0, np.float32)], "post/positive")
    writer.node("Min", [positive, photo_size], "boxes")
