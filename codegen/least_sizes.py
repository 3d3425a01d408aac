"""Find the sizes below which an input ends the process: not every kernel of onnxruntime survives an empty tensor.

LSTM and GRU abort on a batch of no rows, and Einsum divides by zero. A server must not run such a request. So the emitted
stages are run in a child process with each free dimension at zero, then one, and on; what ends the child becomes a lower
bound in plan.json. An ordinary error is no bound: such a request fails alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from cutset.codegen.runtime.backends import load_stage
from cutset.codegen.runtime.backends.base import BackendOptions
from cutset.codegen.runtime.config import StageConfig, read_plan
from cutset.graph.model import ModelGraph
from cutset.graph.types import TensorSpec
from cutset.profilers.child import Failure, Limits, Worker
from cutset.profilers.session import Arrays

LIMITS = Limits(time_s=60.0)
"""Of one trial; it loads the stages of a large model, too."""
ENDED = ("crashed", "exited")
"""Ends of a child that its kernels brought about themselves; for want of time or memory nothing is known."""

WHOLE = 1 << 62
"""A size that cuts nothing."""

Places = tuple[tuple[str, int], ...]
"""Dimensions that have one size: each as the tensor and its axis."""
Least = dict[str, list[int]]
"""Least size of each dimension, by tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeastSizes:
    """The lower bounds of one package.

    Args:
        inputs: Of the model's inputs; those without a bound are left out.
        stages: Of the inputs of each stage, by the stage's index; stages without a bound are left out.
        notes: What was found, a sentence each.
    """

    inputs: Least
    stages: dict[int, Least]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A run of a package with some dimensions cut to a size.

    Args:
        package: Its folder.
        sample: One complete input of the model.
        places: The dimensions: of the model's inputs, or of those of a stage.
        size: The size.
        stage: Index of the stage whose inputs are cut, None to cut the model's.
    """

    package: Path
    sample: Arrays
    places: Places
    size: int
    stage: int | None = None


def find_least_sizes(graph: ModelGraph, package: Path, sample: Arrays) -> LeastSizes:
    """Return the lower bounds of an emitted package.

    Args:
        graph: The whole model.
        package: The folder, with its plan and its stages.
        sample: One complete input of the model.
    """
    plan = read_plan(package)
    own = {spec.name for spec in graph.inputs}
    jobs: list[tuple[int | None, Places]] = [(None, places) for places in free_dimensions(graph.inputs)]
    for stage in plan.stages:
        jobs += [
            (stage.index, places)
            for places in _with_all_rows(free_dimensions([_ranked(graph, name) for name in stage.inputs]))
            if any(name not in own for name, _ in places)
        ]
    inputs: Least = {}
    stages: dict[int, Least] = {}
    notes = []
    with Worker(limits=LIMITS) as worker:
        for index, places in jobs:
            least, why = _least_size(worker, Trial(package=package, sample=sample, places=places, size=0, stage=index))
            if not least:
                continue
            _note(inputs if index is None else stages.setdefault(index, {}), places, least, graph)
            where = "the model" if index is None else f"stage {index}"
            name, axis = places[0]
            notes.append(f"{where} takes at least {least} on dimension {axis} of `{name}`: below that it {why}")
    return LeastSizes(inputs=inputs, stages=stages, notes=tuple(notes))


def add_least_sizes(graph: ModelGraph, package: Path, sample: Arrays, document: dict[str, Any]) -> None:
    """Find the lower bounds of an emitted package, and write them into the plan's document.

    Args:
        graph: The whole model.
        package: The folder, with its plan and its stages.
        sample: One complete input of the model.
        document: The plan as JSON; changed.
    """
    found = find_least_sizes(graph, package, sample)
    for entry in document["inputs"]:
        if entry["name"] in found.inputs:
            entry["least"] = found.inputs[entry["name"]]
    for index, least in found.stages.items():
        document["stages"][index]["least"] = least
    document["least_sizes"] = list(found.notes)


def free_dimensions(specs: Iterable[TensorSpec]) -> list[Places]:
    """Return the dimensions that have no fixed size; those that bear one symbol together."""
    groups: dict[object, list[tuple[str, int]]] = {}
    for spec in specs:
        for axis, size in enumerate(spec.shape or ()):
            if spec.is_tensor and not isinstance(size, int):
                groups.setdefault(size if size is not None else (spec.name, axis), []).append((spec.name, axis))
    return [tuple(places) for places in groups.values()]


def _with_all_rows(groups: list[Places]) -> list[Places]:
    """Add all free first axes as one group: inference calls one number of boxes by many names."""
    rows = tuple(place for places in groups for place in places if place[1] == 0)
    return groups if len(rows) < 2 or rows in groups else [*groups, rows]


def _least_size(worker: Worker, trial: Trial) -> tuple[int, str]:
    """Return the least size that does not end the child, and how the child ended on less; zero where nothing ends it."""
    why, least = "", 0
    for size in (0, 1):
        found = worker.ask(run_trial, replace(trial, size=size))
        if isinstance(found, Failure) and found.kind in ENDED:
            why, least = found.detail, size + 1
    if not least:
        return 0, ""
    own = worker.ask(run_trial, replace(trial, size=WHOLE))
    if isinstance(own, Failure):  # the child does not run the package at all, so nothing is known
        return 0, ""
    while least < own and _ended(worker.ask(run_trial, replace(trial, size=least))):
        least *= 2
    return min(least, own), why


def _ended(found: int | Failure) -> bool:
    return isinstance(found, Failure) and found.kind in ENDED


def _note(least: Least, places: Places, size: int, graph: ModelGraph) -> None:
    """Write a bound down in a list of sizes for each tensor."""
    for name, axis in places:
        sizes = least.setdefault(name, [0] * len(_ranked(graph, name).shape or ()))
        sizes[axis] = max(sizes[axis], size)


def _ranked(graph: ModelGraph, name: str) -> TensorSpec:
    """Return the spec of a value; a rank that inference left open is the one of the measured run."""
    spec = graph.values[name]
    if spec.shape is not None or name not in graph.measured:
        return spec
    return replace(spec, shape=(None,) * len(graph.measured[name]))


def run_trial(trial: Trial) -> int:
    """Run a trial and return the size of its dimensions: the sample's own where the trial's is larger."""
    if trial.stage is None:
        feeds, size = _cut(trial.sample, trial)
        _run_stages(trial.package, feeds, len(_stages(trial.package)))
        return size
    values = _run_stages(trial.package, trial.sample, trial.stage)
    stage, run = _stages(trial.package)[trial.stage]
    feeds, size = _cut({name: values[name] for name in stage.inputs}, trial)
    run(feeds)
    return size


def _cut(arrays: Arrays, trial: Trial) -> tuple[dict[str, Any], int]:
    """Return the arrays with the trial's dimensions cut to its size, and the largest size that they now have."""
    cut = dict(arrays)
    for name, axis in trial.places:
        array = np.asarray(cut[name])
        cut[name] = np.ascontiguousarray(np.take(array, np.arange(min(trial.size, array.shape[axis])), axis=axis))
    return cut, max(np.shape(cut[name])[axis] for name, axis in trial.places)


def _run_stages(package: Path, inputs: Arrays, count: int) -> dict[str, Any]:
    """Return the values after the first stages."""
    values = dict(inputs)
    for stage, run in _stages(package)[:count]:
        values |= run({name: values[name] for name in stage.inputs})
    return values


Run = Callable[[Mapping[str, Any]], dict[str, Any]]


@lru_cache(1)
def _stages(package: Path) -> Sequence[tuple[StageConfig, Run]]:
    """Return each stage of a package with what runs it on the CPU, in this process."""
    plan = read_plan(package)
    options = BackendOptions.of(plan)
    found = []
    for stage in plan.stages:
        backend = stage.backend if stage.backend == "python" else "onnxruntime-cpu"
        here = replace(stage, backend=backend, engine=None, execution="thread", wanted={})
        found.append((here, load_stage(here, options).run))
    return found
