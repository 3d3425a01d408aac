"""The steps that commands share: read the model, choose inputs and target, measure."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cutset.cli.arguments import PROFILE_FILE, CostArguments, ModelArguments, cache_folder
from cutset.cli.output import CPU_ALONE, Output, describe_coverage
from cutset.errors import UnavailableError, UsageError
from cutset.graph.load import load, with_operators
from cutset.graph.model import ModelGraph
from cutset.profilers.availability import cuda_provider
from cutset.profilers.cache import CostCache
from cutset.profilers.datasheets import Datasheet, Precision, datasheet
from cutset.profilers.environment import gpus, usable_cores
from cutset.profilers.gpu_backend import Gpu
from cutset.profilers.inputs import SampleInputs, collect, parse_shape
from cutset.profilers.merge import one_machine
from cutset.profilers.on_device import MeasuredGpu
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from cutset.profilers.shipped import shipped_device
from cutset.profilers.table import CostTable, read_profile
from cutset.profilers.without_device import sheet_of

Progress = Callable[[str], None]
Target = Datasheet | CostTable | MeasuredGpu | None
"""What GPU costs come from: a data sheet, a recorded profile, a GPU of this machine; None for the CPU alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A model with its inputs, its costs, the GPU they are for, and the seconds each step took."""

    graph: ModelGraph
    samples: SampleInputs
    table: CostTable
    gpu: Gpu
    options: ProfileOptions
    seconds: dict[str, float]

    @property
    def batch(self) -> int:
        """Samples in one run."""
        return self.options.batch


def read_model(arguments: ModelArguments) -> ModelGraph:
    """Return the model with its custom-operator libraries, each checked to be a file."""
    libraries = []
    for library in arguments.custom_ops:
        if not Path(library).is_file():
            raise UsageError(f"there is no custom-operator library {library}", hint="give the path of a shared library")
        libraries.append(str(Path(library).resolve()))
    return with_operators(load(arguments.model, custom_ops=tuple(libraries)))


def describe_frozen(graph: ModelGraph) -> str:
    """Return in words which inputs of the file are weights and cannot be given."""
    names = ", ".join(f"`{name}`" for name in graph.frozen_inputs[:3])
    more = len(graph.frozen_inputs) - 3
    return (
        f"{graph.path} lists its weights as inputs, too: {names}{f' and {more} more' if more > 0 else ''} are frozen, "
        "and a request cannot give them"
    )


def inputs_of(graph: ModelGraph, arguments: ModelArguments) -> SampleInputs:
    """Return the sample inputs that the command line asks for."""
    return collect(
        graph.inputs,
        model=arguments.model,
        file=arguments.inputs,
        shapes=dict(parse_shape(text) for text in arguments.shapes),
        seed=arguments.seed,
    )


def measure(
    arguments: ModelArguments,
    costs: CostArguments,
    output: Output,
    progress: Progress,
    accept: Callable[[ModelGraph], None] | None = None,
) -> Measured:
    """Return the measured model: load, choose inputs, profile.

    Args:
        arguments: The model and its inputs.
        costs: How to measure.
        output: Where notices go.
        progress: Told each step.
        accept: Raises where the loaded model is not wanted.
    """
    target = choose_target(costs.target, output, costs.precision)
    options = profile_options(costs)
    progress(f"loading {arguments.model}")
    start = time.perf_counter()
    graph = read_model(arguments)
    if accept is not None:
        accept(graph)
    if graph.frozen_inputs:
        output.notice(describe_frozen(graph))
    samples = inputs_of(graph, arguments)
    loaded = time.perf_counter()
    graph, table = profile(graph, samples.samples[0], target=target, options=options, progress=progress)
    if table.coverage is not None:
        output.notice(f"{costs.target}: {describe_coverage(table.coverage)}")
    seconds = {"load": loaded - start, "profile": time.perf_counter() - loaded}
    return Measured(graph=graph, samples=samples, table=table, options=options, gpu=gpu_of(target), seconds=seconds)


def profile_options(costs: CostArguments) -> ProfileOptions:
    """Return how to measure.

    Raises:
        UsageError: If an option makes no sense on this machine.
    """
    if costs.threads > usable_cores():
        raise UsageError(f"--threads {costs.threads} is more than the {usable_cores()} cores that can be used here")
    return ProfileOptions(
        threads=costs.threads,
        batch=parse_batch(costs.batch),
        budget_s=costs.profile_seconds,
        cache=CostCache(cache_folder(costs.cache)),
        optimization=costs.optimization,
        precision=costs.precision,
        fresh=costs.fresh,
    )


def gpu_of(target: Target) -> Gpu:
    """Return the GPU that is planned for, as far as it is known."""
    if isinstance(target, MeasuredGpu):
        found = gpus()[target.device : target.device + 1]
        name, capability = (found[0].name, found[0].compute_capability) if found else ("GPU", "")
        return Gpu(name=name, compute_capability=capability, here=True)
    if isinstance(target, CostTable):
        sheet = sheet_of(target.target)
        name = str((target.target or {}).get("name", ""))
        return Gpu(name=name, compute_capability=sheet.compute_capability if sheet else "")
    return Gpu() if target is None else Gpu(name=target.name, compute_capability=target.compute_capability)


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


def choose_target(text: str, output: Output, precision: Precision = "fp32") -> Target:
    """Return what GPU costs come from: a GPU of this machine, a recorded profile, a data sheet, or None for the CPU alone.

    Args:
        text: What was asked for.
        output: Where notices go.
        precision: Of the GPU stages. A GPU that ships recorded is replayed in fp32; other precisions are its data sheet's.

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
    if PROFILE_FILE.fullmatch(text):
        return read_machine(text, device="gpu")
    return _named(text, output, precision)


def _named(name: str, output: Output, precision: Precision) -> CostTable | Datasheet:
    """Return the recording of a named GPU if one ships, else its data sheet."""
    recording = shipped_device(name)
    if recording is not None and precision == "fp32":
        return recording
    if recording is not None:
        output.notice(f"{name} is recorded in fp32: its costs in {precision} are modelled by its data sheet")
    return datasheet(name)


def _gpu_here(output: Output) -> MeasuredGpu | None:
    """Return this machine's first GPU if onnxruntime can use it, else None with a word on what to do."""
    if gpus():
        lacking = cuda_provider()
        if lacking.ready:
            return MeasuredGpu()
        output.notice(f"this machine's GPU is not measured: {lacking.detail} ({lacking.hint})")
    output.notice(CPU_ALONE)
    return None


def read_machine(text: str, *, device: str | None = None) -> CostTable:
    """Return the profile of one machine from ``FILE.json``, or ``FILE.json#1`` for the second of a merged profile.

    Args:
        text: Of that form; without a number, the only machine of the file that is possible.
        device: A device that the machine must have priced to be possible, if any has.

    Raises:
        UsageError: If the text has another form, the file is no profile, or it leaves a choice.
    """
    named = PROFILE_FILE.fullmatch(text)
    if named is None:
        raise UsageError(f"{text!r} is not the name of a profile", hint="a profile is FILE.json; of a merged one, FILE.json#1")
    table = read_profile(Path(named["file"]))
    return one_machine(table, int(named["machine"]) if named["machine"] else None, device=device, where=named["file"])
