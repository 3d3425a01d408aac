"""Real photos and a real page where scikit-image is installed, and sound made by a formula.

Without scikit-image (the extra ``images``) drawn pictures stand in, so that the samples run on a bare installation.
The sound is synthetic because no audio ships in a package we depend on: a glottal pulse train through vowel resonances,
and plucked strings. It has the structure that voice and music models look for.
"""

from __future__ import annotations

import importlib
import io
from types import ModuleType

import numpy as np
import numpy.typing as npt

from cutset.errors import UnavailableError

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SPEECH_RATE = 16000
NOTES_RATE = 22050
MIDDLE_C_HZ = 261.63


def photo(seed: int = 0) -> Bytes:
    """Return a colour photo, uint8 [height, width, 3]; four photos of four sizes take turns as the seed grows."""
    data = _skimage_data()
    if data is None:
        return _drawn_photo(seed)
    shots = (data.astronaut, data.coffee, data.chelsea, data.rocket)
    return np.ascontiguousarray(shots[seed % len(shots)](), dtype=np.uint8)


def page() -> Bytes:
    """Return a photo of a printed page, upright, uint8 [height, width]."""
    data = _skimage_data()
    return _drawn_page() if data is None else np.ascontiguousarray(data.page(), dtype=np.uint8)


def jpeg(image: npt.NDArray[np.uint8], *, quality: int = 92) -> Bytes:
    """Return a picture as the bytes of a JPEG file, uint8 [num_bytes].

    Args:
        image: Colour or grey pixels.
        quality: As Pillow counts it.

    Raises:
        UnavailableError: If Pillow, which comes with scikit-image, is missing.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - comes with an optional extra
    except ImportError as error:
        raise UnavailableError(
            "the sample input is a JPEG file, which Pillow must write",
            cause=str(error),
            hint="pip install 'cutset[images]'",
        ) from error
    file = io.BytesIO()
    Image.fromarray(image).convert("RGB").save(file, "JPEG", quality=quality)
    return np.frombuffer(file.getvalue(), np.uint8)


def _skimage_data() -> ModuleType | None:
    """Return scikit-image's pictures, or None where the package is missing; imported late, being slow to import."""
    try:
        return importlib.import_module("skimage.data")
    except ImportError:
        return None


def resized(image: npt.NDArray[np.generic], height: int, width: int) -> Floats:
    """Return `image` [h, w, ...] at another size by bilinear interpolation at pixel centres, values kept in 0..255."""
    pixels = image.astype(np.float32)
    for axis, size in enumerate((height, width)):
        extent = pixels.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * extent / size - 0.5, 0, extent - 1)
        low = np.floor(at).astype(np.int64)
        share = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(pixels.ndim)])
        high = np.minimum(low + 1, extent - 1)
        pixels = pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
    return pixels


def speech(samples: int, seed: int = 0) -> Floats:
    """Return a voice that says five vowels in turn, float32 [samples] at 16 kHz, peak 0.5."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / SPEECH_RATE
    pitch = 110 + 10 * (seed % 8) + 12 * np.sin(2 * np.pi * 2.3 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SPEECH_RATE
    vowel = (time / 0.18).astype(np.int64) % len(_VOWELS_HZ)
    sound = np.zeros(samples)
    for harmonic in range(1, 32):
        distance = (harmonic * pitch[:, None] - _VOWELS_HZ[vowel]) / 90.0
        sound += np.sin(harmonic * phase) * np.sum(1 / (1 + distance**2) * (1.0, 0.5, 0.25), axis=1)
    sound *= 0.6 + 0.4 * np.sin(np.pi * (time / 0.18 % 1))
    sound += rng.normal(0, 0.01, samples)
    return _at_half_scale(sound)


_VOWELS_HZ = np.array(
    [(730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240)], dtype=np.float64
)
"""First three resonances of a, e, i, o, u. Source: Peterson and Barney, JASA 24(2), 1952, Table II (men)."""


def notes(samples: int, seed: int = 0) -> Floats:
    """Return a C major triad struck on strings, float32 [samples] at 22.05 kHz, peak 0.5; the seed moves the key."""
    time = np.arange(samples) / NOTES_RATE
    sound = np.zeros(samples)
    for semitone in (0, 4, 7):
        frequency = MIDDLE_C_HZ * 2 ** ((semitone + seed % 12) / 12)
        for partial in range(1, 8):
            sound += np.sin(2 * np.pi * partial * frequency * time) * np.exp(-1.5 * partial * time) / partial
    return _at_half_scale(sound)


def log_mel(frames: int, bands: int, seed: int = 0) -> Floats:
    """Return the scaled log-mel spectrogram of `speech`, float32 [bands, frames], 100 frames a second.

    Source:
        Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023, section 2.2: 25 ms
        windows, 10 ms steps, the log clamped 8 decades below its peak; the mel scale is Slaney's (linear to 1 kHz).
    """
    window, step = 400, 160
    sound = speech(frames * step, seed)
    sound = (sound - sound.mean()) / sound.std()
    padded = np.pad(sound, window // 2, mode="reflect")
    strips = np.lib.stride_tricks.sliding_window_view(padded, window)[::step][:frames]
    power = np.abs(np.fft.rfft(strips * np.hanning(window + 1)[:-1])) ** 2
    logs = np.log10(np.maximum(power @ _mel_filters(bands, window // 2 + 1), 1e-10))
    scaled: Floats = ((np.maximum(logs, logs.max() - 8) + 4) / 4).T.astype(np.float32)
    return scaled


def _mel_filters(bands: int, bins: int) -> npt.NDArray[np.float64]:
    """Return the triangular filters, [bins, bands], each of unit area over its band."""
    step, knee = np.log(6.4) / 27, 15.0
    mels = np.linspace(0, knee + np.log(SPEECH_RATE / 2 / 1000) / step, bands + 2)
    edges = np.where(mels < knee, 200 * mels / 3, 1000 * np.exp(step * (mels - knee)))
    slopes = edges[None, :] - np.linspace(0, SPEECH_RATE / 2, bins)[:, None]
    widths = np.diff(edges)
    triangles = np.maximum(0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))
    filters: npt.NDArray[np.float64] = triangles * 2 / (edges[2:] - edges[:-2])
    return filters


def _at_half_scale(sound: npt.NDArray[np.float64]) -> Floats:
    peak = np.abs(sound).max()
    return np.asarray(0.5 * sound / peak, dtype=np.float32)


def _drawn_photo(seed: int) -> Bytes:
    """Return a hill under a sky with a few discs and film grain, 360 x 480."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:360, 0:480].astype(np.float64)
    sky = y[..., None] / 360 * (90, 60, 20) + (110, 150, 220)
    hill = (y > 240 + 40 * np.sin(x / 70))[..., None]
    image = np.where(hill, (60, 110, 50), sky)
    for _ in range(6):
        centre_y, centre_x, radius = rng.uniform((0, 0, 15), (360, 480, 60))
        disc = (np.hypot(y - centre_y, x - centre_x) < radius)[..., None]
        image = np.where(disc, rng.uniform(20, 235, 3), image)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def _drawn_page() -> Bytes:
    """Return grey paper with lines of dark words, 192 x 384."""
    rng = np.random.default_rng(0)
    image = np.full((192, 384), 215.0)
    for top in range(12, 180, 14):
        left = 16
        while left < 330:
            length = int(rng.integers(10, 45))
            image[top : top + 7, left : left + length] = rng.uniform(30, 200, (7, length))
            left += length + 6
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
