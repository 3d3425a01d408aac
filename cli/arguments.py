"""What the command line says about a model and about measuring it, as the values that the steps take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutset.cli.options import NO_CACHE
from cutset.profilers.cache import default_folder
from cutset.profilers.datasheets import Precision
from cutset.profilers.table import OptimizationLevel

PROFILE_FILE = re.compile(r"(?P<file>.+\.json)(?:#(?P<machine>\d+))?")
"""A profile, or with a number one machine of a merged profile."""


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
    profile_seconds: float = 6.0
    cache: str | None = None
    optimization: OptimizationLevel = "all"
    precision: Precision = "fp32"
    fresh: bool = False


def split_arguments(model: Path, arguments: dict[str, Any]) -> tuple[ModelArguments, CostArguments]:
    """Return the options of the command line as the two values that the steps take; a cascade is composed.

    Raises:
        CutsetError: If `model` is a cascade that cannot be composed.
    """
    names = ("target", "batch", "threads", "profile_seconds", "cache", "optimization", "precision")
    of_costs = CostArguments(**{name: arguments.pop(name) for name in names if name in arguments})
    about = ModelArguments(model=model, **arguments)
    return _composed(about, of_costs) if model.suffix.lower() in {".yaml", ".yml"} else about, of_costs


def _composed(about: ModelArguments, costs: CostArguments) -> ModelArguments:
    """Return a cascade as the model it stands for; sample inputs lie beside the cascade."""
    from cutset.cli.cascade import composed_in_cache  # noqa: PLC0415 - only cascades need it

    written = composed_in_cache(about.model, cache_folder(costs.cache))
    beside = about.model.with_suffix(".npz")
    inputs = beside if about.inputs is None and not about.shapes and beside.is_file() else about.inputs
    return replace(about, model=written.model, inputs=inputs, custom_ops=(*about.custom_ops, *written.custom_ops))


def cache_folder(text: str | None) -> Path | None:
    """Return where measured costs are kept: a folder, or None for ``none``."""
    if text == NO_CACHE:
        return None
    return default_folder() if text is None else Path(text)
