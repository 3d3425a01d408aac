"""`encoder`: words in, a topic out; a transformer encoder of BERT's shape between two string operators.

The network has the sizes of MiniLM-L6 (six layers, width 384) and seeded random weights, so the topic means nothing; its
operators are those that exporters write for such a network, with LayerNormalization whole and GELU in its five parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from cutset.sample_models.graph_writer import OPSETS, GraphWriter, string_value, value
from cutset.sample_models.vocabulary import WORDS

TOPICS = ("science", "sport", "travel", "kitchen", "weather", "music")

_ML = "ai.onnx.ml"
_LAYERS, _WIDTH, _HEADS, _INNER = 6, 384, 12, 1536
_POSITIONS = 512
_SAMPLE_WORDS = 64


def build(*, seed: int = 0) -> onnx.ModelProto:
    """Return the model: `tokens` string [batch, num_tokens] to `topic` string [batch] and `scores` float32 [batch, 6].

    Args:
        seed: Of the weights; the same seed gives the same bytes.

    Source:
        Devlin et al., "BERT", NAACL 2019; sizes of Wang et al., "MiniLM", NeurIPS 2020.
    """
    writer = GraphWriter("encoder")
    layers = _Layers(writer, np.random.default_rng(seed))
    words = [word for group in WORDS.values() for word in group]
    coded = {"keys_strings": words, "values_int64s": range(1, len(words) + 1), "default_int64": 0}
    ids = writer.node("LabelEncoder", ["tokens"], "embed/ids", domain=_ML, **coded)
    state = layers.embedded(ids, len(words) + 1)
    for index in range(_LAYERS):
        state = layers.encoder(state, f"layer{index}")
    pooled = writer.node("ReduceMean", [state, writer.constant("pool/axes", [1], np.int64)], "pool/mean", keepdims=0)
    hidden = writer.node("Tanh", [layers.dense(pooled, _WIDTH, _WIDTH, "pool/dense")], "pool/tanh")
    logits = layers.dense(hidden, _WIDTH, len(TOPICS), "score/dense")
    writer.node("Softmax", [logits], "scores", axis=-1)
    best = writer.node("ArgMax", [logits], "score/best", axis=1, keepdims=0)
    named = {"keys_int64s": range(len(TOPICS)), "values_strings": TOPICS}
    writer.node("LabelEncoder", [best], "topic", domain=_ML, **named)
    return writer.model(
        [string_value("tokens", ["batch", "num_tokens"])],
        [string_value("topic", ["batch"]), value("scores", np.float32, ["batch", len(TOPICS)])],
        opsets={**OPSETS, _ML: 3},
    )


def sample_inputs(*, seed: int = 0) -> dict[str, npt.NDArray[Any]]:
    """Return one text of 64 words, drawn from the vocabulary."""
    words = [word for group in WORDS.values() for word in group]
    return {"tokens": np.random.default_rng(seed).choice(np.array(words), (1, _SAMPLE_WORDS))}


def answer(outputs: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return the topic and its score in words."""
    return f"the text is about {outputs['topic'][0]} ({float(outputs['scores'][0].max()):.2f})"


