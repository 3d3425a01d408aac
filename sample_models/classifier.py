"""`classifier`: photo pre-processing that stays on the CPU, then a ResNet-50 that is worth a GPU.

TensorRT refuses the antialiased resize with its aspect-ratio policy and the sizes known only at run time, so the cut
between the two halves is real. The weights are seeded noise: times and shapes are a ResNet's, the classes mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.sample_models.graph_writer import GraphWriter, value
from cutset.sample_models.media import photo

CLASSES = 1000
TOP = 5
CROP = 224
SHORT_SIDE = 256
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4
_LAST_GAIN = 0.3  # scale of each residual branch: sixteen of them must not make the activations explode


def build(*, seed: int = 0, width: float = 1.0) -> onnx.ModelProto:
    """Return the model: `image` uint8 [height, width, 3] to `probabilities` and `classes`, both [1, 5].

    The photo's shorter side is brought to 256 pixels (antialiased, as Pillow does), the middle 224 x 224 is cut out and
    normalised with the ImageNet statistics. Batch normalisation is kept as nodes, with running statistics near those
    the layers really produce.

    Args:
        seed: Of the weights; the same seed gives the same bytes.
        width: Factor on the channel counts; 1.0 is ResNet-50 (25.6 million weights, 4.1 billion multiply-adds).

    Source:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; stride on the 3 x 3 as in v1.5.
    """
    writer = GraphWriter("classifier")
    features = _ResNet(writer, np.random.default_rng(seed), width).features(_preprocess(writer, "image"))
    probabilities = writer.node("Softmax", [features], "head/softmax", axis=1)
    top = writer.constant("head/k", [TOP], np.int64)
    writer.nodes("TopK", [probabilities, top], ["probabilities", "classes"], axis=1)
    return writer.model(
        [value("image", np.uint8, ["height", "width", 3])],
        [value("probabilities", np.float32, [1, TOP]), value("classes", np.int64, [1, TOP])],
    )


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return one photo; another seed gives another photo of another size."""
    return {"image": photo(seed)}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the five classes as a sentence."""
    classes, probabilities = outputs["classes"][0], outputs["probabilities"][0]
    ranked = ", ".join(f"{index} ({share:.3f})" for index, share in zip(classes, probabilities, strict=True))
    return f"the classes are, surest first, {ranked}; the weights are random"


def _preprocess(writer: GraphWriter, image: str) -> str:
    sizes = writer.constant("pre/sizes", [SHORT_SIDE, SHORT_SIDE], np.int64)
    resized = writer.node(
        "Resize",
        [image, "", "", sizes],
        "pre/resize",
        mode="linear",
        antialias=1,
        axes=[0, 1],
        keep_aspect_ratio_policy="not_smaller",
    )
    cropped = _centre_crop(writer, resized)
    planes = writer.node("Transpose", [cropped], "pre/to_chw", perm=[2, 0, 1])
    batch = writer.node("Unsqueeze", [planes, writer.constant("pre/batch_axis", [0], np.int64)], "pre/batch")
    real = writer.node("Cast", [batch], "pre/to_float", to=onnx.TensorProto.FLOAT)
    unit = writer.node("Mul", [real, writer.constant("pre/one_255th", 1 / 255, np.float32)], "pre/to_unit")
    channel = (1, 3, 1, 1)
    mean = writer.constant("pre/mean", np.reshape(MEAN, channel), np.float32)
    std = writer.constant("pre/std", np.reshape(STD, channel), np.float32)
    return writer.node("Div", [writer.node("Sub", [unit, mean], "pre/centre"), std], "pre/normalise")


def _centre_crop(writer: GraphWriter, resized: str) -> str:
    crop = writer.constant("pre/crop_size", [CROP, CROP], np.int64)
    extent = writer.node("Shape", [resized], "pre/extent", start=0, end=2)
    spare = writer.node("Sub", [extent, crop], "pre/spare")
    start = writer.node("Div", [spare, writer.constant("pre/two", [2], np.int64)], "pre/crop_start")
    end = writer.node("Add", [start, crop], "pre/crop_end")
    axes = writer.constant("pre/crop_axes", [0, 1], np.int64)
    return writer.node("Slice", [resized, start, end, axes], "pre/crop")


class _ResNet:
    """Writes the layers and follows the mean square of the activations, from which the statistics are set."""

    def __init__(self, writer: GraphWriter, rng: np.random.Generator, width: float) -> None:
        self._writer = writer
        self._rng = rng
        self._planes = [max(8, round(planes * width)) for planes in (64, 128, 256, 512)]

    def features(self, image: str) -> str:
        """Return the name of the [1, 1000] logits of a normalised [1, 3, 224, 224] image."""
        writer, channels = self._writer, self._planes[0]
        x = writer.node("Relu", [self._conv_norm(image, "stem", (3, channels, 7, 2), 1.0)], "stem/relu")
        x = writer.node("MaxPool", [x], "stem/pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        power = 1.0
        for index, (planes, blocks) in enumerate(zip(self._planes, _BLOCKS, strict=True), start=1):
            for block in range(blocks):
                stride = 2 if block == 0 and index > 1 else 1
                x, power = self._bottleneck(x, f"layer{index}/{block}", (channels, planes, stride), power)
                channels = planes * _EXPANSION
        pooled = writer.node("Flatten", [writer.node("GlobalAveragePool", [x], "head/pool")], "head/flatten", axis=1)
        spread = 1.4 / np.sqrt(channels * power)  # logits of a standard deviation near one: no class takes it all
        weight = self._noise((CLASSES, channels), spread)
        inputs = [pooled, writer.constant("head/weight", weight, np.float32)]
        inputs.append(writer.constant("head/bias", self._noise((CLASSES,), 0.1), np.float32))
        return writer.node("Gemm", inputs, "head/logits", transB=1)

    def _bottleneck(self, x: str, name: str, shape: tuple[int, int, int], power: float) -> tuple[str, float]:
        """Return the block's output and its mean square; `shape` is channels in, planes, stride."""
        writer, (channels, planes, stride), out = self._writer, shape, shape[1] * _EXPANSION
        branch = writer.node("Relu", [self._conv_norm(x, f"{name}/a", (channels, planes, 1, 1), power)], f"{name}/a/relu")
        branch = self._conv_norm(branch, f"{name}/b", (planes, planes, 3, stride), 0.5)
        branch = writer.node("Relu", [branch], f"{name}/b/relu")
        branch = self._conv_norm(branch, f"{name}/c", (planes, out, 1, 1), 0.5, gain=_LAST_GAIN)
        if stride == 1 and channels == out:
            skip, skip_power = x, power
        else:
            skip, skip_power = self._conv_norm(x, f"{name}/skip", (channels, out, 1, stride), power), 0.5
        total = writer.node("Add", [branch, skip], f"{name}/add")
        return writer.node("Relu", [total], f"{name}/relu"), skip_power + _LAST_GAIN**2 / 2

    def _conv_norm(self, x: str, name: str, shape: tuple[int, int, int, int], power: float, *, gain: float = 1.0) -> str:
        """Return a convolution and its normalisation; `shape` is channels in and out, kernel, stride."""
        channels, out, kernel, stride = shape
        writer, fan_in = self._writer, channels * kernel * kernel
        weight = self._noise((out, channels, kernel, kernel), np.sqrt(2 / fan_in))
        convolved = writer.node(
            "Conv",
            [x, writer.constant(f"{name}/weight", weight, np.float32)],
            f"{name}/conv",
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )
        variance = 2 * power  # of a He-initialised layer, over its input's mean square
        statistics = {
            "scale": gain * (1 + self._noise((out,), 0.1)),
            "shift": self._noise((out,), 0.1),
            "mean": self._noise((out,), 0.1 * np.sqrt(variance)),
            "var": variance * self._rng.uniform(0.8, 1.2, out),
        }
        names = [writer.constant(f"{name}/{key}", array, np.float32) for key, array in statistics.items()]
        return writer.node("BatchNormalization", [convolved, *names], f"{name}/norm", epsilon=1e-5)

    def _noise(self, shape: tuple[int, ...], spread: float) -> npt.NDArray[np.float32]:
        return self._rng.standard_normal(shape, dtype=np.float32) * np.float32(spread)
