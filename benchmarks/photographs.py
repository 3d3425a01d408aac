"""Photographs for the case studies, cut out of the few that ship in scikit-image: views of many sizes, as JPEG files.

A view is a window of a photograph, mirrored or not, at a size of its own; a group photo is several side by side. The same
seed gives the same files.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from cutset.sample_models import media

Pixels = npt.NDArray[np.uint8]
_LARGEST = 1024


def faces(count: int, seed: int = 0) -> list[Pixels]:
    """Return JPEG files: views of one person, groups of several, and every third without a face."""
    data = importlib.import_module("skimage.data")
    without = [data.coffee(), data.chelsea(), data.rocket(), data.hubble_deep_field()]
    rng = np.random.default_rng(seed)

    def person() -> Pixels:
        return _view(data.astronaut(), rng, (0.0, 0.25), least=0.7)

    kinds: Sequence[Callable[[], Pixels]] = (
        person,
        lambda: _group([person() for _ in range(int(rng.integers(2, 7)))]),
        lambda: _view(without[int(rng.integers(len(without)))], rng, (0.0, 0.4), least=0.5),
    )
    return [media.jpeg(kinds[index % 3](), quality=int(rng.integers(80, 96))) for index in range(count)]


def documents(count: int, seed: int = 0) -> list[Pixels]:
    """Return JPEG files: views of a printed page and of handwriting, turned by quarters, and every fifth without text."""
    data = importlib.import_module("skimage.data")
    rng = np.random.default_rng(seed)
    pages, plain = [data.page(), data.page(), data.text()], [data.grass(), data.gravel(), data.coffee()]
    found = []
    for index in range(count):
        source = plain[int(rng.integers(3))] if index % 5 == 4 else pages[index % 3]
        view = np.rot90(_view(source, rng, (0.0, 0.2), least=0.8), int(rng.integers(4)))
        found.append(media.jpeg(np.ascontiguousarray(view), quality=int(rng.integers(85, 96))))
    return found


def _view(image: Pixels, rng: np.random.Generator, place: tuple[float, float], *, least: float) -> Pixels:
    """Return a window of at least a share `least` of a photograph, at 0.8 to 2 times its size, perhaps mirrored."""
    height, width = image.shape[:2]
    share = rng.uniform(least, 1)
    high, wide = int(height * share), int(width * share)
    top = int((height - high) * rng.uniform(*place))
    left = int((width - wide) * rng.uniform(0, 1))
    window = image[top : top + high, left : left + wide]
    window = window[:, ::-1] if rng.random() < 0.5 else window
    scale = min(rng.uniform(0.8, 2), _LARGEST / max(high, wide))
    return media.resized(window, int(high * scale), int(wide * scale)).round().astype(np.uint8)


def _group(views: Sequence[Pixels]) -> Pixels:
    """Return views side by side in two rows, each 360 pixels high and wide."""
    tiles = [media.resized(view, 360, 360).round().astype(np.uint8) for view in views]
    tiles += [np.zeros_like(tiles[0])] * (len(tiles) % 2)
    half = len(tiles) // 2
    return np.concatenate([np.concatenate(tiles[:half], axis=1), np.concatenate(tiles[half:], axis=1)])
