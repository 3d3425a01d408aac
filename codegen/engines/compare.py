"""Error against gain: what every precision, not only the one that was asked for, would do to the numbers of a stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutset.advisory import reason_of, skip
from cutset.codegen.engines.gain import Model, modelled_gain
from cutset.codegen.engines.prepare import Prepared, Recipe, feeds_of
from cutset.codegen.precision.error import OutputError, run_part
from cutset.codegen.precision.quantise import is_quantised
from cutset.codegen.precision.reduce import Original, compare_part
from cutset.errors import CutsetError, ModelError
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Stage
from cutset.profilers.datasheets import PRECISIONS, Precision
from cutset.profilers.session import Arrays

MOST_COMPARED_BYTES = 1 << 30
"""Larger stages are not tried in the precisions that nobody asked for: each is a model of its own, in memory and in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One precision of one stage.

    Args:
        precision: The precision.
        errors: Of each output against fp32, on the sample inputs.
        reduced: How many nodes are in it.
        kept: How many nodes went back to fp32 because of their error; looked for in the chosen precision only.
        gain: How many times faster than fp32 by the GPU's data sheet; None where that is not modelled.
        note: Why it cannot be had or was not compared; empty otherwise.
    """

    precision: Precision
    errors: tuple[OutputError, ...] = ()
    reduced: int = 0
    kept: int = 0
    gain: float | None = None
    note: str = ""


def compare(graph: ModelGraph, stage: Stage, prepared: Prepared, recipe: Recipe) -> tuple[Compared, ...]:
    """Return every precision below fp32: the stage's own as it is built, the others with all their nodes in it.

    Args:
        graph: The whole model.
        stage: A GPU stage.
        prepared: What its engine is built from.
        recipe: How it became that.
    """
    own = prepared.reduced
    try:
        trial = _trial(graph, stage, prepared.plain, recipe)
    except Exception as error:  # whatever rewriting and running a part raises: the comparison is for the report
        note = _note(error, stage, "every precision")
        return tuple(Compared(precision=precision, note=note) for precision in PRECISIONS if precision != "fp32")
    found = []
    for precision in PRECISIONS:
        if precision == own.precision and own.errors:
            found.append(
                Compared(
                    precision=precision, errors=own.errors, reduced=len(own.reduced), kept=len(own.kept), gain=prepared.gain
                )
            )  # fmt: skip
        elif precision != "fp32":
            one = _compared(graph, stage, precision, trial, recipe.gpu)
            refused = prepared.refused if precision == recipe.precision else ""
            found.append(replace(one, note=one.note or refused))
    return tuple(found)


def _note(error: Exception, stage: Stage, precision: str) -> str:
    """Return why there is no comparison; an error that is none of Cutset's own is a step that was left out."""
    if isinstance(error, CutsetError):
        return error.what
    reason = reason_of(error)
    skip(f"comparing {precision} with fp32", f"stage {stage.index}", reason, error)
    return reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    part: Original
    reference: Sequence[Arrays]
    feeds: Sequence[Arrays]
    calibration: Sequence[Arrays]


def _trial(graph: ModelGraph, stage: Stage, plain: Path, recipe: Recipe) -> _Trial:
    files = (plain, plain.with_name(f"{plain.name}.data"))
    if sum(file.stat().st_size for file in files if file.is_file()) > MOST_COMPARED_BYTES:
        raise ModelError("the stage is too large to be compared")
    feeds = feeds_of(graph, stage, recipe.runs.usual)
    calibration = feeds_of(graph, stage, recipe.calibration)
    return _Trial(part=Original(plain, graph), reference=run_part(plain, feeds), feeds=feeds, calibration=calibration)


def _compared(graph: ModelGraph, stage: Stage, precision: Precision, trial: _Trial, gpu: Model | None) -> Compared:
    if precision == "int8" and not trial.calibration and is_quantised(trial.part.model):
        gain = None if gpu is None else modelled_gain(graph, gpu, stage.nodes, precision)
        return Compared(precision=precision, gain=gain, note="the model's own Q/DQ: the same numbers")
    try:
        errors, reduced = compare_part(trial.part, precision, trial.reference, trial.feeds, trial.calibration)
        if not reduced:
            return Compared(precision=precision, note=f"no node of the stage can be in {precision}")
        gain = None if gpu is None else modelled_gain(graph, gpu, stage.nodes, precision, reduced)
    except Exception as error:  # as above
        return Compared(precision=precision, note=_note(error, stage, precision))
    lost = [error.name for error in errors if not math.isfinite(error.max_rel)]
    if lost:
        note = f"output `{lost[0]}` leaves the range of {precision} with all nodes in it"
        return Compared(precision=precision, reduced=len(reduced), gain=gain, note=note)
    return Compared(precision=precision, errors=errors, reduced=len(reduced), gain=gain)
