"""Small models of the kinds that exporters write: the patterns of each around a few weights, and inputs of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import numpy_helper

from tests.e2e import exported_texts as texts

Arrays = dict[str, np.ndarray]
HEADER = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml" : 3, "com.microsoft" : 1]>\n'
WIDTH = 8


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A model as ONNX text, its weights, and how to draw inputs by an index: 0 to plan with, 1 to 3 of other sizes."""

    text: str
    draw: Callable[[np.random.Generator, int], Arrays]
    weights: Arrays = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        made = onnx.parser.parse_model(HEADER + self.text)
        made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.weights.items())
        for number, node in enumerate(made.graph.node):
            node.name = f"{node.op_type}_{number}"
        return made

    def inputs(self, index: int) -> Arrays:
        return self.draw(np.random.default_rng(50 + index), index)


def drawn(seed: int, **shapes: tuple[int, ...]) -> Arrays:
    """Return random weights by name and shape."""
    rng = np.random.default_rng(seed)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(max(shape[-1], 1))).astype(np.float32) for name, shape in shapes.items()
    }


def numbers(**values: object) -> Arrays:
    """Return constants: whole numbers as int64, others as float32."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    return {name: a.astype(np.int64 if a.dtype.kind == "i" else np.float32) for name, a in arrays.items()}


def floats(name: str, *shapes: tuple[int, ...]) -> Callable[[np.random.Generator, int], Arrays]:
    """Return how to draw one float input; one shape an index."""
    return lambda rng, index: {name: rng.standard_normal(shapes[index]).astype(np.float32)}


def words(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    return rng.integers(0, 20, (batch, length))


LENGTHS = ((1, 6), (1, 3), (2, 9), (3, 5))
BATCHES = tuple((batch, 3, 16, 16) for batch in (1, 2, 3, 5))

OF_ATTENTION = drawn(1, wq=(WIDTH, WIDTH), wk=(WIDTH, WIDTH), wv=(WIDTH, WIDTH)) | numbers(
    heads=[0, 0, 2, 4], joined=[0, 0, WIDTH], root=2.0
)


def _of_detector() -> Arrays:
    shapes = drawn(2, w1=(4, 3, 3, 3), w2=(4, 4, 3, 3), w_deltas=(4, 4, 1, 1), w_scores=(3, 4, 1, 1))
    return shapes | numbers(
        zero=[0], one=[1], two=[2], three=[3], four=[4], twenty=[20], thirty=[30], one_three=[1, 3], zero_one=[0, 1],
        minus_one_one=[-1, 1], minus_one_three=[-1, 3], minus_one_four=[-1, 4], at_0=0, at_1=1, at_2=2, at_3=3, side=[32.0],
        stride=4.0, anchor=[[-6.0, -6.0, 6.0, 6.0]], hundred=100.0, overlap=[0.5], least=[0.1],
    )  # fmt: skip


def _boxes(rng: np.random.Generator, index: int) -> Arrays:
    height, width = ((24, 32), (16, 16), (32, 24), (40, 16))[index]
    corners = rng.uniform(0, 12, (1 + index * 2, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(2, 10, corners.shape)], axis=1)
    return {"image": rng.standard_normal((1, 3, height, width)).astype(np.float32), "boxes": boxes.astype(np.float32)}


def _pixels(rng: np.random.Generator, index: int) -> Arrays:
    return {
        "pixels": rng.integers(0, 256, ((1, 24, 32, 3), (1, 16, 16, 3), (2, 20, 12, 3), (3, 8, 40, 3))[index], dtype=np.uint8)
    }


def _masked(rng: np.random.Generator, index: int) -> Arrays:
    batch, length = LENGTHS[index]
    mask = np.arange(length) < rng.integers(1, length + 1, (batch, 1))
    return {"ids": words(rng, batch, length), "mask": mask.astype(np.int64)}


def _cache(rng: np.random.Generator, index: int) -> Arrays:
    batch, length, past = ((1, 1, 4), (1, 3, 7), (2, 1, 5), (3, 2, 1))[index]
    kept = {name: rng.standard_normal((batch, 2, past, 4)).astype(np.float32) for name in ("key", "value")}
    return {"ids": words(rng, batch, length), **kept}


def _heard(rng: np.random.Generator, index: int) -> Arrays:
    batch, length, said = ((1, 12, 3), (1, 7, 5), (2, 9, 1), (3, 16, 4))[index]
    return {"sound": rng.standard_normal((batch, 4, length)).astype(np.float32), "said": words(rng, batch, said)}


def _towers(rng: np.random.Generator, index: int) -> Arrays:
    return {"ids": words(rng, *LENGTHS[index])} | {"image": rng.standard_normal((index + 1, 3, 16, 16)).astype(np.float32)}


def _texts(rng: np.random.Generator, index: int) -> Arrays:
    known = np.array(["Cut", "graph", "PLAN", "other", "the"])
    return {"text": np.array([[" ".join(rng.choice(known, 4))] for _ in range((2, 1, 3, 7)[index])], dtype=object)}


def _fused(rng: np.random.Generator, index: int) -> Arrays:
    batch, length = LENGTHS[index]
    return {"x": rng.standard_normal((batch, length, WIDTH)).astype(np.float32), "mask": np.ones((batch, length), np.int32)}


def _bytes(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).integers(-100, 100, shape).astype(np.int8)


NORM = numbers(gain=np.linspace(0.5, 1.5, WIDTH), shift=np.linspace(-0.1, 0.1, WIDTH), epsilon=1e-5)
GELU = numbers(root_two=2.0**0.5, all=1.0, half=0.5)
INDICES = numbers(zero=[0], one=[1], two=[2], minus_one=[-1], at_0=0, at_1=1, at_2=2, lowest=-3e38, width=[WIDTH])
STEPS = {"s": np.float32(0.03), "z": np.int8(0), "w_q": _bytes(3, (8, 3, 3, 3)), "w_s": np.float32(0.01), "w_z": np.int8(0)}
TABLE = drawn(4, table=(20, WIDTH), w_out=(WIDTH, 20), w1=(WIDTH, WIDTH), w2=(WIDTH, 4))

KINDS = {
    "a detector with suppression": Kind(
        text=texts.DETECTOR, draw=floats("image", (3, 24, 32), (3, 32, 32), (3, 48, 36), (3, 20, 60)), weights=_of_detector()
    ),
    "regions, classes and masks": Kind(
        text=texts.REGIONS,
        draw=_boxes,
        weights=drawn(5, w1=(3, 3, 3, 3), w2=(48, 4), w3=(3, 3, 2, 2)) | numbers(zero=[0], one=[1])
    ),
    "pictures as bytes": Kind(
        text=texts.PIXELS,
        draw=_pixels,
        weights=drawn(6, w1=(8, 3, 3, 3), w2=(8, 5))
        | numbers(zero=[0], two=[2], sixteen=[16, 16], most=255.0, mean=0.4, deviation=0.2),
    ),
    "patches and a class token": Kind(
        text=texts.PATCHES,
        draw=floats("image", *BATCHES),
        weights=drawn(7, w1=(WIDTH, 3, 8, 8), w2=(WIDTH, 4), class_token=(1, 1, WIDTH), positions=(1, 5, WIDTH))
        | OF_ATTENTION | NORM | INDICES | numbers(one_width=[1, WIDTH]),
    ),
    "shifted windows": Kind(
        text=texts.WINDOWS,
        draw=floats("image", *BATCHES),
        weights=drawn(8, w1=(WIDTH, 3, 2, 2), w2=(WIDTH, 4), bias=(16, 16))
        | INDICES | numbers(far=[99], cut_tail=[2, 4, 2, 4, 8], window_shape=[-1, 16, 8], back_tail=[64, 8]),
    ),
    "words under a mask": Kind(
        text=texts.MASKED,
        draw=_masked,
        weights=TABLE | drawn(9, positions=(16, WIDTH)) | OF_ATTENTION | NORM | GELU | INDICES | numbers(one_two=[1, 2]),
    ),
    "keys and values of the words before": Kind(text=texts.CACHE, draw=_cache, weights=TABLE | OF_ATTENTION | INDICES),
    "an encoder heard by a decoder": Kind(
        text=texts.CROSSED,
        draw=_heard,
        weights=TABLE
        | drawn(10, w_conv=(WIDTH, 4, 3), buckets=(4, 2)) | OF_ATTENTION | GELU | INDICES | {"minus_three": np.int64(-3)},
    ),
    "two inputs with a batch each": Kind(
        text=texts.TWO_TOWERS,
        draw=_towers,
        weights={**TABLE, **drawn(11, w1=(WIDTH, 3, 8, 8)), **INDICES, **numbers(log_scale=1.5)}
    ),
    "trees": Kind(text=texts.TREES, draw=floats("table", (3, 4), (1, 4), (8, 4), (20, 4))),
    "counted words": Kind(text=texts.COUNTED, draw=_texts, weights=INDICES),
    "quantised at run time": Kind(
        text=texts.BYTES_AT_RUN_TIME,
        draw=floats("x", (2, 8), (1, 8), (5, 8), (7, 8)),
        weights={"w_q": _bytes(12, (8, 4)), "w_zero": np.int8(0), "w_scale": np.float32(0.02)},
    ),
    "quantise and dequantise": Kind(text=texts.QDQ, draw=floats("image", *BATCHES), weights=drawn(13, w2=(8, 4)) | STEPS),
    "quantised operators": Kind(text=texts.QLINEAR, draw=floats("image", *BATCHES), weights=STEPS),
    "half precision": Kind(
        text=texts.HALF,
        draw=lambda rng, index: {"x": rng.standard_normal(((2, 8), (1, 8), (5, 8), (7, 8))[index]).astype(np.float16)},
        weights={"w16": drawn(14, w=(8, 8))["w"].astype(np.float16)} | NORM,
    ),
    "fused by the optimiser": Kind(
        text=texts.FUSED,
        draw=_fused,
        weights=drawn(15, w_qkv=(WIDTH, 3 * WIDTH), b_qkv=(3 * WIDTH,), w1=(WIDTH, WIDTH), bias=(WIDTH,)) | NORM,
    ),
}  # fmt: skip
