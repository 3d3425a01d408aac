"""From a GPU stage as it was cut out to the file that its engine is built from: cleaned up, and in the engine's precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cutset.codegen.engines.ranges import Runs
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How stages become engines.

    Args:
        runs: Inputs of the whole model whose shapes engines must take.
        precision: ``fp32``, ``tf32``, ``fp16``, ``bf16`` or ``int8``.
    """

    runs: Runs
    precision: str = "fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What an engine is built from.

    Args:
        model: The ONNX file.
        precision: Of the file.
    """

    model: Path
    precision: str = "fp32"


def prepare(
    graph: ModelGraph,
    stage: Stage,
    model: Path,
    inputs: Sequence[EngineInput],
    recipe: Recipe,
    progress: Callable[[str], None],
) -> Prepared:
    """Return the file that the engine of a stage is built from."""
    return Prepared(model=model, precision=recipe.precision)
