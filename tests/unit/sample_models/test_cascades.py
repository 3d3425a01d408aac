"""The pieces of the cascades against numpy, and what the cascades find in known photos."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from cutset.errors import UnavailableError, UsageError
from cutset.sample_models import cascade_files, media, registry
from cutset.sample_models.cascades.text_lines import lines
from tests.cascades import no_samples, open_composed


def run_text(name, inputs):
    model = onnx.parser.parse_model((cascade_files.FOLDER / name).read_text("utf-8"))
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, inputs)


@pytest.mark.parametrize("hot", [0, 1, 40])
def test_center_boxes(hot):
    rng = np.random.default_rng(hot)
    heat = np.zeros((1, 1, 12, 16), np.float32)
    heat.reshape(-1)[rng.choice(12 * 16, hot, replace=False)] = 0.9
    sizes, offsets = (rng.normal(size=(1, 2, 12, 16)).astype(np.float32) for _ in range(2))
    boxes, scores = run_text("center_boxes.onnxtxt", {"heat": heat, "sizes": sizes, "offsets": offsets})
    wanted = []
    for y, x in zip(*np.where(heat[0, 0] > 0.5), strict=True):
        high, wide = np.exp(sizes[0, :, y, x]) * 4
        middle_y, middle_x = (np.array([y, x]) + offsets[0, :, y, x] + 0.5) * 4
        wanted.append([middle_x - wide / 2, middle_y - high / 2, middle_x + wide / 2, middle_y + high / 2])
    assert scores.shape == (hot,)
    np.testing.assert_allclose(boxes, np.array(wanted).reshape(-1, 4), rtol=1e-4, atol=1e-4)


def test_distribution_boxes():
    rng = np.random.default_rng(0)
    levels = {8: (100, 76), 16: (50, 38), 32: (25, 19), 64: (13, 10)}
    bins = {s: rng.normal(size=(1, h * w, 32)).astype(np.float32) for s, (h, w) in levels.items()}
    scores = {s: rng.random((1, h * w, 10)).astype(np.float32) for s, (h, w) in levels.items()}
    feeds = {f"bins_{s}": a for s, a in bins.items()} | {f"scores_{s}": a for s, a in scores.items()}
    boxes, found = run_text("distribution_boxes.onnxtxt", feeds)
    wanted = []
    for stride, (height, width) in levels.items():
        odds = np.exp(bins[stride][0].reshape(-1, 4, 8))
        reach = (odds / odds.sum(-1, keepdims=True)) @ np.arange(8) * stride
        x, y = np.meshgrid((np.arange(width) + 0.5) * stride, (np.arange(height) + 0.5) * stride)
        centre = np.stack([x.ravel(), y.ravel()], axis=1)
        wanted.append(np.concatenate([centre - reach[:, :2], centre + reach[:, 2:]], axis=1))
    np.testing.assert_allclose(boxes[0], np.concatenate(wanted), rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(found, np.concatenate(list(scores.values()), axis=1).transpose(0, 2, 1))


def test_lines_are_the_connected_regions_grown():
    heat = np.zeros((1, 1, 100, 200), np.float32)
    heat[0, 0, 10:20, 20:120] = 0.9
    heat[0, 0, 50:60, 30:80] = 0.8
    heat[0, 0, 70:72, 30:80] = 0.9  # too low to be text
    heat[0, 0, 80:90, 30:80] = 0.35  # not sure
    boxes, scores = lines(heat)
    grow = 1.6 * 10 * 100 / 220
    np.testing.assert_allclose(boxes[0], [20 - grow, 10 - grow, 120 + grow, 20 + grow], rtol=1e-5)
    np.testing.assert_allclose(scores, [0.9, 0.8], rtol=1e-5)
    empty = lines(np.zeros((1, 1, 32, 32), np.float32))
    assert [array.shape for array in empty] == [(0, 4), (0,)]


def test_a_cascade_is_written_as_its_files(tmp_path):
    written = registry.write("documents", tmp_path / "mine.yaml")
    assert written.inputs == tmp_path / "mine.npz"
    names = {"mine.yaml", "mine.npz", "distribution_boxes.onnxtxt", "text_lines.py"}
    assert {path.name for path in tmp_path.iterdir()} == names
    with pytest.raises(UsageError, match="is a cascade") as caught:
        registry.write("face-crops", tmp_path / "m.onnx")
    assert "m.yaml" in str(caught.value.hint)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    pytest.importorskip("onnxruntime_extensions")

    def opened(name):
        try:
            made = cascade_files.composed(name)
        except UnavailableError as error:
            pytest.skip(f"the package index cannot be reached: {error.cause}")
        return open_composed(made, tmp_path_factory.mktemp(name))

    return opened


@pytest.mark.network
def test_the_face_is_found_and_where_there_is_none_none(session):
    pytest.importorskip("skimage")
    faces = session("face-crops")
    names = [value.name for value in faces.get_outputs()]
    found = [dict(zip(names, faces.run(None, registry.sample_inputs("face-crops", seed=seed)), strict=True)) for seed in (0, 1)]
    assert [len(one["boxes"]) for one in found] == [1, 0]
    left, top, right, bottom = found[0]["boxes"][0]
    np.testing.assert_allclose([left, top, right, bottom], [178, 56, 271, 179], atol=15)  # the astronaut's face
    assert found[1]["upright"].shape == (0, 4)
    assert registry.answer("face-crops", found[1]) == "no face"
    assert registry.answer("face-crops", found[0]).startswith("1 face(s): (")


@pytest.mark.network
def test_the_page_is_read(session):
    pytest.importorskip("skimage")
    documents = session("documents")
    names = [value.name for value in documents.get_outputs()]
    turns = []
    for seed in range(4):
        found = dict(zip(names, documents.run(None, registry.sample_inputs("documents", seed=seed)), strict=True))
        turns.append(int(found["turn"].item()))
        height, width = media.page().shape[:: 1 - 2 * (seed % 2)]
        assert len(found["lines"]) >= 1
        assert (found["lines"] <= [width, height, width, height]).all()
        assert "text" in registry.answer("documents", found)
    assert turns[0] == 0
    assert len(set(turns)) >= 2


def test_samples_are_all_a_cascade_needs():
    for name in ("face-crops", "documents"):
        document = cascade_files.document_of(name)
        models = {stage.what for stage in document.stages.values() if stage.kind == "model"}
        assert all(what.endswith(".onnxtxt") or what in registry.SAMPLES for what in models)
    with pytest.raises(UsageError):
        no_samples("x")
