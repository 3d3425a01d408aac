"""Options that several commands of a package share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from .config import KNOBS


def add_knobs(parser: argparse.ArgumentParser) -> None:
    """Add the options that change a plan's sizes."""
    sizes = parser.add_argument_group("sizes", "by default as planned when the package was compiled")
    sizes.add_argument("--cpu-workers", type=integer(1, 1024), help="threads that run CPU stages")
    sizes.add_argument("--intra-op-threads", type=integer(1, 1024), help="threads inside one run of a CPU stage")
    sizes.add_argument("--tokens", type=integer(1, 10**6), help="most requests, or full batches, inside the pipeline")
    sizes.add_argument("--queue-limit", type=integer(0, 10**6), help="most requests waiting outside; more get a 503")
    sizes.add_argument("--max-batch", type=integer(1, 10**6), help="most rows run as one, where that is proven right")
    sizes.add_argument("--max-delay-s", type=seconds, help="seconds a batch waits for more rows")
    sizes.add_argument("--stage-timeout-s", type=seconds, help="seconds after which a run of a stage counts as hung; 0: never")


def knobs(options: argparse.Namespace) -> dict[str, float]:
    """Return the sizes that were given."""
    return {knob: getattr(options, knob) for knob in KNOBS if getattr(options, knob) is not None}


def integer(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of integers within limits, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text[:18]) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {least} to {most}")
        return int(text)

    return read


def seconds(text: str) -> float:
    """Read a number of seconds, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
