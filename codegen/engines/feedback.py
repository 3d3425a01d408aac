"""Plan, build every GPU stage, and plan again without the nodes that do not build, until all of a plan builds.

Each round takes at least one node from the GPU for good, so it ends: at the latest when nothing is left there. Nodes that
are like one that does not build are taken with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutset.advisory import advisory
from cutset.codegen.engines.alike import Neighbourhoods
from cutset.codegen.engines.build import Culprit, Part, build_parts, find_culprit, words_of
from cutset.codegen.engines.compare import Compared, compare
from cutset.codegen.engines.prepare import Prepared, Recipe, prepare
from cutset.codegen.runtime.backends.engine_build import BuildReport
from cutset.codegen.split import write_stage
from cutset.errors import ProfileError, UsageError, VerificationError
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Plan, Stage
from cutset.partitioner.support import Support
from cutset.profilers.capability import Oracle
from cutset.profilers.child import Failure
from cutset.profilers.gpu_backend import GpuBackend

Replan = Callable[[Mapping[str, Support]], Plan]

_ASKED_FOR = (UsageError, ProfileError, VerificationError)
"""Inputs, shapes or a precision that the user asked for and the model does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltStage:
    """A GPU stage that is ready to be deployed.

    Args:
        stage: The stage.
        prepared: The file it is built from, and how far that is from the original.
        engine: The engine, None where nothing was built.
        report: What building took, None likewise.
        compared: What other precisions would do to its numbers, where the recipe asks for it.
    """

    stage: Stage
    prepared: Prepared
    engine: Path | None = None
    report: BuildReport | None = None
    compared: tuple[Compared, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Engineered:
    """A plan all of whose GPU stages build, as far as there is a library to tell.

    Args:
        plan: The plan.
        backend: What runs the GPU stages, and who built them.
        stages: The GPU stages in order; one for which nothing could be made is left out, and runs in onnxruntime.
        refusals: Nodes that were taken from the GPU because they did not build, in the order found.
    """

    plan: Plan
    backend: GpuBackend
    stages: tuple[BuiltStage, ...]
    refusals: Mapping[str, Support]


def plan_what_builds(
    graph: ModelGraph, replan: Replan, backend: GpuBackend, recipe: Recipe, work: Path, progress: Callable[[str], None]
) -> Engineered:
    """Return a plan all of whose GPU stages build as engines, with the engines.

    Args:
        graph: The model.
        replan: Returns the plan when the given nodes have these verdicts instead of their own.
        backend: What runs the GPU stages, and who builds.
        recipe: How a stage becomes the file that its engine is built from.
        work: Folder for files.
        progress: Told what is being done.

    Raises:
        PlanError: If a node that does not build is pinned to the GPU.
        ProfileError: If the model does not run on one of the inputs.
        VerificationError: If a stage's precision cannot be reduced within the tolerance.
    """
    refusals: dict[str, Support] = {}
    built: dict[tuple[object, ...], BuiltStage | None] = {}
    while True:
        plan = replan(refusals)
        stages = [stage for stage in plan.stages if stage.device == "gpu"]
        fresh = [stage for stage in stages if _identity(stage) not in built]
        folder = work / f"round-{len(refusals)}"
        models = {stage.index: folder / source_of(stage, plan) for stage in fresh}
        for stage in fresh:
            write_stage(graph, stage, models[stage.index])
        found: dict[str, Support] = {}
        for stage in fresh:
            if not found.keys().isdisjoint(stage.nodes):
                continue  # a node of it was refused with one of another stage
            outcome: BuiltStage | Culprit | None = None
            with advisory("making an engine", f"stage {stage.index}", ends=_ASKED_FOR):
                outcome = _make(graph, stage, models[stage.index], backend.oracle, recipe, progress)
            if isinstance(outcome, Culprit):
                found |= _refusals(graph, stages, outcome, backend.oracle, recipe, progress)
            else:
                built[_identity(stage)] = outcome
        if not found:
            ready = [made for stage in stages if (made := built[_identity(stage)]) is not None]
            done = tuple(_compare(graph, one, recipe, progress) for one in ready)
            return Engineered(plan=plan, backend=backend, stages=done, refusals=refusals)
        refusals |= found


def _make(
    graph: ModelGraph, stage: Stage, model: Path, oracle: Oracle | None, recipe: Recipe, progress: Callable[[str], None]
) -> BuiltStage | Culprit:
    """Return the stage ready to be deployed, with its engine where there is a library, or the node that it fails for."""
    ready = BuiltStage(stage=stage, prepared=prepare(graph, stage, model, recipe, progress))
    if oracle is None:
        return ready
    with advisory("building an engine", f"stage {stage.index}", ends=_ASKED_FOR):
        return _build(graph, ready, oracle, recipe, progress)
    return ready  # the package builds it where it serves


def _refusals(
    graph: ModelGraph,
    stages: Sequence[Stage],
    culprit: Culprit,
    oracle: Oracle | None,
    recipe: Recipe,
    progress: Callable[[str], None],
) -> dict[str, Support]:
    """Return the verdicts against a node that does not build and, where that can be found out, against all like it."""
    assert oracle is not None
    reasons = {culprit.node: culprit.reason}
    with advisory("looking for nodes that are alike", f"node `{culprit.node}`"):
        around = Neighbourhoods(graph, [one.nodes for one in stages], recipe.runs.usual[0], oracle, recipe.cache)
        reasons = around.refuse(culprit, progress)
    return {name: Support(ok=False, reason=reason, source=oracle.title) for name, reason in reasons.items()}


def _compare(graph: ModelGraph, ready: BuiltStage, recipe: Recipe, progress: Callable[[str], None]) -> BuiltStage:
    if not recipe.compare:
        return ready
    progress(f"comparing stage {ready.stage.index} in every precision with fp32")
    with advisory("comparing precisions", f"stage {ready.stage.index}"):
        return replace(ready, compared=compare(graph, ready.stage, ready.prepared, recipe))
    return ready


def _identity(stage: Stage) -> tuple[object, ...]:
    """Return what a stage's file depends on; its index is in its name."""
    return stage.index, stage.nodes, stage.inputs, stage.outputs


def source_of(stage: Stage, plan: Plan) -> str:
    """Return the place of the file that a stage's engine is built from, before its precision.

    The only stage of a plan is the user's own file, so what a library takes lies beside it.
    """
    return stage.model if len(plan.stages) > 1 else stage.model.removesuffix(".onnx") + ".engine.onnx"


def _build(
    graph: ModelGraph, ready: BuiltStage, oracle: Oracle, recipe: Recipe, progress: Callable[[str], None]
) -> BuiltStage | Culprit:
    """Return the stage with its engine, or the node that keeps it from building."""
    stage = ready.stage
    progress(f"building stage {stage.index} ({len(stage.nodes)} nodes) with {oracle.title}")
    tried, outcome = _build_widest(ready, oracle, recipe, progress)
    if isinstance(outcome, Failure) and ready.prepared.model != ready.prepared.plain:
        progress(f"building stage {stage.index} in fp32: {recipe.precision} does not build")
        ready = replace(ready, prepared=ready.prepared.in_fp32(words_of(outcome)))
        tried, outcome = _build_widest(ready, oracle, recipe, progress)
    if isinstance(outcome, Failure):
        return find_culprit(graph, _part(tried), outcome, oracle, progress)
    return replace(tried, engine=_part(tried).engine, report=outcome)


def _build_widest(
    ready: BuiltStage, oracle: Oracle, recipe: Recipe, progress: Callable[[str], None]
) -> tuple[BuiltStage, BuildReport | Failure]:
    """Build a stage for its ranges, or for the samples' shapes alone where that fails; return it with what came of it."""
    outcome = _try(_part(ready), oracle, recipe)
    if not isinstance(outcome, Failure) or ready.prepared.observed in ((), ready.prepared.inputs):
        return ready, outcome
    progress(f"building stage {ready.stage.index} for the samples' shapes alone: its ranges do not build")
    narrow = replace(ready, prepared=ready.prepared.for_samples_alone(words_of(outcome)))
    return narrow, _try(_part(narrow), oracle, recipe)


def _part(ready: BuiltStage) -> Part:
    model = ready.prepared.model
    return Part(nodes=ready.stage.nodes, model=model, engine=model.with_suffix(".engine"), inputs=ready.prepared.inputs)


def _try(part: Part, oracle: Oracle, recipe: Recipe) -> BuildReport | Failure:
    tf32 = recipe.precision == "tf32"
    (outcome,) = build_parts([part], oracle, tf32=tf32, timing_cache=recipe.cache.timing_cache)
    return outcome
