"""Errors carry what, where, cause and hint, as text and as JSON, and an exit code each."""

import inspect
import json

import pytest

from cutset import errors
from cutset.errors import CutsetError, UsageError

CODES = {
    "CutsetError": 1, "UsageError": 2, "ModelError": 1, "UnknownShapeError": 1, "ProfileError": 1, "PlanError": 1,
    "EngineBuildError": 1, "UnavailableError": 3, "VerificationError": 4,
}  # fmt: skip


def test_every_kind_has_its_exit_code():
    found = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CutsetError)}
    assert {name: kind.exit_code for name, kind in found.items()} == CODES


def test_the_text_has_one_line_a_field():
    error = UsageError("it is wrong", where="there", cause="because", hint="do this")
    assert str(error).splitlines() == ["it is wrong", "  at: there", "  cause: because", "hint: do this"]


@pytest.mark.parametrize(
    ("fields", "lines"),
    [({}, ["w"]), ({"hint": "h"}, ["w", "hint: h"]), ({"cause": "c"}, ["w", "  cause: c"]), ({"where": ""}, ["w"])],
)
def test_absent_fields_leave_no_line(fields, lines):
    assert str(CutsetError("w", **fields)).splitlines() == lines


def test_the_json_has_every_field():
    data = UsageError("w", where="x", hint="h").as_json()
    assert json.loads(json.dumps(data)) == {
        "kind": "UsageError", "what": "w", "where": "x", "cause": None, "hint": "h", "exit_code": 2,
    }  # fmt: skip
