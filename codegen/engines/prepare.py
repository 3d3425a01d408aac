"""From a GPU stage as it was cut out to the file that its engine is built from: cleaned up, and in the engine's precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutset.advisory import advisory, reason_of, skip
from cutset.codegen.engines.cleanup import DEFAULT, CleanUp, clean
from cutset.codegen.engines.gain import Model, modelled_gain
from cutset.codegen.engines.ranges import Runs, engine_inputs, input_ranges
from cutset.codegen.precision.reduce import Reduced, reduce_part
from cutset.codegen.runtime.backends.engine_compile import BuildSettings
from cutset.codegen.runtime.engine_config import EngineInput
from cutset.errors import ModelError, UsageError, VerificationError
from cutset.graph.model import ModelGraph
from cutset.graph.protos import write_model
from cutset.partitioner.plan import Stage
from cutset.profilers.cache import CostCache
from cutset.profilers.datasheets import Precision
from cutset.profilers.segments import Segment, boundary_values
from cutset.profilers.session import Arrays

UNTOUCHED = Reduced(model=None, precision="fp32", tolerance=0.0, errors=(), reduced=(), kept=())
"""A stage as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How stages become engines.

    Args:
        runs: Inputs of the whole model: engines must take their shapes, and precisions are compared on the usual ones.
        precision: Of the engines.
        calibration: Inputs of the whole model to calibrate int8 with.
        tolerance: Largest error of a precision over an output's largest magnitude; None takes the precision's own.
        clean_ups: Rewrites that do not change numbers.
        gpu: What models the GPU, None where its costs are measured or recorded.
        compare: Whether the other precisions are compared, too, for the report.
        cache: Where the library's answers about nodes that are alike are kept.
    """

    runs: Runs
    precision: Precision = "fp32"
    calibration: Sequence[Arrays] = ()
    tolerance: float | None = None
    clean_ups: Sequence[CleanUp] = DEFAULT
    gpu: Model | None = None
    compare: bool = False
    cache: CostCache = field(default_factory=lambda: CostCache(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What an engine is built from.

    Args:
        inputs: What the engine must take.
        plain: The stage's own file, cleaned up.
        cleaned: The clean-ups that changed it.
        model: The file that the engine is built from: the same, or one in another precision.
        reduced: What its precision changed.
        refused: Why the precision that was asked for does not build, so that the stage stays in fp32; empty when it does.
        gain: How many times faster than fp32 it should be by the GPU's data sheet; None where that is not known.
        observed: What the stage was given on the samples alone: what an engine takes that does not build for `inputs`.
        narrowed: Why the engine does not build for more than `observed`; empty when it does.
    """

    inputs: tuple[EngineInput, ...]
    plain: Path
    cleaned: tuple[CleanUp, ...]
    model: Path
    reduced: Reduced
    refused: str = ""
    gain: float | None = None
    observed: tuple[EngineInput, ...] = ()
    narrowed: str = ""

    def for_samples_alone(self, reason: str) -> Prepared:
        """Return the stage with an engine for the samples' shapes alone, for which a reason is given."""
        return replace(self, inputs=self.observed, narrowed=reason)

    def in_fp32(self, reason: str) -> Prepared:
        """Return the stage in fp32, for which a reason is given."""
        return replace(self, model=self.plain, reduced=UNTOUCHED, refused=reason, gain=None)


