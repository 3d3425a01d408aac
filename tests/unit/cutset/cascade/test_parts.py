"""Each part against numpy, or against the plain operator it stands for."""

import io

import numpy as np
import pytest

from cutset.errors import UsageError

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_decode(part, channels):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("onnxruntime_extensions")
    file = io.BytesIO()
    image.fromarray(PICTURE).save(file, "PNG")
    found = part("decode", ["image"], f"{{channels: {channels}}}", in_file=np.frombuffer(file.getvalue(), np.uint8))["image"]
    np.testing.assert_array_equal(found, PICTURE if channels == "rgb" else PICTURE[..., ::-1])


def test_resize_to_a_size_and_to_a_shorter_side(part):
    assert part("resize", ["resized"], "{size: [20, 30]}", in_image=PICTURE)["resized"].shape == (20, 30, 3)
    assert part("resize", ["resized"], "{shorter: 20}", in_image=PICTURE)["resized"].shape == (20, 30, 3)
    flat = np.full((40, 60, 3), 7, np.uint8)
    assert (part("resize", ["resized"], "{size: [13, 17]}", in_image=flat)["resized"] == 7).all()
    halved = part("resize", ["resized"], "{size: [20, 30]}", in_image=PICTURE.astype(np.float32))["resized"]
    assert abs(halved.mean() - PICTURE.mean()) < 1  # antialiasing weighs every pixel


def test_center_crop(part):
    found = part("center_crop", ["cropped"], "{size: [20, 31]}", in_image=PICTURE)["cropped"]
    np.testing.assert_array_equal(found, PICTURE[10:30, 14:45])


def test_letterbox_and_restore_are_inverse(part):
    found = part("letterbox", ["boxed", "mapping"], "{size: [64, 64], fill: 9}", in_image=PICTURE)
    assert found["boxed"].shape == (64, 64, 3)
    assert (found["boxed"][:10] == 9).all()  # 40 x 60 becomes 43 x 64
    assert (found["boxed"][54:] == 9).all()
    assert (found["boxed"][11:52] != 9).mean() > 0.9
    whole = np.array([[0, 10, 64, 53], [-5, -5, 500, 500]], np.float32)
    restored = part("restore", ["restored"], in_boxes=whole, in_mapping=found["mapping"])["restored"]
    np.testing.assert_allclose(restored, [[0, 0, 60, 40], [0, 0, 60, 40]], atol=1e-4)


def test_normalize(part):
    mean, std = np.array([0.1, 0.2, 0.3], np.float32), np.array([0.5, 0.6, 0.7], np.float32)
    wanted = ((PICTURE / 255 - mean) / std).transpose(2, 0, 1)[None]
    settings = "{mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7]}"
    np.testing.assert_allclose(part("normalize", ["tensor"], settings, in_image=PICTURE)["tensor"], wanted, atol=1e-5)
    batch = PICTURE.transpose(2, 0, 1)[None].astype(np.float32)
    turned = part("normalize", ["tensor"], "{scale: 1, reverse: true}", in_image=PICTURE)["tensor"]
    np.testing.assert_array_equal(turned, batch[:, ::-1])


def greedy(boxes, scores, iou, score):
    """Return indices as non-maximum suppression is defined."""
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] <= score:
            continue
        overlaps = [_overlap(boxes[index], boxes[other]) for other in kept]
        if all(value <= iou for value in overlaps):
            kept.append(index)
    return kept


def _overlap(one, other):
    near, far = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    inner = np.prod(np.maximum(far - near, 0))
    return inner / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - inner)


@pytest.mark.parametrize("count", [0, 1, 300])
@pytest.mark.parametrize("most", [1000, 7])
def test_nms(part, count, most):
    near = RNG.uniform(0, 90, (count, 2))
    boxes = np.concatenate([near, near + RNG.uniform(5, 30, (count, 2))], axis=1).astype(np.float32)
    scores = RNG.uniform(0, 1, count).astype(np.float32)
    names = ["kept_boxes", "kept_scores", "classes", "indices", "dropped"]
    found = part("nms", names, f"{{iou: 0.4, score: 0.3, most: {most}}}", in_boxes=boxes, in_scores=scores)
    wanted = greedy(boxes, scores, 0.4, 0.3)
    assert found["indices"].tolist() == wanted[:most]
    assert found["dropped"].tolist() == [max(0, len(wanted) - most)]
    np.testing.assert_array_equal(found["kept_boxes"], boxes[wanted[:most]].reshape(-1, 4))
    np.testing.assert_array_equal(found["kept_scores"], scores[wanted[:most]])


