"""The steps that commands share: read the model, choose inputs and target, measure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.cli.options import NO_CACHE
from cutset.cli.output import Output
from cutset.errors import UnavailableError, UsageError
from cutset.graph.load import load, with_operators
from cutset.graph.model import ModelGraph
from cutset.profilers.cache import CostCache, default_folder
from cutset.profilers.datasheets import Datasheet, datasheet
from cutset.profilers.environment import cuda_provider, gpus, usable_cores
from cutset.profilers.inputs import SampleInputs, collect, parse_shape
from cutset.profilers.merge import one_machine
from cutset.profilers.on_device import MeasuredGpu
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile, read_profile
from cutset.profilers.table import CostTable, Coverage

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArguments:
    """What the command line says about the model and its inputs."""

    model: Path
    custom_ops: Sequence[str] = ()
    inputs: Path | None = None
    shapes: Sequence[str] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostArguments:
    """What the command line says about measuring."""

    target: str = "auto"
    batch: str = "1"
    threads: int = 1
    profile_seconds: float = 3.0
    cache: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model with its inputs, costs, and the seconds each step took."""

    graph: ModelGraph
    samples: SampleInputs
    table: CostTable
    batch: int
    seconds: dict[str, float]


def read_model(arguments: ModelArguments) -> ModelGraph:
    """Return the model with its custom-operator libraries, each checked to be a file."""
    libraries = []
    for library in arguments.custom_ops:
        if not Path(library).is_file():
            raise UsageError(f"there is no custom-operator library {library}", hint="give the path of a shared library")
        libraries.append(str(Path(library).resolve()))
    return with_operators(load(arguments.model, custom_ops=tuple(libraries)))


def measure(arguments: ModelArguments, costs: CostArguments, output: Output, progress: Progress) -> Measured:
    """Return the measured model: load, choose inputs, profile."""
    if costs.threads > usable_cores():
        raise UsageError(f"--threads {costs.threads} is more than the {usable_cores()} cores that can be used here")
    target = choose_target(costs.target, output)
    batch = parse_batch(costs.batch)
    progress(f"loading {arguments.model}")
    start = time.perf_counter()
    graph = read_model(arguments)
    samples = collect(
        graph.inputs,
        model=arguments.model,
        file=arguments.inputs,
        shapes=dict(parse_shape(text) for text in arguments.shapes),
        seed=arguments.seed,
    )
    loaded = time.perf_counter()
    options = ProfileOptions(
        threads=costs.threads, batch=batch, budget_s=costs.profile_seconds, cache=CostCache(cache_folder(costs.cache))
    )
    graph, table = profile(graph, samples.samples[0], target=target, options=options, progress=progress)
    if table.coverage is not None:
        output.notice(f"{costs.target}: {describe_coverage(table.coverage)}")
    seconds = {"load": loaded - start, "profile": time.perf_counter() - loaded}
    return Measured(graph=graph, samples=samples, table=table, batch=batch, seconds=seconds)


def parse_batch(text: str) -> int:
    """Return the batch size; ``auto`` is one until a device that gains from batches is measured.

    Raises:
        UsageError: If it is not a positive number.
    """
    if text == "auto":
        return 1
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch {text!r} is not a positive number or auto", hint="for example --batch 8")
    return int(text)


def cache_folder(text: str | None) -> Path | None:
    """Return where measured costs are kept: a folder, or None for ``none``."""
    if text == NO_CACHE:
        return None
    return default_folder() if text is None else Path(text)


def choose_target(text: str, output: Output) -> Datasheet | CostTable | MeasuredGpu | None:
    """Return what GPU costs come from: a GPU of this machine, a recorded profile, a data sheet, or None for the CPU alone.

    Raises:
        UsageError: If the name is unknown, or the file is no profile of one machine with a GPU.
        UnavailableError: If a GPU of this machine is asked for and cannot be used.
    """
    if text == "cpu":
        return None
    if text == "auto":
        return _gpu_here(output)
    device = re.fullmatch(r"cuda(?::(\d+))?", text)
    if device is not None:
        lacking = cuda_provider()
        if not lacking.ready:
            raise UnavailableError(
                f"--target {text}: no GPU of this machine can be measured",
                cause=lacking.detail,
                hint=f"{lacking.hint}; or name a GPU (--target t4), or give a profile recorded elsewhere",
            )
        return MeasuredGpu(device=int(device.group(1) or 0))
    if _PROFILE.fullmatch(text):
        return read_machine(text, device="gpu")
    return datasheet(text)


def _gpu_here(output: Output) -> MeasuredGpu | None:
    """Return this machine's first GPU if onnxruntime can use it, else None with a word on what to do."""
    if gpus():
        lacking = cuda_provider()
        if lacking.ready:
            return MeasuredGpu()
        output.notice(f"this machine's GPU is not measured: {lacking.detail} ({lacking.hint})")
    output.notice("planning for the CPU alone; name a GPU to plan for it with modelled costs, e.g. --target t4")
    return None


_PROFILE = re.compile(r"(?P<file>.+\.json)(?:#(?P<machine>\d+))?")


def read_machine(text: str, *, device: str | None = None) -> CostTable:
    """Return the profile of one machine from ``FILE.json``, or ``FILE.json#1`` for the second of a merged profile.

    Args:
        text: Of that form; without a number, the only machine of the file that is possible.
        device: A device that the machine must have priced to be possible, if any has.

    Raises:
        UsageError: If the text has another form, the file is no profile, or it leaves a choice.
    """
    named = _PROFILE.fullmatch(text)
    if named is None:
        raise UsageError(f"{text!r} is not the name of a profile", hint="a profile is FILE.json; of a merged one, FILE.json#1")
    table = read_profile(Path(named["file"]))
    return one_machine(table, int(named["machine"]) if named["machine"] else None, device=device, where=named["file"])


def describe_coverage(coverage: Coverage) -> str:
    """Return in words what a recorded profile covers and what stands in for the rest."""
    total = coverage.recorded + coverage.calibrated + coverage.datasheet + coverage.unknown
    rest = [
        f"{number} {how}"
        for number, how in (
            (coverage.calibrated, "modelled by rates fitted to it"),
            (coverage.datasheet, "modelled from the data sheet"),
            (coverage.unknown, "without a cost, so on the CPU"),
        )
        if number
    ]
    covered = f"{coverage.recorded} of {total} groups recorded ({coverage.cpu_time_share:.1%} of the CPU time)"
    return "; ".join([covered, *rest])
