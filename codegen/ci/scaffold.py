"""The files with which a repository runs `cutset ci`: a GitHub workflow, a GitLab job, the template of a comment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cutset.codegen.project import templates
from cutset.errors import UsageError

REQUIREMENT = "cutset[extensions]"

FILES = {
    ".github/workflows/cutset.yml": "ci_github.yml.j2",
    ".gitlab/cutset.gitlab-ci.yml": "ci_gitlab.yml.j2",
    ".cutset/comment.md": "ci_comment.md.j2",
}
"""Template by the path of what it becomes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job: its name, the words of its command that are already quoted for a shell, and whether it needs a GPU."""

    name: str
    words: tuple[str, ...]
    gpu: bool = False


def scaffold(jobs: Mapping[str, Sequence[str]], *, baseline: str, output: str) -> dict[str, str]:
    """Return the text of each file, by its path in the repository.

    Args:
        jobs: Arguments of `cutset ci` in the job on a CPU and in that on a GPU: ``cpu`` and ``gpu``.
        baseline: Path of the baseline.
        output: Path of the output folder.

    Raises:
        UsageError: If an argument cannot be written into a workflow.
    """
    for word in (word for words in (*jobs.values(), (baseline, output)) for word in words):
        _check(word)
    variables = {
        "requirement": REQUIREMENT,
        "baseline": baseline,
        "output": output,
        "jobs": [
            Job(
                name="cutset" if kind == "cpu" else f"cutset-{kind}",
                words=tuple(shlex.quote(word) for word in words),
                gpu=kind == "gpu",
            )
            for kind, words in jobs.items()
        ],
    }
    environment = templates().overlay(trim_blocks=True, lstrip_blocks=True)
    return {path: environment.get_template(template).render(variables) for path, template in FILES.items()}


def _check(word: str) -> None:
    """Refuse what a shell's quotes do not tame: line breaks end a YAML block, and GitHub fills in ``${{ }}`` everywhere."""
    if not word.isprintable() or "${{" in word:
        raise UsageError(f"{word!r} cannot be written into a workflow", hint="rename the file")
