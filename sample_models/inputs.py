"""Sample inputs of the fetched models, as their manifest entries describe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from cutset.sample_models import media
from cutset.sample_models.classifier import MEAN, STD
from cutset.sample_models.manifest import FetchedModel, InputSpec, SourceName

Array = npt.NDArray[Any]


def for_model(model: FetchedModel, *, seed: int = 0) -> dict[str, Array]:
    """Return one array for each input of `model`, of the type and shape its manifest entry gives.

    Args:
        model: The fetched model.
        seed: Chooses among photos, keys and voices; fixed data such as token ids stay the same.
    """
    return {spec.name: _SOURCES[spec.source](spec, seed).reshape(spec.shape).astype(spec.dtype) for spec in model.inputs}


def _normalised(image: npt.NDArray[np.generic], spec: InputSpec) -> Array:
    """Return an [h, w, 3] image as [3, height, width] with the ImageNet statistics taken out."""
    height, width = spec.shape[-2:]
    pixels = media.resized(image, height, width) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)


def _photo(spec: InputSpec, seed: int) -> Array:
    return _normalised(media.photo(seed), spec)


def _page(spec: InputSpec, seed: int) -> Array:
    del seed
    return _normalised(np.repeat(media.page()[..., None], 3, axis=2), spec)


def _patches(spec: InputSpec, seed: int) -> Array:
    """Return raw pixels (0..255) of patches along a diagonal of a photo, the model's shape being many small images."""
    count, _, height, width = spec.shape
    small = media.resized(media.photo(seed), 4 * height, 4 * width)
    corners = np.linspace(0, 3 * np.array([height, width]), count).astype(np.int64)
    return np.stack([small[y : y + height, x : x + width].transpose(2, 0, 1) for y, x in corners])


def _speech(spec: InputSpec, seed: int) -> Array:
    return media.speech(spec.shape[-1], seed)


def _spectrum(spec: InputSpec, seed: int) -> Array:
    return np.abs(np.fft.rfft(media.speech(2 * (spec.shape[-1] - 1), seed)))


def _notes(spec: InputSpec, seed: int) -> Array:
    return media.notes(int(np.prod(spec.shape)), seed)


def _log_mel(spec: InputSpec, seed: int) -> Array:
    bands, frames = spec.shape[-2:]
    return media.log_mel(frames, bands, seed)


def _integers(spec: InputSpec, seed: int) -> Array:
    return np.random.default_rng(seed).integers(spec.low, spec.high, spec.shape, endpoint=True)


def _values(spec: InputSpec, seed: int) -> Array:
    del seed
    return np.array(spec.values)


def _zeros(spec: InputSpec, seed: int) -> Array:
    del seed
    return np.zeros(spec.shape)


_SOURCES: Mapping[SourceName, Callable[[InputSpec, int], Array]] = {
    "integers": _integers,
    "log_mel": _log_mel,
    "notes": _notes,
    "page": _page,
    "patches": _patches,
    "photo": _photo,
    "spectrum": _spectrum,
    "speech": _speech,
    "values": _values,
    "zeros": _zeros,
}
