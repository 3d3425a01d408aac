"""Plans whose GPU stages really build: the options, and the step as `partition` takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import click

from cutset.cli.arguments import ModelArguments
from cutset.cli.options import Number
from cutset.cli.workflow import Measured, Progress
from cutset.codegen.engines.cleanup import CLEAN_UPS, DEFAULT, CleanUp
from cutset.codegen.engines.default_ranges import default_ends
from cutset.codegen.engines.feedback import Engineered, Replan, plan_what_builds
from cutset.codegen.engines.gain import Model
from cutset.codegen.engines.prepare import Recipe
from cutset.codegen.engines.ranges import Runs
from cutset.codegen.numerics import ABSOLUTE_SHARE, Tolerance
from cutset.codegen.precision.error import TOLERANCES
from cutset.codegen.precision.reduce import check_calibration
from cutset.codegen.runtime.engine_config import ENGINE_BACKENDS
from cutset.errors import UsageError
from cutset.graph.model import ModelGraph
from cutset.profilers.datasheets import PRECISIONS, Precision, datasheets
from cutset.profilers.gpu_backend import GpuBackend
from cutset.profilers.inputs import parse_shape_range, read_samples
from cutset.profilers.profile import batched
from cutset.profilers.session import Arrays

F = TypeVar("F", bound=Callable[..., Any])


def engine_options(function: F) -> F:
    """Add the options that say how engines are made; `EngineArguments.take` reads them."""
    for option in (
        click.option(
            "--precision-tolerance", type=Number(min=0), metavar="X",
            help="Largest error of the precision, over an output's magnitude; 0.01 for tf32 and fp16, 0.05 bf16, 0.1 int8.",
        ),
        click.option(
            "--no-clean-up", "skipped", type=click.Choice(CLEAN_UPS), multiple=True,
            help="Leave out a rewrite of GPU stages that changes no number; may be repeated.",
        ),
        click.option(
            "--clean-up", "added", type=click.Choice(CLEAN_UPS), multiple=True,
            help=f"Add a rewrite; {' '.join(DEFAULT)} are on. May be repeated.",
        ),
        click.option(
            "--calibration", type=click.Path(path_type=Path), metavar="FILE.npz",
            help="Inputs to calibrate int8 with; arrays of one axis more than the model's hold several samples.",
        ),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True,
            help="Arithmetic of the GPU stages; each is compared with fp32 on the sample inputs.",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineArguments:
    """What the command line says about engines."""

    precision: Precision = "fp32"
    calibration: Path | None = None
    tolerance: float | None = None
    clean_ups: tuple[CleanUp, ...] = DEFAULT

    @classmethod
    def take(cls, arguments: dict[str, Any]) -> EngineArguments:
        """Return the options, removed from `arguments` but for the precision, which costs depend on too.

        Raises:
            UsageError: If they contradict each other.
        """
        skipped, added = arguments.pop("skipped"), arguments.pop("added")
        wanted = cls(
            precision=arguments["precision"],
            calibration=arguments.pop("calibration"),
            tolerance=arguments.pop("precision_tolerance"),
            clean_ups=tuple(name for name in CLEAN_UPS if name in {*DEFAULT, *added} and name not in skipped),
        )
        if wanted.calibration is not None and wanted.precision != "int8":
            raise UsageError("--calibration is for --precision int8", hint="add --precision int8, or leave it out")
        return wanted

    def check(self, graph: ModelGraph) -> None:
        """Refuse a loaded model that no GPU stage could be made of in the precision, before anything is measured.

        Raises:
            UsageError: If int8 is wanted without calibration, and the model is not quantised itself.
        """
        if self.precision == "int8" and self.calibration is None:
            check_calibration({node.op.known_type for node in graph.nodes})

    def tolerate(self, given: Tolerance, backend: GpuBackend) -> Tolerance:
        """Return what the verification of the parts may tolerate: more where they run in the reduced precision here."""
        deployed = backend.name == "onnxruntime-cuda" or (backend.oracle is not None and not backend.oracle.compute_capability)
        if given != Tolerance() or self.precision not in TOLERANCES or not deployed:
            return given
        # `compare` takes a tenth of it, times the largest magnitude, as the absolute tolerance
        return Tolerance(rtol=(self.tolerance or TOLERANCES[self.precision]) / ABSOLUTE_SHARE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What one run of the command has found so far.

    Args:
        measured: The model and its costs.
        about: Where its inputs come from.
        backend: What runs the GPU stages.
        progress: Told what is being done.
    """

    measured: Measured
    about: ModelArguments
    backend: GpuBackend
    progress: Progress


