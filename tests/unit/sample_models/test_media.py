from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutset.sample_models import media

sizes = st.integers(1, 40)


def peaks_hz(sound: npt.NDArray[np.float32], rate: int) -> npt.NDArray[np.float64]:
    """Return the frequency of each bin, strongest first."""
    strength = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return np.asarray(np.argsort(-strength) * rate / len(sound), dtype=np.float64)


@given(height=sizes, width=sizes, to_height=sizes, to_width=sizes, level=st.integers(0, 255))
def test_an_even_picture_stays_even(height: int, width: int, to_height: int, to_width: int, level: int) -> None:
    image = np.full((height, width, 3), level, np.uint8)
    out = media.resized(image, to_height, to_width)
    assert out.shape == (to_height, to_width, 3)
    np.testing.assert_allclose(out, level, rtol=1e-6)


@given(height=sizes, width=sizes)
def test_the_same_size_changes_nothing(height: int, width: int) -> None:
    image = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    np.testing.assert_array_equal(media.resized(image, height, width), image)


def test_a_ramp_stays_a_ramp() -> None:
    ramp = np.repeat(np.arange(8.0)[None], 2, axis=0) * 10
    np.testing.assert_allclose(media.resized(ramp, 2, 4)[0], [5, 25, 45, 65])


def test_the_voice_is_loud_periodic_and_of_the_pitch_asked_for() -> None:
    sound = media.speech(media.SPEECH_RATE)
    assert np.abs(sound).max() == pytest.approx(0.5)
    lag = np.argmax([np.dot(sound[:-shift], sound[shift:]) for shift in range(80, 400)]) + 80
    assert media.SPEECH_RATE / lag == pytest.approx(110, rel=0.2)


def test_the_chord_has_its_three_notes() -> None:
    sound = media.notes(media.NOTES_RATE)
    strongest = peaks_hz(sound, media.NOTES_RATE)[:40]
    for semitone in (0, 4, 7):
        assert np.min(np.abs(strongest - media.MIDDLE_C_HZ * 2 ** (semitone / 12))) < 2


def test_the_spectrogram_rises_with_a_tone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A higher tone lights a higher band, and the scale is the trained network's."""

    def tone(frequency: float) -> npt.NDArray[np.float32]:
        def speech(samples: int, seed: int = 0) -> npt.NDArray[np.float32]:
            del seed
            return np.sin(2 * np.pi * frequency * np.arange(samples) / media.SPEECH_RATE).astype(np.float32)

        monkeypatch.setattr(media, "speech", speech)
        return media.log_mel(100, 80)

    bands = [int(np.argmax(tone(frequency).mean(axis=1))) for frequency in (200, 1000, 3000, 7000)]
    assert bands == sorted(set(bands))
    # 1 kHz is mel 15 of 45.2 on Slaney's scale, and 80 bands divide it into 81 steps.
    assert bands[1] == pytest.approx(15 / 45.245 * 81 - 1, abs=1)
    spectrogram = tone(1000)
    assert spectrogram.shape == (80, 100)
    assert spectrogram.max() - spectrogram.min() <= 2 + 1e-6  # eight decades, a quarter each


def test_without_scikit_image_pictures_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    photo, page = media.photo(), media.page()
    assert photo.dtype == page.dtype == np.uint8
    assert (photo.ndim, photo.shape[2], page.ndim) == (3, 3, 2)
    assert photo.std() > 20
    assert page.std() > 20
    np.testing.assert_array_equal(photo, media.photo())
    assert not np.array_equal(photo, media.photo(1))


def test_with_scikit_image_pictures_are_real() -> None:
    data = pytest.importorskip("skimage.data")
    np.testing.assert_array_equal(media.photo(), data.astronaut())
    np.testing.assert_array_equal(media.page(), data.page())