def test_nms_of_several_classes_keeps_the_surest_of_all(part):
    boxes = np.array([[0, 0, 9, 9], [20, 20, 29, 29]], np.float32)
    scores = np.array([[0.9, 0.2], [0.5, 0.8]], np.float32)  # class x box
    found = part(
        "nms", ["classes", "indices", "kept_scores"], "{iou: 0.5, score: 0.1, most: 3}", in_boxes=boxes, in_scores=scores
    )
    assert found["classes"].tolist() == [0, 1, 1]
    assert found["indices"].tolist() == [0, 1, 0]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_crop_gives_as_many_as_there_are_boxes(part, count):
    boxes = np.tile(np.array([[10, 5, 50, 25]], np.float32), (count, 1))
    found = part("crop", ["crops"], "{size: [20, 40], samples: 1}", in_image=PICTURE, in_boxes=boxes)["crops"]
    assert found.shape == (count, 3, 20, 40)
    for crop in found:  # one sample in the middle of each pixel of a box on the grid is the pixel
        np.testing.assert_allclose(crop, PICTURE[5:25, 10:50].transpose(2, 0, 1), atol=1e-3)


def test_filter_and_gather(part):
    scores = np.array([0.1, 0.9, 0.5, 0.8], np.float32)
    above = part("filter", ["indices", "dropped"], "{above: 0.4, most: 2}", in_by=scores)
    assert (above["indices"].tolist(), above["dropped"].tolist()) == ([1, 2], [1])
    assert part("filter", ["indices"], "{above: 2}", in_by=scores)["indices"].tolist() == []
    assert part("filter", ["indices"], "{equals: 3}", in_by=np.array([3, 1, 3]))["indices"].tolist() == [0, 2]
    rows = RNG.random((4, 5)).astype(np.float32)
    found = part("gather", ["gathered"], in_rows=rows, in_indices=above["indices"])["gathered"]
    np.testing.assert_array_equal(found, rows[[1, 2]])


def test_concat_softmax_and_topk(part):
    left, right = RNG.random((2, 5)).astype(np.float32), RNG.random((2, 6)).astype(np.float32)
    joined = part("concat", ["joined"], "{axis: 1}", a=left, b=right)["joined"]
    np.testing.assert_array_equal(joined, np.concatenate([left, right], axis=1))
    odds = np.exp(left)
    found = part("softmax", ["probabilities"], in_logits=left)["probabilities"]
    np.testing.assert_allclose(found, odds / odds.sum(1, keepdims=True), rtol=1e-5)
    best = part("topk", ["top", "indices"], "{k: 20}", in_values=left)  # no more than there are
    np.testing.assert_array_equal(best["top"], -np.sort(-left, axis=1))
    assert part("topk", ["indices"], "{k: 1}", in_values=left)["indices"].ravel().tolist() == left.argmax(1).tolist()


def test_tokenizer(part, tmp_path):
    pytest.importorskip("onnxruntime_extensions")
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", 'say "\\', "cut", "##set", "the", "\\n"]
    (tmp_path / "vocabulary.txt").write_text("\n".join(pieces), "utf-8")
    words = np.array(["The cutset nothing"], object)
    found = part("tokenizer", ["input_ids", "attention_mask"], "{vocabulary: vocabulary.txt}", in_text=words)
    assert found["input_ids"].tolist() == [[2, 8, 6, 7, 1, 3]]
    assert found["attention_mask"].tolist() == [[1] * 6]
    cut = part("tokenizer", ["input_ids"], "{vocabulary: vocabulary.txt, most: 4}", in_text=words)["input_ids"]
    assert cut.tolist() == [[2, 8, 6, 3]]


BAD = {
    "pixels of another type": ("decode", "{}", "file", np.zeros(3, np.float32), "is float32, expected uint8"),
    "too few dimensions": ("resize", "{size: [2, 2]}", "image", np.zeros((3, 3), np.uint8), "has 2 dimensions, expected 3"),
    "an axis that is not there": ("softmax", "{axis: 5}", "logits", np.zeros((3, 3), np.float32), "`axis` is 5"),
    "statistics that do not match": (
        "normalize", "{mean: [1, 2], std: [1, 2, 3]}", "image", np.zeros((4, 4, 3), np.uint8), "`mean` has 2 numbers",
    ),
    "a vocabulary outside the folder": (
        "tokenizer", "{vocabulary: ../../secret}", "text", np.array(["x"], object), "lies outside the folder",
    ),
}  # fmt: skip


def test_a_vocabulary_that_is_a_link_out_of_the_folder_is_refused(part, tmp_path):
    (tmp_path / "vocabulary.txt").symlink_to("/etc/hostname")
    with pytest.raises(UsageError, match="lies outside the folder"):
        part("tokenizer", ["input_ids"], "{vocabulary: vocabulary.txt}", in_text=np.array(["x"], object))


@pytest.mark.parametrize(("name", "settings", "key", "value", "words"), BAD.values(), ids=BAD)
def test_what_a_part_cannot_read_is_refused(part, name, settings, key, value, words):
    with pytest.raises(UsageError) as caught:
        part(name, ["x"], settings, **{f"in_{key}": value})
    assert words in caught.value.what
    assert ":" in caught.value.where
