"""The files that `cutset ci` writes besides packages, and what it tells the system that runs it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset import __version__, serde
from cutset.cli.output import Output
from cutset.codegen.ci.junit import junit
from cutset.codegen.ci.markdown import comment, markdown, workflow_commands
from cutset.codegen.package import MANIFEST_SCHEMA
from cutset.codegen.report import write_report
from cutset.codegen.report.material import DIFF, PLAN
from cutset.errors import UsageError

JSON, JUNIT, SUMMARY, COMMENT, MANIFEST = "ci.json", "junit.xml", "summary.md", "comment.md", "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comment:
    """The template of a comment, and where it was read."""

    template: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What is written besides the usual."""

    comment: Comment | None = None


def check_comment(path: Path | None) -> Comment | None:
    """Return the template of a comment.

    Raises:
        UsageError: If there is no such file, or it names a field that there is not.
    """
    if path is None:
        return None
    try:
        template = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the template of a comment {path} cannot be read", cause=str(error)) from error
    comment({"verdict": "ok", "models": []}, template, where=str(path))
    return Comment(template=template, where=str(path))


def write_ci_files(document: Mapping[str, Any], files: Files, folder: Path, output: Output) -> None:
    """Write what was found into the output folder, and where GitHub looks for it.

    Args:
        document: What was found.
        files: What to write besides the usual.
        folder: The output folder, the packages already in it.
        output: Where workflow commands go.
    """
    for model in document["models"]:
        package = folder / Path(model["report"]).parent
        if "groups" in model and (package / PLAN).is_file():
            (package / DIFF).write_text(serde.dumps(model), "utf-8")
            write_report(package)
    summary = markdown(document)
    texts = {
        JSON: serde.dumps(document),
        JUNIT: junit(document),
        SUMMARY: summary,
        MANIFEST: serde.dumps({"schema": MANIFEST_SCHEMA, "cutset": __version__, "made_by": "cutset ci"}),
    }
    if files.comment is not None:
        texts[COMMENT] = comment(document, files.comment.template, where=files.comment.where)
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    step_summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if step_summary:
        with Path(step_summary).open("a", encoding="utf-8") as file:
            file.write(summary + "\n")
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in workflow_commands(document):
            output.command(line)
