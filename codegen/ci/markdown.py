"""Findings as Markdown for a job's summary and a comment, and as annotations in a job's log."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from string import Template
from typing import Any

from cutset.codegen.report.text import visible
from cutset.errors import UsageError

MARKS = {"worse": "❌", "noise": "〰️", "better": "🟢", "same": "✅", "skipped": "➖"}
TITLES = {"regression": "❌ Cutset: it got worse", "ok": "✅ Cutset: no regression", "taken": "Cutset: a baseline was taken"}

FIELDS = ("verdict", "title", "summary")
"""What a comment's template may name."""


def markdown(document: Mapping[str, Any]) -> str:
    """Return the summary of what `cutset ci` found, in GitHub's Markdown.

    Args:
        document: From `document.document`; text in it may hold anything, and is shown as code.
    """
    return f"## {TITLES[document['verdict']]}\n\n" + "\n".join(_model(model) for model in document["models"])


def _model(model: Mapping[str, Any]) -> str:
    lines = [f"### {_code(model['name'])}: {model['headline']}", ""]
    lines += [f"> {_code(note)}" for note in model.get("notes", ())] + [""]
    if model["findings"]:
        lines += ["| | check | then | now | change | limit |", "|---|---|--:|--:|--:|--:|"]
        lines += [_row(finding) for finding in model["findings"]]
        lines.append("")
    for finding in model["findings"]:
        if finding["verdict"] in {"worse", "noise"} and (finding["causes"] or finding["note"]):
            lines.append(
                f"**{finding['title']}** ({finding['word']})" + (f": {_code(finding['note'])}" if finding["note"] else "")
            )
            lines += [f"- {_code(cause)}" for cause in finding["causes"]] + [""]
    return "\n".join(lines)


def _row(finding: Mapping[str, Any]) -> str:
    then, now = (
        _code(value) if finding[end] is not None else "" for end, value in zip(("then", "now"), finding["shown"], strict=True)
    )
    change = "" if finding["change"] is None else f"{finding['change']:+.1%}"
    cells = (f"{MARKS[finding['verdict']]} {finding['word']}", finding["title"], then, now, change, finding["limit"])
    return f"| {' | '.join(cells)} |"


def _code(text: str) -> str:
    """Return text as a code span in which nothing has a meaning, whatever it is."""
    text = visible(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if longest or text[:1] == " " else ""
    return f"{fence}{pad}{text or ' '}{pad}{fence}"


def comment(document: Mapping[str, Any], template: str, *, where: str) -> str:
    """Return a comment: a template with ``$verdict``, ``$title`` and ``$summary`` filled in.

    Raises:
        UsageError: If it names anything else.
    """
    values = {"verdict": document["verdict"], "title": TITLES[document["verdict"]], "summary": markdown(document)}
    try:
        return Template(template).substitute(values)
    except (KeyError, ValueError) as error:
        known = ", ".join(f"${name}" for name in FIELDS)
        raise UsageError(
            f"{where} is no template of a comment: {error}", hint=f"it may name {known}; a dollar sign is written $$"
        ) from error


def workflow_commands(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the workflow commands that make GitHub show what failed beside the change."""
    for model in document["models"]:
        for finding in model["findings"]:
            if finding["verdict"] == "worse":
                title = f"{model['name']}: {finding['title']}"
                yield f"::error title={_property(visible(title))}::{_data(visible(finding['sentence']))}"
        for note in model.get("notes", ()):
            yield f"::notice title={_property(visible(model['name']))}::{_data(visible(note))}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
