"""The options that say what to plan for, and planning as commands share it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from cutset.cli.options import MOST_THREADS
from cutset.cli.workflow import Measured
from cutset.errors import UsageError
from cutset.partitioner.atoms import Evidence, broken_pieces
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import Pin, parse_pin, resolve, resolve_kept
from cutset.partitioner.pins_file import PinsFile, read_pins
from cutset.partitioner.plan import Plan
from cutset.partitioner.planner import plan
from cutset.partitioner.support import Support
from cutset.profilers.pieces import with_pieces
from cutset.profilers.profile import batched

F = TypeVar("F", bound=Callable[..., Any])


def plan_options(function: F) -> F:
    """Add the options that say what to plan for; `PlanArguments.take` reads them."""
    for option in (
        click.option(
            "--flow", type=click.Choice(["scipy", "networkx"]), default="scipy", show_default=True, help="Engine of the cut."
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
    """

    name: str
    workers: int | None
    pins: tuple[Pin, ...]
    file: PinsFile
    settings: dict[str, Any]

    @classmethod
    def take(cls, name: str, arguments: dict[str, Any]) -> PlanArguments:
        """Return the planning options, removed from `arguments`; each is checked before anything is measured.

        Raises:
            UsageError: If one of them makes no sense.
        """
        path = arguments.pop("pins_file")
        file = PinsFile() if path is None else read_pins(path)
        return cls(
            name=name,
            workers=parse_workers(arguments.pop("cpu_workers")),
            pins=(*(parse_pin(text) for text in arguments.pop("pins")), *file.pins),
            file=file,
            settings={key: arguments.pop(key) for key in ("objective", "max_stages", "min_gpu_nodes", "flow")},
        )


def with_piece_prices(
    measured: Measured, wanted: PlanArguments, support: Mapping[str, Support], progress: Callable[[str], None]
) -> Measured:
    """Return the measured model with the prices of what is left of the groups that the GPU takes in part.

    Args:
        measured: The model and its costs.
        wanted: What to plan for.
        support: Which nodes the GPU backend takes.
        progress: Told what is being measured.

    Raises:
        PlanError: If a pin asks for what a device cannot do.
    """
    graph = measured.graph
    evidence = Evidence(graph=graph, table=measured.table, support=support, pins=resolve(graph, wanted.pins))
    inputs = batched(graph, measured.samples.samples[0], measured.batch)
    table = with_pieces(graph, measured.table, inputs, broken_pieces(evidence), measured.options, progress)
    return replace(measured, table=table)


def make_plan(measured: Measured, wanted: PlanArguments, support: Mapping[str, Support], *, threads: int, seed: int) -> Plan:
    """Return the plan of a measured model.

    Args:
        measured: The model and its costs.
        wanted: What to plan for.
        support: Which nodes the GPU backend takes.
        threads: Intra-op threads of a CPU session.
        seed: Seed of all that is drawn.

    Raises:
        PlanError: If pins and the stage limit leave no placement.
    """
    graph = measured.graph
    options = PlanOptions(
        name=wanted.name,
        machine=_machine(measured, wanted.workers, threads),
        threads=threads,
        seed=seed,
        kept=resolve_kept(graph, wanted.file.keeps),
        **wanted.settings,
    )
    return plan(graph, measured.table, support, resolve(graph, wanted.pins), options)


def _machine(measured: Measured, workers: int | None, threads: int) -> Machine:
    """Return what serves the plan: by default one core is left to feed the GPU."""
    cores = int(measured.table.environment["usable_cores"])
    return Machine(cpu_workers=workers or max(1, (cores - 1) // threads), cores=max(1, cores // threads), batch=measured.batch)


def served_name(name: str | None, model: Path) -> str:
    """Return the name that the server answers to; the file's stem by default.

    Raises:
        UsageError: If it could not be one segment of a URL.
    """
    chosen = model.stem if name is None else name
    if not chosen or "/" in chosen or not chosen.isprintable():
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
