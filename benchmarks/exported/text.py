"""transformers' networks, small."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

from benchmarks.exported.subject import Arrays, Draw, Subject, Write, generator
from benchmarks.exported.torch_export import Exported, export, seed

VOCABULARY = 500
LAYERS = 2
HEADS = 4
WIDTH = 64
SMALL = "2 layers of 64, 500 words"
LENGTHS = {0: (1, 16), 1: (1, 9), 2: (2, 24), 3: (3, 40)}
"""Batch and length."""
DRAWN: Mapping[str, Any] = {"initializer_range": 0.2, "vocab_size": VOCABULARY}


class Logits(nn.Module):
    """A model of transformers with arguments in an order, and one of its answers."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], answer: str, **options: Any) -> None:
        super().__init__()
        self.model, self.names, self.answer, self.options = model, names, answer, options

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the chosen answer of the model."""
        return getattr(self.model(**dict(zip(self.names, inputs, strict=True)), **self.options), self.answer)


class Two(Logits):
    """`Logits` of two inputs; torch.export wants each argument by name."""

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Return the chosen answer of the model."""
        return super().forward(first, second)


class Three(Logits):
    """`Logits` of three inputs."""

    def forward(self, first: torch.Tensor, second: torch.Tensor, third: torch.Tensor) -> torch.Tensor:
        """Return the chosen answer of the model."""
        return super().forward(first, second, third)


class Transcriber(nn.Module):
    """A Whisper that is told that all words count: without a mask, transformers looks for packed texts with `diff`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sound: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
        """Return the logits of the next words."""
        mask = torch.ones_like(said)
        found = self.model(input_features=sound, decoder_input_ids=said, decoder_attention_mask=mask, use_cache=False)
        return found.logits


class WithCache(nn.Module):
    """A decoder of two layers whose keys and values come in and go out, as optimum exports decoders."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor,
        key_0: torch.Tensor, value_0: torch.Tensor, key_1: torch.Tensor, value_1: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        """Return the logits, and keys and values with the new words."""
        cache = transformers.DynamicCache(((key_0, value_0), (key_1, value_1)))
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True)
        layers = found.past_key_values.layers
        return found.logits, layers[0].keys, layers[0].values, layers[1].keys, layers[1].values


