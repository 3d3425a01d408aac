"""JUnit, Markdown and workflow commands hold whatever a model is called, and say it as it is."""

import re
from xml.etree import ElementTree as ET

import pytest

from cutset.codegen.ci.junit import junit
from cutset.codegen.ci.markdown import comment, markdown, workflow_commands
from cutset.errors import UsageError
from tests.ci_records import costs, documented, record

HOSTILE = "evil|`\n::error::x``` <script>alert(1)</script> %0A @all \x1b[0m \ud800 ${{ secrets }}"
FOUND = documented(record(), record(costs(**{HOSTILE: 3e-3}, factor=1.5, sha256="b" * 64)))


def test_junit():
    root = ET.fromstring(junit(FOUND))
    (suite,) = root
    assert suite.attrib == {"name": "m", "tests": "8", "failures": "2", "errors": "0", "skipped": "0"}
    failed = [case for case in suite.iter("testcase") if case.find("failure") is not None]
    assert [case.get("name") for case in failed] == ["CPU cost", "kernels"]
    assert "limit: 5%" in failed[0].find("failure").text
    assert "\\x1b" in failed[0].find("failure").text
    assert "1.50 times slower" in suite.find("system-out").text


def test_what_was_not_compared_is_skipped_in_junit():
    root = ET.fromstring(junit(documented(record(), record(costs(cpu="Other CPU")))))
    assert root[0].get("skipped") == "4"


def test_markdown():
    text = markdown(FOUND)
    assert text.startswith("## ❌ Cutset: it got worse\n\n### `m`: 2 regressions: CPU cost, kernels\n")
    assert "| ❌ regression | CPU cost | `10.00 ms` | `13.00 ms` | +30.0% | 5% |" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}, "no name ends a cell"


def test_a_name_cannot_leave_its_code_span():
    (line,) = [line for line in markdown(FOUND).splitlines() if "script" in line]
    fence = re.match(r"- (`+) ", line)[1]
    assert line.endswith(f" {fence}")
    assert fence not in line[len(fence) + 2 : -len(fence)]


def test_commands_are_one_line_each():
    lines = list(workflow_commands(FOUND))
    assert len(lines) == 3
    assert lines[0].startswith("::error title=m%3A CPU cost::CPU cost 10.00 ms -> 13.00 ms (+30.0%25)")
    assert all("\n" not in line and "\x1b" not in line for line in lines)
    assert lines[2].startswith("::notice title=m::the machine was 1.50 times slower")


def test_comments():
    assert comment(FOUND, "$title: $verdict $$5", where="t") == "❌ Cutset: it got worse: regression $5"
    assert markdown(FOUND) in comment(FOUND, "x $summary", where="t")
    for template in ("$nothing", "${", "$ 5"):
        with pytest.raises(UsageError, match="t is no template"):
            comment(FOUND, template, where="t")
