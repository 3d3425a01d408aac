from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from cutset.sample_models import encoder


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return encoder.build()


def test_it_has_the_operators_of_six_layers(model: onnx.ModelProto) -> None:
    counts = Counter(node.op_type for node in model.graph.node)
    assert counts["MatMul"] == 6 * (6 + 2) + 2
    assert counts["LayerNormalization"] == 2 * 6 + 1
    assert counts["Erf"] == 6
    assert counts["LabelEncoder"] == 2


def test_texts_of_a_batch_do_not_see_each_other(model: onnx.ModelProto, run: Any) -> None:
    texts = np.concatenate([encoder.sample_inputs(seed=seed)["tokens"] for seed in range(3)])
    together = run(model, {"tokens": texts})
    for index, text in enumerate(texts):
        alone = run(model, {"tokens": text[None]})
        np.testing.assert_allclose(together["scores"][index], alone["scores"][0], rtol=1e-4, atol=1e-6)
        assert together["topic"][index] == alone["topic"][0]


def test_scores_are_a_distribution_and_the_topic_its_best(model: onnx.ModelProto, run: Any) -> None:
    outputs = run(model, encoder.sample_inputs(seed=4))
    assert outputs["scores"].sum() == pytest.approx(1, abs=1e-5)
    assert outputs["topic"][0] == encoder.TOPICS[int(outputs["scores"][0].argmax())]
    assert encoder.answer(outputs).startswith(f"the text is about {outputs['topic'][0]} (0.")


def test_words_and_their_order_matter(model: onnx.ModelProto, run: Any) -> None:
    """Attention without positions would not see the order, and dead embeddings would not see the words."""
    words = encoder.sample_inputs()["tokens"]
    scores, swapped = (run(model, {"tokens": text})["scores"] for text in (words, words[:, ::-1]))
    other = run(model, {"tokens": np.full_like(words, "zyzzyva")})["scores"]
    assert np.abs(scores - swapped).max() > 1e-4
    assert np.abs(scores - other).max() > 1e-3


@pytest.mark.parametrize("count", [1, 3, 200])
def test_any_number_of_words(model: onnx.ModelProto, run: Any, count: int) -> None:
    assert run(model, {"tokens": np.full((2, count), "tree")})["scores"].shape == (2, len(encoder.TOPICS))


def test_same_seed_same_bytes_another_seed_others(model: onnx.ModelProto) -> None:
    assert encoder.build().SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert encoder.build(seed=1).SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True)
