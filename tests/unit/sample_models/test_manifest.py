from __future__ import annotations

import re
from math import prod
from pathlib import PurePosixPath

import numpy as np
import pytest

from cutset.sample_models import inputs
from cutset.sample_models.manifest import FETCHED, FetchedModel


@pytest.fixture(params=FETCHED.values(), ids=lambda model: model.id)
def model(request: pytest.FixtureRequest) -> FetchedModel:
    found: FetchedModel = request.param
    return found


def test_there_are_enough_of_them_under_different_names() -> None:
    assert len(FETCHED) >= 12
    names = [name for model in FETCHED.values() for name in (model.id, *model.aliases)]
    assert len(names) == len(set(names))


def test_hashes_paths_and_licence_are_there(model: FetchedModel) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
    assert model.archive_sha256 is None or re.fullmatch(r"[0-9a-f]{64}", model.archive_sha256)
    inner = PurePosixPath(model.inner_path)
    assert inner.suffix == ".onnx"
    assert not inner.is_absolute()
    assert ".." not in inner.parts
    assert 0 < model.size_bytes < 100_000_000
    assert model.licence
    assert model.task
    assert model.requirement == f"{model.package}=={model.version}"


def test_input_data_fits_its_shape(model: FetchedModel) -> None:
    assert len({spec.name for spec in model.inputs}) == len(model.inputs) > 0
    for spec in model.inputs:
        assert len(spec.values) == (prod(spec.shape) if spec.source == "values" else 0)
        columns = spec.shape[-1] if spec.source == "integers" else 0
        assert len(spec.low) == len(spec.high) == columns
        assert all(low <= high for low, high in zip(spec.low, spec.high, strict=True))


def test_sample_inputs_have_the_type_and_shape_and_are_finite(model: FetchedModel) -> None:
    arrays = inputs.for_model(model)
    assert list(arrays) == [spec.name for spec in model.inputs]
    for spec in model.inputs:
        array = arrays[spec.name]
        assert array.shape == spec.shape
        assert array.dtype == np.dtype(spec.dtype)
        assert np.isfinite(array).all()
        assert spec.source == "zeros" or np.any(array)
        np.testing.assert_array_equal(array, inputs.for_model(model)[spec.name])


def test_the_seed_moves_what_may_move_and_nothing_else(model: FetchedModel) -> None:
    first, second = inputs.for_model(model), inputs.for_model(model, seed=1)
    for spec in model.inputs:
        fixed = spec.source in {"values", "zeros", "page"}
        assert np.array_equal(first[spec.name], second[spec.name]) == fixed


def test_the_voice_is_made_without_noise() -> None:
    """With noise the network draws random numbers, and no two runs could be compared."""
    noise, length, noise_width = inputs.for_model(FETCHED["piper_en_us_joe"])["scales"]
    assert (noise, noise_width) == (0, 0)
    assert length == 1
