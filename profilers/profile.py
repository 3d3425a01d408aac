"""Build the `CostTable` of a model: CPU measured here, the GPU modelled for a named device or replayed from a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import onnxruntime as ort

from cutset import serde
from cutset.advisory import advisory, skipped_steps
from cutset.errors import UsageError
from cutset.graph.model import ModelGraph
from cutset.profilers.cache import METHOD
from cutset.profilers.datasheets import Datasheet
from cutset.profilers.environment import Environment, environment, gpus, usable_cores
from cutset.profilers.inputs import sizes_of
from cutset.profilers.on_device import MeasuredGpu, with_measured_gpu
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cpu import CpuProfile, profile_cpu
from cutset.profilers.pooling import pooled
from cutset.profilers.session import Arrays
from cutset.profilers.signature import sign
from cutset.profilers.table import PROFILE_SCHEMA, CostTable, GroupCost, ModelFile, SessionCost
from cutset.profilers.timing import fit_affine
from cutset.profilers.without_device import sheet_of, with_gpu
from cutset.profilers.workload import work_of

CPU_BACKEND = "onnxruntime-cpu"


def profile(
    graph: ModelGraph,
    inputs: Arrays,
    *,
    target: Datasheet | CostTable | MeasuredGpu | None,
    options: ProfileOptions | None = None,
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[ModelGraph, CostTable]:
    """Return `graph` with the shapes of the measured run, and its costs.

    Args:
        graph: The model.
        inputs: One complete sample.
        target: GPU to model, profile to replay, GPU of this machine to measure, or None for the CPU alone.
        options: How to measure; the defaults when None.
        progress: Told what is being measured.

    Raises:
        ProfileError: If the model does not run on `inputs`.
        UsageError: If the batch cannot be made, or a recorded profile holds no GPU costs.
    """
    options = options or ProfileOptions()
    batches = sorted({1, (1 + options.batch) // 2, options.batch})
    replicas = max(1, usable_cores() // options.threads)
    entries = {
        size: _measure(graph, batched(graph, inputs, size), options, replicas if size == options.batch else 1, progress)
        for size in batches
    }
    runs = {size: entry.profile for size, entry in entries.items()}
    chosen = runs[options.batch]
    measured = graph.with_measured(chosen.shapes, chosen.dtypes)
    table = CostTable(
        model=ModelFile(file=graph.path.name, sha256=graph.sha256, nodes=len(graph.nodes)),
        target=None,
        environment=serde.to_builtins(entries[options.batch].environment),
        shapes=dict(measured.measured),
        sessions=tuple(_session_cost(run, size, options) for size, run in runs.items()),
        loaded=_loaded_cost(chosen, options),
        groups=_cpu_groups(measured, chosen, options.batch),
        transfers=(),
        affine=fit_affine(batches, [runs[size].session.median for size in batches]) if len(batches) > 1 else None,
    )
    if isinstance(target, MeasuredGpu):
        return measured, _on_this_gpu(measured, table, batched(graph, inputs, options.batch), target, options, progress)
    return measured, table if target is None else with_gpu(measured, table, target, options.precision)


def _on_this_gpu(
    graph: ModelGraph,
    table: CostTable,
    feed: Arrays,
    gpu: MeasuredGpu,
    options: ProfileOptions,
    progress: Callable[[str], None],
) -> CostTable:
    """Return `table` with costs of a GPU of this machine: measured, or where that fails modelled by its data sheet."""
    names = [found.name for found in gpus()[gpu.device : gpu.device + 1]]
    sheet = sheet_of({"name": names[0]}) if names else None
    if sheet is None:
        return with_measured_gpu(graph, table, feed, gpu, options, progress)
    with advisory(f"measuring GPU {gpu.device}, whose costs are modelled instead"):
        return with_measured_gpu(graph, table, feed, gpu, options, progress)
    return with_gpu(graph, table, sheet, options.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """What the cache keeps of one measurement: the costs, the seconds each repetition was given, and the machine then."""

    profile: CpuProfile
    environment: Environment
    budget_s: float

    def serves(self, budget_s: float) -> bool:
        """Return whether measuring for `budget_s` would tell nothing more."""
        return self.profile.session.settled or budget_s <= self.budget_s


def _measure(
    graph: ModelGraph, inputs: Arrays, options: ProfileOptions, workers: int, progress: Callable[[str], None]
) -> _Entry:
    here = environment()
    key = {
        "schema": PROFILE_SCHEMA,
        "method": METHOD,
        "model": graph.digest,
        "shapes": {name: list(shape) for name, shape in sizes_of(inputs).items()},
        "custom_ops": list(graph.custom_ops),
        "onnxruntime": ort.__version__,
        "cpu": here.cpu,
        "cores": here.usable_cores,
        "threads": options.threads,
        "workers": workers,
        "optimization": options.optimization,
    }
    stored = None if options.fresh else _stored(options.cache.get(key))
    if stored is not None and stored.serves(options.budget_s):
        progress("taking measured costs from the cache")
        return stored
    failures = len(skipped_steps())
    measured = profile_cpu(
        graph,
        inputs,
        options=options,
        workers=workers,
        progress=progress,
    )
    entry = _Entry(profile=measured, environment=here, budget_s=options.budget_s)
    if len(skipped_steps()) == failures:  # what failed may work on another day
        options.cache.put(key, serde.to_builtins(entry))
    return entry


def _stored(value: Any) -> _Entry | None:
    """Return what the cache held, or None for nothing and for an entry of another version."""
    try:
        return None if value is None else msgspec.convert(value, _Entry)
    except msgspec.ValidationError:
        return None


def batched(graph: ModelGraph, inputs: Arrays, batch: int) -> dict[str, Any]:
    """Return the inputs with their first dimension repeated `batch` times."""
    if batch == 1:
        return dict(inputs)
    out = {}
    for spec in graph.inputs:
        free = spec.shape is not None and len(spec.shape) > 0 and isinstance(spec.shape[0], str)
        if not free or inputs[spec.name].shape[0] != 1:
            raise UsageError(
                f"input `{spec.name}` cannot be batched: its first dimension is not a free batch dimension of one sample",
                hint="leave --batch at 1, or export the model with a dynamic batch dimension",
            )
        out[spec.name] = inputs[spec.name].repeat(batch, axis=0)
    return out


def _session_cost(run: CpuProfile, batch: int, options: ProfileOptions) -> SessionCost:
    return SessionCost(
        device="cpu",
        backend=CPU_BACKEND,
        batch=batch,
        threads=options.threads,
        latency_s=run.session,
        source="measured",
        optimization=options.optimization,
    )


def _loaded_cost(run: CpuProfile, options: ProfileOptions) -> tuple[SessionCost, ...]:
    if run.loaded is None:
        return ()
    alone = _session_cost(run, options.batch, options)
    return (replace(alone, latency_s=run.loaded, workers=run.workers),)


def _cpu_groups(graph: ModelGraph, run: CpuProfile, batch: int) -> tuple[GroupCost, ...]:
    low, high = run.session.spread
    return pooled(
        [
            replace(
                described(graph, group.nodes),
                batch=batch,
                latency_s=seconds,
                low_s=seconds * low,
                high_s=seconds * high,
                unfused_s={name: run.unfused_s[name] for name in group.nodes if name in run.unfused_s},
            )
            for group, seconds in zip(run.groups, run.group_s, strict=True)
        ]
    )


def described(graph: ModelGraph, nodes: tuple[str, ...]) -> GroupCost:
    """Return a group of the CPU with what it does, and no time yet.

    Args:
        graph: The model, with the shapes of a run.
        nodes: Nodes that run as one unit.
    """
    signature, work = sign(graph, nodes), work_of(graph, nodes)
    return GroupCost(
        nodes=nodes,
        device="cpu",
        backend=CPU_BACKEND,
        batch=1,
        latency_s=None,
        low_s=None,
        high_s=None,
        source="measured",
        flops=sum(amount.flops for amount in work.values()),
        bytes=sum(amount.bytes for amount in work.values()),
        signature=signature.digest,
        canonical=signature.canonical,
        work=work,
    )
