"""Real networks for photographs: split or left whole, and equal."""

from __future__ import annotations

from tests.e2e.real_models import VISION, check, each


@each(VISION)
def test_a_real_model_is_partitioned_and_answers_as_the_whole(name, cutset, alone, tmp_path):
    check(name, cutset, alone, tmp_path)
