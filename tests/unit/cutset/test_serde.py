"""JSON files are checked when they are read, and values come back equal."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from cutset.errors import CutsetError, UsageError
from cutset.serde import convert, dumps, read_json, to_builtins

SCHEMA = "cutset.test/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    parts: Mapping[str, Inner]
    ratio: float | None = None


VALUE = Outer(parts={"a": Inner(sizes=(1, 2)), "日本\n": Inner(sizes=(), note='"')}, ratio=0.5)


def written(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_value_comes_back_equal(tmp_path):
    text = dumps({"schema": SCHEMA, "value": VALUE})
    assert text.endswith("}\n")
    data = read_json(written(tmp_path, text), schema=SCHEMA)
    assert convert(data["value"], Outer, where="here") == VALUE
    assert dumps({"schema": SCHEMA, "value": VALUE}) == text


def test_fields_keep_their_order():
    assert list(to_builtins(VALUE)) == ["parts", "ratio"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_say_is_refused(number):
    with pytest.raises(ValueError, match="JSON compliant"):
        dumps({"x": number})


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"parts": {"a": {}}}, "sizes"),
        ({"parts": {"a": {"sizes": ["x"]}}}, "sizes"),
        ({}, "parts"),
        ({"parts": {}, "ratio": "fast"}, "ratio"),
        ([], "array"),
    ],
)
def test_a_wrong_field_is_named(data, path):
    with pytest.raises(UsageError) as caught:
        convert(data, Outer, where="p.json")
    assert "p.json" in caught.value.what
    assert path in caught.value.cause


@pytest.mark.parametrize(
    "text", ["", "{", "import json", "\ufeff{}", "[" * 100_000], ids=["empty", "cut", "code", "bom", "deep"]
)
def test_what_is_not_json(tmp_path, text):
    with pytest.raises(UsageError, match="is not JSON"):
        read_json(written(tmp_path, text), schema=SCHEMA)


@pytest.mark.parametrize("text", ["{}", "[]", "3", '"cutset.test/1"', '{"schema": "cutset.test/2"}', '{"schema": null}'])
def test_another_schema(tmp_path, text):
    with pytest.raises(UsageError) as caught:
        read_json(written(tmp_path, text), schema=SCHEMA)
    assert repr(SCHEMA) in caught.value.what
    assert "write the file again" in caught.value.hint


def test_a_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.json", tmp_path, written(tmp_path, b"\xff\xfe")):
        with pytest.raises(CutsetError, match="cannot read"):
            read_json(path, schema=SCHEMA)


def test_any_text_can_be_written_and_comes_back(tmp_path):
    value = {"schema": "s/1", "a\udcff": "\x1b[31m\u202e\x9b\U000e0001 é"}
    text = dumps(value)
    assert all(line.isprintable() for line in text.splitlines())
    (tmp_path / "f.json").write_text(text, "utf-8")
    assert read_json(tmp_path / "f.json", schema="s/1") == value


@pytest.mark.parametrize("text", ['{"schema": "s/1", "a": ' + "9" * 5000 + "}", '{"schema": "s/1", "a": NaN}'])
def test_numbers_that_json_does_not_have(tmp_path, text):
    (tmp_path / "f.json").write_text(text, "utf-8")
    with pytest.raises(UsageError, match="is not JSON"):
        read_json(tmp_path / "f.json", schema="s/1")
