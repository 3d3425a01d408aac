"""Real networks for sound and speech: split or left whole, and equal."""

from __future__ import annotations

from tests.e2e.real_models import SOUND, check, each


@each(SOUND)
def test_a_real_model_is_partitioned_and_answers_as_the_whole(name, cutset, alone, tmp_path):
    check(name, cutset, alone, tmp_path)