class _Layers:
    """Writes the layers of the network, each with weights of its own."""

    def __init__(self, writer: GraphWriter, rng: np.random.Generator) -> None:
        self._writer = writer
        self._rng = rng
        self._scale = writer.constant("attention/scale", _WIDTH // _HEADS, np.float32)
        heads = [0, 0, _HEADS, _WIDTH // _HEADS]
        self._heads = writer.constant("attention/heads", heads, np.int64)
        self._flat = writer.constant("attention/flat", [0, 0, _WIDTH], np.int64)
        self._root = writer.constant("gelu/root", np.sqrt(2), np.float32)
        self._half = writer.constant("gelu/half", 0.5, np.float32)
        self._one = writer.constant("gelu/one", 1.0, np.float32)

    def _weights(self, name: str, *shape: int, spread: float | None = None) -> str:
        drawn = self._rng.normal(0, spread or 1 / np.sqrt(shape[0]), shape)
        return self._writer.constant(name, drawn, np.float32)

    def dense(self, data: str, inner: int, outer: int, name: str) -> str:
        """Return ``data @ weight + bias`` of shape [..., outer]."""
        product = self._writer.node("MatMul", [data, self._weights(f"{name}/weight", inner, outer)], f"{name}/matmul")
        bias = self._weights(f"{name}/bias", outer, spread=0.02)
        return self._writer.node("Add", [product, bias], f"{name}/add")

    def norm(self, data: str, name: str) -> str:
        """Return `data` normalised over its last axis."""
        scale = self._writer.constant(f"{name}/gain", np.ones(_WIDTH), np.float32)
        bias = self._weights(f"{name}/shift", _WIDTH, spread=0.02)
        return self._writer.node("LayerNormalization", [data, scale, bias], name, axis=-1, epsilon=1e-12)

    def embedded(self, ids: str, vocabulary: int) -> str:
        """Return the sum of word and position embeddings, normalised: [batch, num_tokens, width]."""
        writer = self._writer
        words = writer.node("Gather", [self._weights("embed/words", vocabulary, _WIDTH, spread=0.5), ids], "embed/word")
        length = writer.node("Shape", [ids], "embed/length", start=1, end=2)
        table = self._weights("embed/positions", _POSITIONS, _WIDTH, spread=0.1)
        start = writer.constant("embed/start", [0], np.int64)
        positions = writer.node("Slice", [table, start, length, start], "embed/position")
        return self.norm(writer.node("Add", [words, positions], "embed/sum"), "embed/norm")

    def encoder(self, state: str, name: str) -> str:
        """Return one layer's state: attention and a two-layer perceptron, each added to what it read and normalised."""
        added = self._writer.node("Add", [state, self._attention(state, f"{name}/attention")], f"{name}/attention/residual")
        middle = self.norm(added, f"{name}/attention/norm")
        grown = self._gelu(self.dense(middle, _WIDTH, _INNER, f"{name}/grow"), f"{name}/gelu")
        shrunk = self.dense(grown, _INNER, _WIDTH, f"{name}/shrink")
        return self.norm(self._writer.node("Add", [middle, shrunk], f"{name}/residual"), f"{name}/norm")

    def _attention(self, state: str, name: str) -> str:
        writer = self._writer

        def headed(role: str, perm: list[int]) -> str:
            split = writer.node(
                "Reshape", [self.dense(state, _WIDTH, _WIDTH, f"{name}/{role}"), self._heads], f"{name}/{role}/split"
            )
            return writer.node("Transpose", [split], f"{name}/{role}/heads", perm=perm)

        query, key, content = headed("query", [0, 2, 1, 3]), headed("key", [0, 2, 3, 1]), headed("value", [0, 2, 1, 3])
        product = writer.node("MatMul", [query, key], f"{name}/product")
        root = writer.node("Sqrt", [self._scale], f"{name}/root")
        weights = writer.node("Softmax", [writer.node("Div", [product, root], f"{name}/scaled")], f"{name}/softmax", axis=-1)
        mixed = writer.node(
            "Transpose", [writer.node("MatMul", [weights, content], f"{name}/mix")], f"{name}/order", perm=[0, 2, 1, 3]
        )
        return self.dense(writer.node("Reshape", [mixed, self._flat], f"{name}/join"), _WIDTH, _WIDTH, f"{name}/output")

    def _gelu(self, data: str, name: str) -> str:
        writer = self._writer
        curve = writer.node("Erf", [writer.node("Div", [data, self._root], f"{name}/div")], f"{name}/erf")
        gate = writer.node("Mul", [data, writer.node("Add", [curve, self._one], f"{name}/add")], f"{name}/mul")
        return writer.node("Mul", [gate, self._half], f"{name}/half")
