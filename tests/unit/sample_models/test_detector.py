from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from cutset.sample_models import detector

INSIDE = [
    "pre/extent",
    "pre/resized_extent",
    "pre/pad_first",
    "decode/boxes",
    "decode/scores",
    "nms/chosen",
    "nms/boxes",
]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return detector.build()


@pytest.fixture(scope="module")
def seen(model: onnx.ModelProto, run: Any, exposing: Any) -> dict[str, npt.NDArray[Any]]:
    """Values inside the model and its outputs for the sample photo."""
    values: dict[str, npt.NDArray[Any]] = run(exposing(model, INSIDE), detector.sample_inputs())
    return values


def overlap(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    shared = np.prod(np.maximum(0, high - low))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


@pytest.mark.parametrize(("height", "width"), [(37, 500), (320, 320), (256, 256), (600, 400), (1, 1)])
def test_boxes_lie_in_a_photo_of_any_size(model: onnx.ModelProto, run: Any, noise_photo: Any, height: int, width: int) -> None:
    outputs = run(model, {"image": noise_photo(height, width)})
    boxes, scores, classes = outputs["boxes"], outputs["scores"], outputs["classes"]
    assert len(boxes) == len(scores) == len(classes)
    assert boxes.shape[1] == 4
    assert np.all(boxes >= 0)
    assert np.all(boxes <= [width, height, width, height])
    assert np.all(boxes[:, :2] <= boxes[:, 2:])
    assert np.all((classes >= 0) & (classes < detector.CLASSES))


def test_a_wide_photo_gets_grey_above_and_below(model: onnx.ModelProto, run: Any, exposing: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    # A half of the square photo: the ratio is exact, so both resizes sample at the same points.
    photo = detector.sample_inputs()["image"][:256]
    square = run(exposing(model, ["pre/pad"]), {"image": photo})["pre/pad"]
    height = round(photo.shape[0] * detector.SIDE / photo.shape[1])
    top = (detector.SIDE - height) // 2
    small = np.asarray(image.fromarray(photo).resize((detector.SIDE, height), image.Resampling.BILINEAR))
    assert square.shape == (detector.SIDE, detector.SIDE, 3)
    assert np.all(square[:top] == detector.PAD_VALUE)
    assert np.all(square[top + height :] == detector.PAD_VALUE)
    assert np.abs(square[top : top + height].astype(int) - small).mean() < 0.6


def test_what_survives_scores_enough_and_overlaps_little(seen: dict[str, npt.NDArray[Any]]) -> None:
    chosen, boxes, scores = seen["nms/chosen"], seen["decode/boxes"][0], seen["decode/scores"][0]
    assert len(chosen) > 5
    np.testing.assert_array_equal(seen["classes"], chosen[:, 1])
    np.testing.assert_array_equal(seen["scores"], scores[chosen[:, 1], chosen[:, 2]])
    assert np.all(seen["scores"] > 0.4)
    for label in np.unique(chosen[:, 1]):
        kept = boxes[chosen[chosen[:, 1] == label, 2]]
        pairs = [overlap(a, b) for index, a in enumerate(kept) for b in kept[:index]]
        assert max(pairs, default=0.0) <= 0.5 + 1e-5


def test_suppression_had_something_to_suppress(seen: dict[str, npt.NDArray[Any]]) -> None:
    assert np.sum(seen["decode/scores"] > 0.4) > len(seen["scores"])


def test_boxes_go_back_into_the_photo(seen: dict[str, npt.NDArray[Any]]) -> None:
    height, width = seen["pre/extent"]
    scale = seen["pre/extent"] / seen["pre/resized_extent"]
    moved = seen["nms/boxes"] - seen["pre/pad_first"][[1, 0, 1, 0]]
    expected = np.clip(moved * scale[[1, 0, 1, 0]], 0, [width, height, width, height])
    np.testing.assert_allclose(seen["boxes"], expected, rtol=1e-5, atol=1e-3)


def test_cells_are_numbered_in_the_order_the_network_writes_them(seen: dict[str, npt.NDArray[Any]]) -> None:
    """A box contains its own cell's centre, the distances to its sides being positive."""
    boxes = seen["decode/boxes"][0]
    cells = sum((detector.SIDE // stride) ** 2 for stride in detector.STRIDES)
    assert boxes.shape == (cells, 4)
    start = 0
    for stride in detector.STRIDES:
        side = detector.SIDE // stride
        rows, columns = np.divmod(np.arange(side * side), side)
        x, y = (columns + 0.5) * stride, (rows + 0.5) * stride
        level = boxes[start : start + side * side]
        assert np.all((level[:, 0] < x) & (x < level[:, 2]) & (level[:, 1] < y) & (y < level[:, 3]))
        start += side * side


def test_same_seed_same_bytes_another_seed_others(model: onnx.ModelProto) -> None:
    again, other = detector.build(), detector.build(seed=1)
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert other.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("seed", range(4))
def test_each_sample_photo_has_boxes(model: onnx.ModelProto, run: Any, seed: int) -> None:
    assert len(run(model, detector.sample_inputs(seed=seed))["scores"]) > 0


def test_the_answer_tells_the_surest_box() -> None:
    outputs = {
        "boxes": np.array([[0.0, 0, 1, 1], [2, 3, 40, 50]]),
        "scores": np.array([0.5, 0.75]),
        "classes": np.array([1, 9]),
    }
    said = detector.answer(outputs)
    assert said == "2 boxes, the surest class 9 at (2, 3, 40, 50) with 0.75; the weights are random"
    none = {"boxes": np.empty((0, 4)), "scores": np.empty(0), "classes": np.empty(0)}
    assert detector.answer(none) == "no box scores enough"
