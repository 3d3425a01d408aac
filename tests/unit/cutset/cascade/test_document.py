import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from cutset.cascade.document import read_document, schema
from cutset.cascade.parts.library import PARTS
from cutset.errors import UsageError

GOOD = """\
inputs:
  x: {type: float32, shape: [n, 3]}
stages:
  double:
    model: double.onnxtxt
    inputs: {x: x}
  best:
    part: topk
    inputs: {values: double.y}
    with:
      k: 2
outputs:
  top: best.top
"""


def test_a_good_file_is_read_and_knows_its_lines(write):
    document = write(GOOD)
    assert [stage.kind for stage in document.stages.values()] == ["model", "part"]
    assert document.inputs["x"].shape == ("n", 3)
    assert document.line("stages", "best", "with", "k").endswith("p.yaml:11")
    assert document.line("stages", "best", "nothing", "there").endswith("p.yaml:7")


BAD = {
    "a part that is not known": ("part: topk", "part: topc", 8, "`stages.best.part`: 'topc' is not known"),
    "a setting that is not known": ("k: 2", "q: 2", 11, "`stages.best.with` has no setting `q`"),
    "a setting out of its range": ("k: 2", "k: 0", 11, "`stages.best.with.k`"),
    "a setting of another type": ("k: 2", "k: two", 11, "`stages.best.with.k`"),
    "an element type that is not known": ("float32", "float31", 2, "'float31' is not known"),
    "a stage of no kind": ("    part: topk\n", "", 7, "says neither `model`, `part` nor `python`"),
    "a stage of two kinds": ("part: topk", "part: topk\n    model: m.onnx", 8, "has no setting `part`"),
    "a key that is there twice": ("      k: 2", "      k: 2\n      k: 3", 12, "`k` is there twice"),
    "a key that is no text": ("inputs: {x: x}", "inputs: {1: x}", 6, "does not read this key as text"),
    "a name that is no word": ("  best:", "  best-one:", 3, "is not a name"),
    "no outputs": ("outputs:\n  top: best.top\n", "", 1, "the file lacks `outputs`"),
    "an alias": ("{x: x}", "{x: &a x}\n  other: *a", 7, "is an alias"),
    "no YAML": ("k: 2", "k: [2", 12, "is not YAML"),
}


@pytest.mark.parametrize(("old", "new", "line", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_with_its_line(write, old, new, line, words):
    assert GOOD.count(old) >= 1
    with pytest.raises(UsageError) as caught:
        write(GOOD.replace(old, new, 1))
    assert words in caught.value.what
    assert caught.value.where.endswith(f"p.yaml:{line}")


def test_a_near_name_is_offered(write):
    with pytest.raises(UsageError, match="did you mean `topk`"):
        write(GOOD.replace("topk", "topkk"))


@pytest.mark.parametrize("text", ["", "# nothing\n", "[1, 2]", "just words", "inputs: 3"])
def test_what_is_no_pipeline_is_refused(write, text):
    with pytest.raises(UsageError):
        write(text)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        read_document(tmp_path / "none.yaml")


@pytest.mark.parametrize("deep", ["[" * 16_000, "{a: " * 16_000, "? " * 16_000, "- " * 16_000], ids=range(4))
def test_deep_nesting_is_refused_at_once(write, deep):
    """YAML's reader takes minutes for these."""
    with pytest.raises(UsageError, match="nested more than 50 deep") as caught:
        write(f"inputs:\n {deep}")
    assert caught.value.where.endswith(":2")


def test_sizes_that_no_tensor_has_are_refused(write):
    with pytest.raises(UsageError, match="shape"):
        write(GOOD.replace("[n, 3]", "[99999999999999999999, 3]"))


def test_the_schema_is_valid_and_lists_every_part():
    Draft202012Validator.check_schema(schema())
    assert schema()["$defs"]["part_stage"]["properties"]["part"]["enum"] == list(PARTS)
    assert "null" not in json.dumps(schema())


def test_the_document_names_every_part_and_setting():
    text = (Path(__file__).parents[4] / "docs" / "cascades.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|(.*)$", text, re.MULTILINE))
    assert list(rows) == list(PARTS)
    for name, part in PARTS.items():
        settings = schema()["$defs"].get(name, schema()["$defs"]["axis"] if name in {"concat", "softmax"} else {})
        words = [*(part.inputs or ()), *settings.get("properties", {})]
        assert [word for word in words if f"`{word}`" not in rows[name]] == [], name
