"""The options that say what to plan for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from cutset.cli.options import MOST_THREADS, Number
from cutset.errors import UsageError
from cutset.partitioner.exact import DEFAULT_SECONDS
from cutset.partitioner.pins import Pin, parse_pin
from cutset.partitioner.pins_file import PinsFile, read_pins

F = TypeVar("F", bound=Callable[..., Any])


def plan_options(function: F) -> F:
    """Add the options that say what to plan for; `PlanArguments.take` reads them."""
    for option in (
        click.option(
            "--flow", type=click.Choice(["scipy", "networkx"]), default="scipy", show_default=True, help="Engine of the cut."
        ),
        click.option(
            "--exact", is_flag=True,
            help="Also solve the mixed-integer program, which proves the optimum within the stages, or a bound.",
        ),
        click.option(
            "--gpu-memory-mib", type=Number(min=0), help="Most weights on the GPU, in MiB; no limit by default."
        ),
        click.option(
            "--pins", "pins_file", type=click.Path(path_type=Path), metavar="FILE",
            help="YAML file of pins and of nodes to keep together.",
        ),
        click.option(
            "--pin", "pins", multiple=True, metavar="GLOB=cpu|gpu",
            help="Where nodes run, by name or op:TYPE; may be repeated.",
        ),
        click.option(
            "--cpu-workers", default="auto", show_default=True, metavar="N|auto", help="Threads that serve CPU stages."
        ),
        click.option(
            "--min-gpu-nodes", type=click.IntRange(min=0), default=0,
            help="Smallest GPU stage worth building, in fused groups.",
        ),
        click.option(
            "--max-stages", type=click.IntRange(min=1), default=5, show_default=True, help="Most stages of the pipeline."
        ),
        click.option(
            "--calibrate/--no-calibrate", default=False, show_default=True,
            help="Measure whole stages on this machine and plan again with what they really take.",
        ),
        click.option(
            "--slo-ms", type=Number(min=0.001), metavar="MS",
            help="Answer requests that were let in within so many milliseconds.",
        ),
        click.option(
            "--objective", type=click.Choice(["throughput", "latency"]), default="throughput", show_default=True,
            help="What to make best.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanArguments:
    """What the command line says about planning.

    Args:
        name: Served model name.
        workers: Threads that serve CPU stages, None to choose.
        pins: Pins of the command line, then those of the file.
        file: The pins file, empty without one.
        settings: Fields of `PlanOptions` that are passed on as they are.
        slo_s: Seconds within which a request is to be answered, None for no target.
        calibrate: Whether to measure whole stages and plan again.
    """

    name: str
    workers: int | None
    pins: tuple[Pin, ...]
    file: PinsFile
    settings: dict[str, Any]
    slo_s: float | None = None
    calibrate: bool = False

    @classmethod
    def take(cls, name: str, arguments: dict[str, Any]) -> PlanArguments:
        """Return the planning options, removed from `arguments`; each is checked before anything is measured.

        Raises:
            UsageError: If one of them makes no sense.
        """
        path = arguments.pop("pins_file")
        file = PinsFile() if path is None else read_pins(path)
        slo_ms = arguments.pop("slo_ms")
        memory_mib = arguments.pop("gpu_memory_mib")
        proof = {
            "exact_s": DEFAULT_SECONDS if arguments.pop("exact") else None,
            "gpu_memory_bytes": math.inf if memory_mib is None else memory_mib * 2**20,
        }
        return cls(
            calibrate=arguments.pop("calibrate"),
            slo_s=None if slo_ms is None else slo_ms / 1e3,
            name=name,
            workers=parse_workers(arguments.pop("cpu_workers")),
            pins=(*(parse_pin(text) for text in arguments.pop("pins")), *file.pins),
            file=file,
            settings=proof | {key: arguments.pop(key) for key in ("objective", "max_stages", "min_gpu_nodes", "flow")},
        )


def served_name(name: str | None, model: Path) -> str:
    """Return the name that the server answers to; the file's stem by default.

    Raises:
        UsageError: If it could not be one segment of a URL.
    """
    chosen = model.stem if name is None else name
    if not chosen or chosen in {".", ".."} or "/" in chosen or not chosen.isprintable():
        raise UsageError(f"{chosen!r} cannot be a served model's name", hint="give another with --name")
    return chosen


def parse_workers(text: str) -> int | None:
    """Return the number of CPU workers, or None for ``auto``.

    Raises:
        UsageError: If it is not such a number, or more than the runtime takes.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= MOST_THREADS:
        raise UsageError(
            f"--cpu-workers {text!r} is not a number from 1 to {MOST_THREADS} or auto", hint="for example --cpu-workers 4"
        )
    return int(text)
