"""Requests that differ from a sample."""

import numpy as np

from cutset.codegen.row_requests import vary


def test_a_single_text_becomes_other_texts_of_its_words():
    texts = {str(feed["text"][0, 0]) for feed in vary({"text": np.array([["the quick brown fox"]], dtype=object)})}
    assert len(texts) >= 4
    assert {word for text in texts for word in text.split()} <= {"the", "quick", "brown", "fox"}


def test_a_sample_without_words_stays_valid():
    assert all(feed["text"].shape == (2,) for feed in vary({"text": np.array([b"", b" "])}))


def test_variations_are_the_same_each_time():
    feed = {"x": np.arange(6, dtype=np.float32).reshape(1, 6), "ids": np.arange(6).reshape(1, 6)}
    for one, other in zip(vary(feed), vary(feed), strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in feed)
