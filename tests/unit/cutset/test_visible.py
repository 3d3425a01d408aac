from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cutset.visible import visible, visible_json, visible_line

NAMES = st.text(st.characters() | st.sampled_from(":#[]{}\n\r\t\x1b\x9b\u202e\u2028\ud800 \\")) | st.sampled_from(
    ["::error::x", "  ::error::x", "\n::stop-commands::x", "##[error]x", "a ##vso[task.x]b", "###[x]", "##teamcity[x"]
)
COMMAND = re.compile(r"^\s*::|##\w*\[", re.MULTILINE)
"""What the systems that run jobs obey."""


@example(":")
@given(NAMES)
def test_no_name_is_a_command_or_hides_a_letter(name: str) -> None:
    for line in (visible_line(name), f"{visible_line(name)}: cpu", f"- {visible(name)}"):
        assert line.isprintable()
        assert not COMMAND.search(line)
        line.encode("utf-8")


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"])))
def test_plain_names_are_shown_as_they_are(name: str) -> None:
    assume("##" not in name)
    assert visible(name) == name
    assert visible_line(f"`{name}`") == f"`{name}`"


@given(st.recursive(NAMES, lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)), st.sampled_from([None, 1]))
def test_json_keeps_its_meaning(value: object, indent: int | None) -> None:
    for ascii_only in (False, True):
        text = visible_json(json.dumps(value, ensure_ascii=ascii_only, indent=indent))
        assert json.loads(text) == json.loads(json.dumps(value))
        assert not COMMAND.search(text)
        assert all(line.isprintable() for line in text.split("\n"))
        text.encode("utf-8")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\nb", "a\\nb"), ("\x1b[31m", "\\x1b[31m"), ("\u202eevil", "\\u202eevil"), ("a\udcff", "a\\udcff"), ("é ✓", "é ✓")],
)
def test_what_would_not_show_is_escaped(name: str, shown: str) -> None:
    assert visible(name) == shown
