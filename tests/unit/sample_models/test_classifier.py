from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from cutset.sample_models import classifier

SIZES = [(37, 500), (256, 256), (600, 400), (1, 1), (224, 255)]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return classifier.build(width=0.25)


def weights(model: onnx.ModelProto) -> int:
    return sum(numpy_helper.to_array(tensor).size for tensor in model.graph.initializer)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ranks_five_classes_for_any_photo_size(
    model: onnx.ModelProto, run: Any, noise_photo: Any, height: int, width: int
) -> None:
    outputs = run(model, {"image": noise_photo(height, width)})
    probabilities, classes = outputs["probabilities"], outputs["classes"]
    assert probabilities.shape == classes.shape == (1, classifier.TOP)
    assert np.all(np.diff(probabilities[0]) <= 0)
    assert 0 < probabilities.sum() < 1
    assert len(set(classes[0])) == classifier.TOP
    assert classes.min() >= 0
    assert classes.max() < classifier.CLASSES


def test_the_photo_is_prepared_as_pillow_would(model: onnx.ModelProto, run: Any, exposing: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    photo = classifier.sample_inputs(seed=2)["image"]
    outputs = run(exposing(model, ["pre/crop", "pre/normalise"]), {"image": photo})

    height, width = photo.shape[:2]
    scale = classifier.SHORT_SIDE / min(height, width)
    size = (round(width * scale), round(height * scale))
    small = np.asarray(image.fromarray(photo).resize(size, image.Resampling.BILINEAR))
    top, left = (small.shape[0] - classifier.CROP) // 2, (small.shape[1] - classifier.CROP) // 2
    crop = small[top : top + classifier.CROP, left : left + classifier.CROP]
    # Both are antialiased; their filters round differently at a few hard edges.
    assert np.abs(outputs["pre/crop"].astype(int) - crop).mean() < 0.6

    normalised = ((outputs["pre/crop"] / 255 - classifier.MEAN) / classifier.STD).transpose(2, 0, 1)[None]
    np.testing.assert_allclose(outputs["pre/normalise"], normalised, rtol=1e-4, atol=1e-5)


def test_the_running_statistics_are_near_what_the_layers_make(model: onnx.ModelProto, run: Any, exposing: Any) -> None:
    names = [node.output[0] for node in model.graph.node if node.op_type == "Add" and node.name.startswith("layer")]
    outputs = run(exposing(model, names), classifier.sample_inputs())
    powers = [float(np.mean(outputs[name] ** 2)) for name in names]
    assert len(powers) == 16
    assert max(powers) < 20
    assert min(powers) > 0.05


def test_same_seed_same_bytes_another_seed_others(model: onnx.ModelProto) -> None:
    again, other = classifier.build(width=0.25), classifier.build(width=0.25, seed=1)
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert other.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True)


def test_full_size_is_resnet_50(run: Any) -> None:
    full = classifier.build()
    operators = Counter(node.op_type for node in full.graph.node)
    assert (operators["Conv"], operators["BatchNormalization"], operators["Gemm"]) == (53, 53, 1)
    running = 2 * 26560  # the mean and variance of each of its 26,560 channels, which are not trained
    assert weights(full) - running == pytest.approx(25_557_032, abs=100)  # the published count
    outputs = run(full, classifier.sample_inputs())
    assert outputs["probabilities"][0, 0] < 0.5


def test_the_answer_names_the_classes() -> None:
    outputs = {"classes": np.array([[7, 3]]), "probabilities": np.array([[0.5, 0.25]])}
    assert classifier.answer(outputs) == "the classes are, surest first, 7 (0.500), 3 (0.250); the weights are random"


def test_other_seeds_give_photos_of_other_sizes() -> None:
    first, second, fifth = (classifier.sample_inputs(seed=seed)["image"] for seed in (0, 1, 4))
    assert first.shape != second.shape
    assert np.array_equal(first, fifth)