def engineer(session: Session, wanted: EngineArguments, replan: Replan, work: Path) -> Engineered:
    """Return the plan of a measured model, all of whose GPU stages build.

    Args:
        session: The model, and what runs its GPU stages.
        wanted: How engines are made.
        replan: Plans again with other verdicts.
        work: Folder for engines.
    """
    measured = session.measured
    recipe = recipe_of(session, wanted)
    return plan_what_builds(measured.graph, replan, session.backend, recipe, work, session.progress)


def recipe_of(session: Session, wanted: EngineArguments) -> Recipe:
    """Return how stages become engines, for those that are timed and for those that are deployed."""
    measured = session.measured
    return Recipe(
        runs=Runs(usual=measured.samples.samples, ends=cache(partial(ends_of, session))),
        precision=wanted.precision,
        calibration=[] if wanted.calibration is None else read_samples(wanted.calibration, measured.graph.inputs),
        tolerance=wanted.tolerance,
        clean_ups=wanted.clean_ups,
        gpu=_gpu_model(measured),
        compare=True,
        cache=measured.options.cache,
    )


def _gpu_model(measured: Measured) -> Model | None:
    """Return what models the GPU that is planned for, if a data sheet does."""
    sheet = datasheets().get(str((measured.table.target or {}).get("id", "")))
    groups = [group.nodes for group in measured.table.groups_on("gpu")]
    return None if sheet is None else Model(sheet=sheet, groups=groups)


def ends_of(session: Session) -> list[Arrays]:
    """Return inputs of the batch that is planned for, and of the least and the largest sizes that engines should take.

    Ranges of shapes that the command line gives win over the default ones.
    """
    measured, about = session.measured, session.about
    if session.backend.name not in ENGINE_BACKENDS:  # onnxruntime takes every size
        return []
    graph, sample = measured.graph, measured.samples.samples[0]
    ranges = dict(parse_shape_range(text) for text in about.shapes if ":" in text.rpartition("=")[2])
    session.progress("trying which sizes the model takes")
    planned: list[Arrays] = [batched(graph, sample, measured.batch)] if measured.batch > 1 else []
    return planned + default_ends(graph, sample, rows=measured.batch, given=ranges)


def range_lines(stages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each engine takes, a line for each of its inputs.

    Args:
        stages: The plan's ``stages``.
    """
    lines = []
    for stage in stages:
        for given in (stage.get("engine") or {"inputs": ()})["inputs"]:
            if given["values"][0] and given["shapes"][0] == given["shapes"][2]:
                continue  # sizes as numbers, which follow from the other inputs
            least, usual, most = ("x".join(map(str, sizes)) or "scalar" for sizes in given["shapes"])
            takes = f"only {usual}" if least == most else f"{least} to {most}, tuned for {usual}"
            lines.append(f"the engine of stage {stage['index']} takes `{given['name']}` of {takes}; else onnxruntime runs it")
    return lines


def engine_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what there is to tell of the engines in a plan.

    Args:
        found: The plan's ``engines``.
    """
    lines = []
    if found["built"]:
        stages = ", ".join(map(str, found["built"]))
        use = "in the package" if found["deployed"] else f"a trial: the package builds its own with {found['backend']}"
        lines.append(f"engines: stage {stages} builds with {found['answered_by']} ({use})")
    for name, refusal in found["refusals"].items():
        lines.append(f"on the CPU: `{name}` does not build: {refusal['reason']}")
    for stage in found["stages"]:
        if stage["refused"]:
            lines.append(f"stage {stage['stage']} stays in {stage['precision']}: {stage['refused']}")
        if stage["narrowed"]:
            lines.append(f"the engine of stage {stage['stage']} takes the samples' shapes alone: {stage['narrowed']}")
        for error in stage["errors"]:
            kept = f", {len(stage['kept_in_fp32'])} nodes kept in fp32" if stage["kept_in_fp32"] else ""
            if stage["beyond_range"]:
                kept += (
                    f", {len(stage['beyond_range'])} kept because numbers in them may leave the range of {stage['precision']}"
                )
            share = f"{error['max_rel']:.2g} of its magnitude, {stage['tolerance']:g} allowed{kept}"
            lines.append(f"stage {stage['stage']} in {stage['precision']}: output `{error['name']}` differs by up to {share}")
    return lines
