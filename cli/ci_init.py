"""`cutset ci --init`: write what runs this command in a repository, with the options that were given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from cutset.codegen.ci.scaffold import scaffold
from cutset.errors import UsageError
from cutset.files import write_atomic

NOT_WRITTEN = {"wanted", "force", "update", "as_json", "quiet", "verbose", "cache", "comment"}
"""Parameters that are about `--init` itself, or that the files set."""

OF_THE_GPU = {"target", "gpu_backend"}


def init(context: click.Context, *, force: bool) -> list[Path]:
    """Write the files and return their paths.

    Args:
        context: Of the command, with the options that the jobs are to use.
        force: Whether to replace files that exist.

    Raises:
        UsageError: If there is no model, a file exists, or an argument cannot be written into a workflow.
    """
    models = [Path(model).as_posix() for model in context.params["models"]]
    if not models:
        raise UsageError("no model was given", hint="cutset ci --init MODEL.onnx")
    given = dict(_given(context))
    words = [word for pair in given.values() for word in pair]
    on_gpu = [word for name, pair in given.items() if name not in OF_THE_GPU for word in pair]
    texts = scaffold(
        {"cpu": [*words, "--", *models], "gpu": [*on_gpu, "--target=cuda:0", "--", *models]},
        baseline=context.params["baseline"].as_posix(),
        output=context.params["target_dir"].as_posix(),
    )
    present = [path for path in texts if Path(path).exists()]
    if present and not force:
        raise UsageError(f"{present[0]} exists", hint="replace it with --force")
    return [write_atomic(Path(path), text.encode()) for path, text in texts.items()]


def _given(context: click.Context) -> Iterator[tuple[str, list[str]]]:
    """Yield each option that was typed, with its words."""
    for parameter in context.command.params:
        name = parameter.name or ""
        typed = context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE
        if isinstance(parameter, click.Option) and typed and name not in NOT_WRITTEN:
            yield name, _words(parameter, context.params[name])


def _words(option: click.Option, value: Any) -> list[str]:
    if option.is_flag:
        return [option.opts[-1] if value else option.secondary_opts[-1]]
    values = value if option.multiple else [value]
    return [f"{option.opts[-1]}={entry}" for entry in values]
