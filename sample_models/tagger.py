"""`tagger`: words in, parts of speech out; string operators bind both ends of the model to the CPU.

Known words carry their usual tag in the embedding, so the answers make sense; the recurrent layers between are seeded
noise that only colours them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.sample_models.graph_writer import OPSETS, GraphWriter, string_value
from cutset.sample_models.vocabulary import WORDS

TAGS = tuple(WORDS)
"""The tags in the order of the model's scores."""

_ML = "ai.onnx.ml"
_WIDTH = 64
_HIDDEN = 128
_LEXICAL = 3.0  # score of a word's own tag, well over what the recurrent layers add
_SENTENCES = (
    "The young teacher walks slowly to the old library , and the children see her .",
    "A brown dog sleeps under the table in our kitchen .",
    "Two ships will travel across the sea before winter !",
)


def build(*, seed: int = 0) -> onnx.ModelProto:
    """Return the model: `tokens` string [num_tokens] to `tags` string [num_tokens].

    Letters are folded to small ones, words looked up (an unknown one counts as a noun), embedded, read in both
    directions by an LSTM, scored, and the best tag of each word is turned back into text.

    Args:
        seed: Of the weights; the same seed gives the same bytes.
    """
    writer = GraphWriter("tagger")
    rng = np.random.default_rng(seed)
    words = [word for group in WORDS.values() for word in group]
    # The locale "C" is on every machine; with the default one onnxruntime refuses to load where en_US is missing.
    folded = writer.node("StringNormalizer", ["tokens"], "lookup/fold", case_change_action="LOWER", locale="C")
    coded = {"keys_strings": words, "values_int64s": range(1, len(words) + 1), "default_int64": 0}
    ids = writer.node("LabelEncoder", [folded], "lookup/ids", domain=_ML, **coded)
    embedding = writer.constant("lookup/embedding", _embedding(rng), np.float32)
    embedded = writer.node("Gather", [embedding, ids], "lookup/embed", axis=0)
    lexical = np.eye(_WIDTH, len(TAGS))
    own = writer.node("MatMul", [embedded, writer.constant("score/lexical", lexical, np.float32)], "score/own")
    context = _bilstm(writer, rng, embedded)
    spread = 0.5 / np.sqrt(2 * _HIDDEN)
    weight = writer.constant("score/weight", rng.normal(0, spread, (2 * _HIDDEN, len(TAGS))), np.float32)
    scores = writer.node("Add", [own, writer.node("MatMul", [context, weight], "score/around")], "score/sum")
    best = writer.node("ArgMax", [scores], "score/best", axis=1, keepdims=0)
    named = {"keys_int64s": range(len(TAGS)), "values_strings": TAGS}
    writer.node("LabelEncoder", [best], "tags", domain=_ML, **named)
    count = "num_tokens"
    return writer.model([string_value("tokens", [count])], [string_value("tags", [count])], opsets={**OPSETS, _ML: 3})


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return the words of a sentence; three sentences take turns as the seed grows."""
    return {"tokens": np.array(_SENTENCES[seed % len(_SENTENCES)].split())}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the tags in one line."""
    return "the words are, in turn, " + " ".join(str(tag) for tag in outputs["tags"])


def _embedding(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return one row a word, row 0 for unknown ones; the first columns hold the word's tag."""
    of_word = [index for index, group in enumerate(WORDS.values()) for _ in group]
    rows = rng.normal(0, 0.3, (len(of_word) + 1, _WIDTH))
    rows[:, : len(TAGS)] = _LEXICAL * np.eye(len(TAGS))[[TAGS.index("NOUN"), *of_word]]
    return rows


def _bilstm(writer: GraphWriter, rng: np.random.Generator, embedded: str) -> str:
    """Return the states [num_tokens, 2 * hidden] of an LSTM that reads both ways."""
    sequence = writer.node("Unsqueeze", [embedded, writer.constant("lstm/batch_axis", [1], np.int64)], "lstm/sequence")
    reach = 1 / np.sqrt(_HIDDEN)
    shapes = {"input": (2, 4 * _HIDDEN, _WIDTH), "state": (2, 4 * _HIDDEN, _HIDDEN), "bias": (2, 8 * _HIDDEN)}
    weights = [
        writer.constant(f"lstm/{name}_weight", rng.uniform(-reach, reach, shape), np.float32) for name, shape in shapes.items()
    ]
    (states,) = writer.nodes("LSTM", [sequence, *weights], ["lstm/states"], hidden_size=_HIDDEN, direction="bidirectional")
    ordered = writer.node("Transpose", [states], "lstm/ordered", perm=[0, 2, 1, 3])  # time, batch, direction, hidden
    return writer.node("Reshape", [ordered, writer.constant("lstm/flat", [-1, 2 * _HIDDEN], np.int64)], "lstm/context")
