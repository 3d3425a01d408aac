"""The options that say what else to write than the serving package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from cutset.codegen.export.write import EXPORTS, PACKAGE, Exports, check_exports, parse_exports

F = TypeVar("F", bound=Callable[..., Any])


def export_options(function: F) -> F:
    """Add the options that say what to export; `take_exports` reads them."""
    for option in (
        click.option(
            "--triton-backend", type=click.Choice(["python", "onnxruntime"]), default="python", show_default=True,
            help="What runs the stages in Triton.",
        ),
        click.option(
            "--emit", default=PACKAGE, show_default=True, metavar="KINDS",
            help=f"What to write, with commas: {', '.join((PACKAGE, *EXPORTS))}. The package, {PACKAGE}, is always written.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def take_exports(name: str, arguments: dict[str, Any]) -> Exports:
    """Return what to export of a model served as `name`, removed from `arguments`, checked before anything is measured.

    Raises:
        UsageError: If it is unknown, or the name cannot be made legal for it.
    """
    exports = parse_exports(arguments.pop("emit"), arguments.pop("triton_backend"))
    check_exports(exports, name)
    return exports