def prepare(graph: ModelGraph, stage: Stage, model: Path, recipe: Recipe, progress: Callable[[str], None]) -> Prepared:
    """Return the file that the engine of a stage is built from; the stage's own is cleaned up.

    Args:
        graph: The whole model.
        stage: The stage.
        model: Its file.
        recipe: How it becomes an engine.
        progress: Told what is being done.

    Raises:
        UsageError: If int8 is asked for and there is nothing to calibrate with.
        VerificationError: If the precision's error is beyond the tolerance.
    """
    inputs, observed = input_ranges(graph, stage.inputs, recipe.runs)
    cleaned = clean(model, inputs, recipe.clean_ups)
    narrower = recipe.precision != "fp32"
    if narrower:
        progress(f"comparing stage {stage.index} in {recipe.precision} with fp32")
    in_fp32 = Prepared(inputs=inputs, plain=model, cleaned=cleaned, model=model, reduced=UNTOUCHED, observed=observed)
    try:
        return _in_precision(graph, stage, in_fp32, recipe)
    except (UsageError, VerificationError):  # what was asked for lacks something, or costs too much
        raise
    except Exception as error:  # a stage that cannot be brought to a precision still runs in fp32
        reason = reason_of(error)
        skip(f"bringing it to {recipe.precision}", f"stage {stage.index}", reason, error)
        return in_fp32.in_fp32(reason)


def _in_precision(graph: ModelGraph, stage: Stage, plain: Prepared, recipe: Recipe) -> Prepared:
    """Return the stage in the precision of the recipe; raises as `prepare`, and whatever rewriting and running it raises."""
    model, narrower = plain.model, recipe.precision != "fp32"
    reduced = reduce_part(
        model,
        recipe.precision,
        feeds_of(graph, stage, recipe.runs.usual) if narrower else (),
        calibration=feeds_of(graph, stage, recipe.calibration) if recipe.precision == "int8" else (),
        tolerance=recipe.tolerance,
        whole=graph,
    )
    gain = None
    if narrower and recipe.gpu is not None:
        its_own = recipe.precision == "int8" and reduced.model is None
        with advisory("modelling the gain of a precision", f"stage {stage.index}"):
            gain = modelled_gain(graph, recipe.gpu, stage.nodes, recipe.precision, None if its_own else reduced.reduced)
    if reduced.model is None:
        return replace(plain, reduced=reduced, gain=gain)
    target = model.with_name(f"{model.stem}.{recipe.precision}.onnx")
    write_model(reduced.model, target)
    return replace(plain, model=target, reduced=reduced, gain=gain)


def as_deployed(graph: ModelGraph, segments: Sequence[Segment], models: Sequence[Path], recipe: Recipe) -> list[BuildSettings]:
    """Make of the files of segments what engines would be built from, and return what the builder is told of each.

    A segment that cannot be brought to the precision stays in fp32, as a stage does whose engine does not build in it.

    Args:
        graph: The whole model.
        segments: Parts of the model.
        models: Their files, which are changed.
        recipe: How stages become engines.
    """
    names = tuple(dict.fromkeys(name for segment in segments for name in segment.inputs))
    ranges = {given.name: given for given in engine_inputs(graph, names, recipe.runs)}
    told = []
    cache = recipe.cache.timing_cache
    for segment, model in zip(segments, models, strict=True):
        inputs = tuple(ranges[name] for name in segment.inputs)
        clean(model, inputs, recipe.clean_ups)
        reduced = _reduced(graph, segment, model, recipe)
        tf32 = reduced is not None and recipe.precision == "tf32"
        told.append(BuildSettings(inputs=inputs, tf32=tf32, timing_cache=None if cache is None else str(cache)))
        if reduced is not None and reduced.model is not None:
            write_model(reduced.model, model)
    return told


def _reduced(graph: ModelGraph, segment: Segment, model: Path, recipe: Recipe) -> Reduced | None:
    if recipe.precision == "fp32":
        return None
    try:
        return reduce_part(
            model,
            recipe.precision,
            feeds_of(graph, segment, recipe.runs.usual),
            calibration=feeds_of(graph, segment, recipe.calibration),
            tolerance=recipe.tolerance,
            whole=graph,
        )
    except (ModelError, VerificationError):
        return None


def feeds_of(graph: ModelGraph, stage: Stage | Segment, runs: Sequence[Arrays]) -> list[Arrays]:
    """Return what a stage reads in runs of the whole model."""
    cut = Segment(nodes=(), inputs=stage.inputs, outputs=())
    found = [boundary_values(graph, inputs, [cut]) for inputs in runs]
    return [{name: values[name] for name in stage.inputs} for values in found]