def _words(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    return rng.integers(5, VOCABULARY, (batch, length)).astype(np.int64)


def _mask(rng: np.random.Generator, batch: int, length: int) -> np.ndarray:
    """Return a mask of texts of several lengths."""
    lengths = rng.integers(length // 2 + 1, length + 1, batch)
    return (np.arange(length)[None, :] < lengths[:, None]).astype(np.int64)


def _encoder(make: Callable[[], nn.Module]) -> Write:
    names = ("input_ids", "attention_mask")

    def draw(index: int) -> Arrays:
        rng, (batch, length) = generator(index), LENGTHS[index]
        return {"input_ids": _words(rng, batch, length), "attention_mask": _mask(rng, batch, length)}

    def write(exporter: str, path: Path) -> Draw:
        seed()
        free = {name: {0: "batch", 1: "length"} for name in names}
        return export(Exported(module=Two(make(), names, "logits"), draw=draw, free=free, outputs=("logits",)), exporter, path)

    return write


def _decoder(make: Callable[[], nn.Module]) -> Write:
    past_lengths = {0: (1, 4, 12), 1: (1, 1, 20), 2: (2, 3, 7), 3: (3, 5, 9)}
    layers = ("key_0", "value_0", "key_1", "value_1")

    def draw(index: int) -> Arrays:
        rng, (batch, length, past) = generator(index), past_lengths[index]
        mask = np.ones((batch, past + length), np.int64)
        mask[-1, : past // 3] = 0  # padded on the left
        values = {name: rng.standard_normal((batch, HEADS, past, WIDTH // HEADS)).astype(np.float32) for name in layers}
        return {"input_ids": _words(rng, batch, length), "attention_mask": mask, **values}

    def write(exporter: str, path: Path) -> Draw:
        seed()
        free: dict[str, dict[int, str]] = {name: {0: "batch", 2: "past"} for name in layers}
        free |= {"input_ids": {0: "batch", 1: "length"}, "attention_mask": {0: "batch", 1: "total"}}
        outputs = ("logits", *(f"present_{name}" for name in layers))
        return export(Exported(module=WithCache(make()), draw=draw, free=free, outputs=outputs), exporter, path)

    return write


def _t5(exporter: str, path: Path) -> Draw:
    seed()
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=WIDTH, d_kv=16, d_ff=128, num_layers=LAYERS, num_heads=HEADS, decoder_start_token_id=0
    )
    names = ("input_ids", "attention_mask", "decoder_input_ids")

    def draw(index: int) -> Arrays:
        rng, (batch, length) = generator(index), LENGTHS[index]
        first = {"input_ids": _words(rng, batch, length), "attention_mask": _mask(rng, batch, length)}
        return {**first, "decoder_input_ids": _words(rng, batch, 3 + index)}

    free = {name: {0: "batch", 1: "length"} for name in names[:2]} | {names[2]: {0: "batch", 1: "said"}}
    module = Three(transformers.T5ForConditionalGeneration(config), names, "logits", use_cache=False)
    return export(Exported(module=module, draw=draw, free=free, outputs=("logits",)), exporter, path)


def _whisper(exporter: str, path: Path) -> Draw:
    seed()
    config = transformers.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=20, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=LAYERS,
        encoder_attention_heads=HEADS, decoder_attention_heads=HEADS, encoder_ffn_dim=128, decoder_ffn_dim=128,
        max_source_positions=60, max_target_positions=48, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, begin_suppress_tokens=None,
    )  # fmt: skip

    def draw(index: int) -> Arrays:
        rng = generator(index)
        batch = (1, 1, 2, 3)[index]
        return {
            "input_features": rng.standard_normal((batch, 20, 120)).astype(np.float32),
            "decoder_input_ids": _words(rng, batch, 4 + 3 * index),
        }

    free = {"input_features": {0: "batch"}, "decoder_input_ids": {0: "batch", 1: "said"}}
    module = Transcriber(transformers.WhisperForConditionalGeneration(config))
    return export(Exported(module=module, draw=draw, free=free, outputs=("logits",)), exporter, path)


def _clip(exporter: str, path: Path) -> Draw:
    seed()
    shared = {"hidden_size": WIDTH, "intermediate_size": 128, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = transformers.CLIPConfig(
        text_config={**shared, "vocab_size": VOCABULARY, "eos_token_id": 2, "max_position_embeddings": 64},
        vision_config={**shared, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    names = ("input_ids", "pixel_values", "attention_mask")

    def draw(index: int) -> Arrays:
        rng, (batch, length) = generator(index), LENGTHS[index]
        words = _words(rng, batch, length)
        words[:, -1] = 2
        pixels = rng.standard_normal((index + 1, 3, 64, 64)).astype(np.float32)
        return {"input_ids": words, "pixel_values": pixels, "attention_mask": np.ones_like(words)}

    words = {0: "texts", 1: "length"}
    free = {"input_ids": words, "pixel_values": {0: "pictures"}, "attention_mask": words}
    module = Three(transformers.CLIPModel(config), names, "logits_per_image")
    return export(Exported(module=module, draw=draw, free=free, outputs=("logits_per_image",)), exporter, path)


def bert() -> nn.Module:
    """Return a BERT that classifies."""
    config = transformers.BertConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=128, num_labels=4, **DRAWN
    )
    return transformers.BertForSequenceClassification(config)


def _distilbert() -> nn.Module:
    config = transformers.DistilBertConfig(dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=128, num_labels=4, **DRAWN)
    return transformers.DistilBertForSequenceClassification(config)


def _gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=128, bos_token_id=1, eos_token_id=2, **DRAWN
    )
    return transformers.GPT2LMHeadModel(config)


def _llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        intermediate_size=128, max_position_embeddings=128, **DRAWN,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


write_bert = _encoder(bert)

SUBJECTS = (
    Subject(name="bert", size=SMALL, write=write_bert),
    Subject(name="distilbert", size=SMALL, write=_encoder(_distilbert)),
    Subject(name="gpt2-cache", size=SMALL, write=_decoder(_gpt2)),
    Subject(name="llama-cache", size=SMALL, write=_decoder(_llama)),
    Subject(name="t5", size=SMALL, write=_t5),
    Subject(name="whisper", size=SMALL + ", 1.2 s of sound", write=_whisper),
    Subject(name="clip", size="2 and 2 layers of 64, 500 words, pictures of 64", write=_clip),
)
