"""The command `python -m <package>`: load the package's pipeline and serve it."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from .allocator import keep_freed_memory
from .errors import PipelineError
from .launcher import serve
from .pipeline import Pipeline

_KNOBS = ("cpu_workers", "intra_op_threads", "tokens", "queue_limit")


def main(argv: Sequence[str] | None = None, folder: str | Path | None = None) -> int:
    """Serve a package until SIGTERM or SIGINT, and return the exit code: 0, or 1 with one message on stderr.

    Prints ``ready: URL`` on stdout once requests are taken.

    Args:
        argv: The arguments; by default the process's.
        folder: The package; by default the one this module lies in.
    """
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    keep_freed_memory()
    overrides = {knob: getattr(options, knob) for knob in _KNOBS if getattr(options, knob) is not None}
    try:
        with Pipeline.load(folder, **overrides) as pipeline:
            serve(
                pipeline,
                host=options.host,
                port=options.port,
                grace_s=options.grace,
                max_body_bytes=options.max_body_mb * 2**20,
                on_ready=lambda url: print(f"ready: {url}", flush=True),
            )
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    package = __name__.split(".", maxsplit=1)[0]
    parser = argparse.ArgumentParser(
        prog=f"python -m {package}",
        description="Serve the model over HTTP with the Open Inference Protocol v2.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=_integer(0, 65535), default=8000, help="port to listen on; 0 takes a free one")
    parser.add_argument("--grace", type=_seconds, default=10.0, help="seconds to finish the requests under way")
    parser.add_argument("--max-body-mb", type=_integer(1, 2**20), default=256, help="largest request in MiB")
    sizes = parser.add_argument_group("sizes", "by default as planned when the package was compiled")
    sizes.add_argument("--cpu-workers", type=_integer(1, 1024), help="threads that run CPU stages")
    sizes.add_argument("--intra-op-threads", type=_integer(1, 1024), help="threads inside one run of a CPU stage")
    sizes.add_argument("--tokens", type=_integer(1, 10**6), help="most requests inside the pipeline")
    sizes.add_argument("--queue-limit", type=_integer(0, 10**6), help="most requests waiting outside; more get a 503")
    return parser


def _integer(least: int, most: int) -> Callable[[str], int]:
    """Return a reader of integers within limits, for argparse."""

    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text[:18]) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {least} to {most}")
        return int(text)

    return read


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value
