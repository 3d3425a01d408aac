"""What runs the GPU parts: the option, the choice, and what its library says of the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from cutset.advisory import advisory
from cutset.cli.output import Output
from cutset.cli.workflow import Measured, Progress
from cutset.codegen.runtime.backends.engine_compile import BuildSettings
from cutset.devices import GpuBackendRequest
from cutset.errors import UnavailableError, UsageError
from cutset.graph.model import ModelGraph
from cutset.partitioner.pins import Pin
from cutset.partitioner.support import Support, cuda_support, gpu_support, open_questions
from cutset.profilers.cache import CostCache
from cutset.profilers.capability import Verdict, ask
from cutset.profilers.gpu_backend import Gpu, GpuBackend, choose_backend
from cutset.profilers.in_engines import engine_options, with_engine_costs
from cutset.profilers.on_device import seen_on_device
from cutset.profilers.ort_cuda import CUDA_BACKEND
from cutset.profilers.profile import batched
from cutset.profilers.segments import Segment
from cutset.profilers.session import Arrays
from cutset.profilers.table import CostTable

Deployed = Callable[[Measured], Callable[[Sequence[Segment], Sequence[Path]], Sequence[BuildSettings]]]
"""Returns of a measured model what makes engines of its segments as a package would have them."""

F = TypeVar("F", bound=Callable[..., Any])

NO_GPU = GpuBackend(name="onnxruntime-cuda", oracle=None)
"""Without a GPU to plan for there are no GPU stages, and no library is looked for."""


def backend_option(function: F) -> F:
    """Add the option that says what runs the GPU parts."""
    return click.option(
        "--gpu-backend", type=click.Choice(get_args(GpuBackendRequest)), default="auto", show_default=True,
        help="What runs the GPU parts and says which nodes it takes; auto takes the best that is installed.",
    )(function)  # fmt: skip


def choose(request: GpuBackendRequest, gpu: Gpu, output: Output) -> GpuBackend:
    """Return what runs the GPU parts, and tell the user what there is to know of the choice.

    Raises:
        UnavailableError: If the library that is asked for cannot be used.
    """
    backend = NO_GPU
    with advisory("looking for a library that builds engines", ends=(UsageError, UnavailableError)):
        backend = choose_backend(request, gpu)
    if backend.notice:
        output.notice(backend.notice)
    return backend


def backend_support(measured: Measured, backend: GpuBackend, pins: Mapping[str, Pin], progress: Progress) -> dict[str, Support]:
    """Return which nodes of a measured model the backend takes; pins to the GPU overrule Cutset's own defaults."""
    insisted = {name for name, pin in pins.items() if pin.device == "gpu"}
    if backend.name == CUDA_BACKEND:
        return session_support(measured.graph, measured.table, insisted)
    return capability(measured.graph, measured.samples.samples[0], backend, measured.options.cache, progress, insisted)


def in_engines(
    measured: Measured, backend: GpuBackend, support: Mapping[str, Support], deployed: Deployed, progress: Progress
) -> Measured:
    """Return the measured model with its GPU costs as engines have them, where engines will run on this machine's GPU.

    Args:
        measured: The model.
        backend: What runs the GPU parts.
        support: Which nodes that takes.
        deployed: Returns of a measured model how its segments become the engines that a package would have.
        progress: Told what is being measured.
    """
    target = measured.table.target or {}
    if target.get("source") != "measured":
        return measured
    if not measured.gpu.here or backend.oracle is None or backend.proxy or "engines" in target:
        return measured
    graph = measured.graph
    with advisory("measuring costs inside engines"):
        options = engine_options(backend.oracle.backend, int(str(target["id"]).rpartition(":")[2]), measured.options)
        options = replace(options, deployed=deployed(measured))
        inputs = batched(graph, measured.samples.samples[0], measured.batch)
        taken = [name for name, verdict in support.items() if verdict.ok]
        return replace(measured, table=with_engine_costs(graph, measured.table, inputs, taken, options, progress))
    return measured


def session_support(graph: ModelGraph, table: CostTable | None, insisted: Collection[str] = ()) -> dict[str, Support]:
    """Return which nodes onnxruntime's CUDA provider takes: by what a GPU was seen to run, else by the list of kernels."""
    return cuda_support(graph, insisted, frozenset() if table is None else seen_on_device(table))


def capability(
    graph: ModelGraph,
    sample: Arrays,
    backend: GpuBackend,
    cache: CostCache,
    progress: Progress,
    insisted: Collection[str] = (),
) -> dict[str, Support]:
    """Return which nodes the GPU backend takes, by its library where one answers, else by its list or table.

    Args:
        graph: The model, with the shapes of one run on `sample`.
        sample: One complete input.
        backend: What is to run the GPU parts.
        cache: Where answers are kept.
        progress: Told what is being asked.
        insisted: Nodes that the user pinned to the GPU.
    """
    if backend.name == CUDA_BACKEND:
        return session_support(graph, None, insisted)
    if backend.oracle is None:
        return gpu_support(graph, insisted=insisted)
    verdicts: dict[str, Verdict] = {}
    with advisory(f"asking {backend.oracle.title}, whose recorded table answers instead"):
        verdicts = ask(graph, sample, open_questions(graph, insisted), backend.oracle, cache, progress)
    return gpu_support(graph, verdicts or None, insisted)
