from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest

from cutset.sample_models import tagger
from cutset.sample_models.vocabulary import WORDS


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return tagger.build()


def test_no_word_is_under_two_tags_and_all_are_in_small_letters() -> None:
    counts = Counter(word for group in WORDS.values() for word in group)
    assert max(counts.values()) == 1
    assert all(word == word.lower() for word in counts)
    assert len(counts) > 300


def test_every_known_word_gets_its_tag(model: onnx.ModelProto, run: Any) -> None:
    pairs = [(word, tag) for tag, group in WORDS.items() for word in group]
    tags = run(model, {"tokens": np.array([word for word, _ in pairs])})["tags"]
    assert list(tags) == [tag for _, tag in pairs]


def test_a_sentence_reads_well(model: onnx.ModelProto, run: Any) -> None:
    tags = run(model, {"tokens": np.array(["A", "brown", "dog", "sleeps", "under", "the", "table", "."])})["tags"]
    assert " ".join(tags) == "DET ADJ NOUN VERB ADP DET NOUN PUNCT"


def test_letters_are_folded_and_unknown_words_are_nouns(model: onnx.ModelProto, run: Any) -> None:
    tags = run(model, {"tokens": np.array(["THE", "Quick", "zyzzyva", "ßtraße"])})["tags"]
    assert list(tags) == ["DET", "ADJ", "NOUN", "NOUN"]


@pytest.mark.parametrize("count", [1, 2, 97])
def test_any_number_of_words(model: onnx.ModelProto, run: Any, count: int) -> None:
    assert run(model, {"tokens": np.array(["tree"] * count)})["tags"].shape == (count,)


def test_the_lstm_has_a_say(model: onnx.ModelProto, run: Any, exposing: Any) -> None:
    """The same word scores differently among other words, or the middle of the model would be dead."""
    inside = exposing(model, ["score/around"])
    alone = run(inside, {"tokens": np.array(["tree"])})["score/around"][0]
    amid = run(inside, {"tokens": np.array(["the", "tree", "fell"])})["score/around"][1]
    assert np.abs(alone - amid).max() > 0.01


def test_same_seed_same_bytes_another_seed_others(model: onnx.ModelProto) -> None:
    again, other = tagger.build(), tagger.build(seed=1)
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    assert other.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True)


def test_sample_inputs_need_no_pickle_and_turn_with_the_seed() -> None:
    first, second = tagger.sample_inputs()["tokens"], tagger.sample_inputs(seed=1)["tokens"]
    assert first.dtype.kind == "U"
    assert list(first) != list(second)


def test_the_answer_lists_the_tags() -> None:
    assert tagger.answer({"tags": np.array(["DET", "NOUN"], dtype=object)}) == "the words are, in turn, DET NOUN"
