"""Find the sizes below which an input ends the process: not every kernel of onnxruntime survives an empty tensor.

LSTM and GRU abort on a batch of no rows, and Einsum divides by zero. A server must not run such a request. So the emitted
stages are run in a child process with each free dimension at zero, then one, and on; what ends the child becomes a lower
bound in plan.json. An ordinary error is no bound: such a request fails alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
ENDED = ("crashed", "exited", "timeout")
"""Ends of a child that its kernels brought about themselves; one that was killed was killed by others."""

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
    for entry in document["stages"]:
        least = found.stages.get(entry["index"], {}) | {
            name: found.inputs[name] for name in entry["inputs"] if name in found.inputs
        }
        if least:
            entry["least"] = least
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
        if isinstance(found, Failure) and _ended(found):
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
    return isinstance(found, Failure) and (found.kind in ENDED or found.detail.startswith("crashed"))


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
    package = _open(trial.package)
    if trial.stage is None:
        feeds, size = _cut(trial.sample, trial)
        package.run(feeds)
        return size
    stage, run = package.stages[trial.stage]
    values = package.values_before(trial.stage, trial.sample)
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


Run = Callable[[Mapping[str, Any]], dict[str, Any]]


class _Package:
    """The stages of a package, loaded on the CPU of this process.

    Args:
        folder: The package folder.
    """

    def __init__(self, folder: Path) -> None:
        plan = read_plan(folder)
        options = BackendOptions.of(plan)
        self.stages: list[tuple[StageConfig, Run]] = []
        for stage in plan.stages:
            backend = stage.backend if stage.backend == "python" else "onnxruntime-cpu"
            here = replace(stage, backend=backend, engine=None, execution="thread", wanted={})
            self.stages.append((here, load_stage(here, options).run))
        self._values: list[dict[str, Any]] = []

    def run(self, inputs: Arrays) -> None:
        """Run all stages."""
        values = dict(inputs)
        for stage, run in self.stages:
            values |= run({name: values[name] for name in stage.inputs})

    def values_before(self, index: int, sample: Arrays) -> dict[str, Any]:
        """Return the sample and what the stages before one make of it; each stage runs once on the sample."""
        if not self._values:
            self._values.append(dict(sample))
        for stage, run in self.stages[len(self._values) - 1 : index]:
            before = self._values[-1]
            self._values.append(before | run({name: before[name] for name in stage.inputs}))
        return self._values[index]


@lru_cache(1)
def _open(folder: Path) -> _Package:
    return _Package(folder)
