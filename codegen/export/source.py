"""What every export is made of: the verified package with its plan, the model, and one sample."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cutset.codegen.runtime import DegradedWarning
from cutset.codegen.runtime.config import PlanConfig, StageConfig, TensorConfig, parse_plan
from cutset.codegen.runtime.dtypes import Value
from cutset.codegen.runtime.replica import StageReplica
from cutset.codegen.split import external_files
from cutset.errors import PlanError
from cutset.graph.model import ModelGraph

_OF_THE_WHOLE = (
    "schema",
    "name",
    "decision",
    "cpu_workers",
    "intra_op_threads",
    "tokens",
    "queue_limit",
    "max_batch",
    "custom_ops",
)
"""What a plan says of all stages and the runtime reads."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package that was proven to equal the whole model.

    Args:
        package: Its folder.
        document: Its plan.json.
        graph: The whole model.
        sample: Inputs it was verified with.
    """

    package: Path
    document: Mapping[str, Any]
    graph: ModelGraph
    sample: Mapping[str, Value]

    @cached_property
    def plan(self) -> PlanConfig:
        """The plan as the runtime reads it."""
        return parse_plan(dict(self.document), self.package)

    @cached_property
    def tensors(self) -> dict[str, TensorConfig]:
        """The model's inputs and outputs, and what crosses between stages, by name."""
        read = [name for stage in self.plan.stages for name in stage.inputs]
        names = dict.fromkeys([*read, *(tensor.name for tensor in (*self.plan.inputs, *self.plan.outputs))])
        specs = [self.graph.values[name] for name in names]
        return {spec.name: TensorConfig(name=spec.name, dtype=spec.dtype, shape=spec.shape) for spec in specs}

    @cached_property
    def values(self) -> dict[str, Value]:
        """The sample's value of each of `tensors`, by running the stages one after the other."""
        found = dict(self.sample)
        for stage in self.plan.stages:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DegradedWarning)
                replica = StageReplica.load(self.package, stage.index)
            try:
                (outcome,) = replica.run([found])
            finally:
                replica.close()
            if isinstance(outcome, Exception):
                raise PlanError(f"the sample failed: {outcome}")
            found |= outcome
        return found

    def used(self, stage: StageConfig) -> tuple[TensorConfig, ...]:
        """Return the outputs of a stage that another stage or the caller needs."""
        return tuple(self.tensors[name] for name in stage.outputs if name in self.tensors)

    def workers(self, stage: StageConfig) -> int:
        """Return how many copies of a CPU stage share the plan's workers with the other stages: as its time, at least one."""
        total = sum(other.service_s for other in self.plan.stages if other.device == stage.device)
        if stage.device == "gpu" or total <= 0:
            return 1
        return max(1, round(self.plan.cpu_workers * stage.service_s / total))

    def alone(self, stage: StageConfig) -> str:
        """Return plan.json of a package of one stage, of which `StageReplica` needs no more."""
        kept = (
            "schema",
            "decision",
            "name",
            "cpu_workers",
            "intra_op_threads",
            "tokens",
            "queue_limit",
            "max_batch",
            "custom_ops",
        )
        document = {key: self.document[key] for key in kept} | {
            "stages": [{**self.document["stages"][stage.index], "index": 0, "outputs": list(stage.outputs)}],
            "inputs": [_entry(self.tensors[name]) for name in stage.inputs],
            "outputs": [_entry(tensor) for tensor in self.used(stage)],
        }
        return json.dumps(document, indent=1)

    def files(self, stage: StageConfig) -> Sequence[Path]:
        """Return the files of the package that a stage needs."""
        models = [stage.model, *([stage.engine.model] if stage.engine else [])]
        weights = [model.parent / place for model in models if model.is_file() for place in external_files(model)]
        engines = [self.package / "engines" / "engines.json", *self.package.glob(f"engines/{stage.index:02d}-*")]
        engines += [stage.engine.sample] if stage.engine is not None and stage.engine.sample is not None else []
        libraries = [library.file for library in self.plan.custom_ops if library.file]
        return [path for path in dict.fromkeys([*models, *weights, *engines, *libraries]) if path.is_file()]


def _entry(tensor: TensorConfig) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": None if tensor.shape is None else list(tensor.shape)}
