"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cutset.advisory import SkippedSteps, recording
from cutset.cli.output import Output

F = TypeVar("F", bound=Callable[..., Any])

NO_CACHE = "none"
MOST_THREADS = 1024
"""What the runtime accepts too; a system refuses a hundred thousand threads after minutes of making them."""


class Number(click.FloatRange):
    """A number within limits; ``nan``, which no limit catches, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            click.BadParameter: If it is none, or outside the limits.
        """
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def shared(function: F) -> F:
    """Add ``--json``, ``-q`` and ``-v``, and pass one `Output` as ``output`` instead of them.

    Advisory steps that fail while the command runs are told as notices.
    """

    def call(*args: Any, as_json: bool, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        output = Output(as_json=as_json, quiet=quiet, verbose=verbose)
        with recording(SkippedSteps(lambda skipped: output.notice(str(skipped)))):
            return function(*args, output=output, **kwargs)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    call.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Show what the libraries log."),
        click.option("-q", "--quiet", is_flag=True, help="Show no progress."),
        click.option("--json", "as_json", is_flag=True, help="Write the result as JSON on stdout."),
    ):
        call = option(call)
    return call  # type: ignore[return-value]


def model_options(function: F) -> F:
    """Add the options that say how to read a model and what to feed it."""
    for option in (
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of everything that is drawn."
        ),
        click.option(
            "--shape",
            "shapes",
            multiple=True,
            metavar="NAME=DIMS|NAME=MIN:OPT:MAX",
            help="Input sizes, for example images=1x3x224x224; or the range that engines must take, tuned for OPT, for "
            "example images=1x3x64x64:1x3x224x224:8x3x640x640. May be repeated.",
        ),
        click.option(
            "--inputs",
            type=click.Path(path_type=Path),
            help="Sample inputs (.npz); MODEL.npz beside the model by default.",
        ),
        click.option("--custom-ops", multiple=True, metavar="LIB.so", help="Library of custom operators; may be repeated."),
    ):
        function = option(function)
    return function


def cost_options(function: F) -> F:
    """Add the options that say what to measure and for which target."""
    for option in (
        click.option(
            "--cache", metavar="DIR|none", help="Where measured costs are kept; the user's cache folder by default."
        ),
        click.option(
            "--profile-seconds", type=Number(min=0.05, max=3600), default=6.0, show_default=True,
            help="Most time to repeat runs of one input size.",
        ),
        click.option(
            "--threads", type=click.IntRange(1, MOST_THREADS), default=1, show_default=True,
            help="Intra-op threads of a CPU session.",
        ),
        click.option("--batch", default="1", show_default=True, metavar="N|auto", help="Samples in one run."),
        click.option(
            "--target", default="auto", show_default=True, metavar="NAME|FILE",
            help="auto, cpu, a GPU that was recorded (h100) or is modelled (t4 l4 a10 a100 h200 rtx4090 orin), or a profile.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function
