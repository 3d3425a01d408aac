"""Prove which stages may run the rows of several requests as one: f(concat(a, b)) == concat(f(a), f(b)).

Two things must hold. The first axis is one and the same symbolic dimension on every input and output of the stage. And on
sample inputs, the rows of a joint run equal those of runs apart, within the tolerance of their type. The second alone
could be luck; the first alone is not enough: a recurrent network over `num_tokens` has it, and mixes its rows.

Where the first axis is fixed at one, as behind the decoding of one picture, a stage for a GPU is given a free one first. A
GPU is quick only with many rows; a CPU gains nothing from them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx

from cutset.codegen.numerics import compare
from cutset.codegen.runtime.batching import batch_key
from cutset.errors import CutsetError
from cutset.graph.model import ModelGraph
from cutset.graph.rows import with_free_rows
from cutset.partitioner.plan import Stage
from cutset.profilers.session import Arrays, open_session, release_memory, run

_MOST_SAMPLES = 3
_MOST_JOINT_RUNS = 4
_Function = Callable[[Arrays], Arrays]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batchability:
    """Whether a stage is batchable, as plan.json records it.

    Args:
        proven: Whether the runtime may batch it.
        reason: Why not; empty where it may.
        rows: Rows of the largest joint run that was compared.
        max_abs: Largest absolute difference seen.
        axis: Name of the free first dimension; empty where it is not proven.
    """

    proven: bool
    reason: str = ""
    rows: int = 0
    max_abs: float = 0.0
    axis: str = ""


def prove_all(
    graph: ModelGraph, stages: Sequence[Stage], folder: Path, samples: Sequence[Arrays], *, keep: Collection[int] = ()
) -> list[Batchability]:
    """Return the finding on each stage, running all of them in order on samples; files of GPU stages may be given free rows.

    Args:
        graph: The whole model.
        stages: The plan's stages, written under `folder`.
        folder: The package folder.
        samples: Complete inputs of the model; the first few are used.
        keep: Indices of the stages whose files must stay as they are.
    """
    live = [dict(sample) for sample in samples[:_MOST_SAMPLES]]
    found = []
    for stage in stages:
        session = open_session(folder / stage.model, custom_ops=graph.custom_ops)
        feeds = [{name: values[name] for name in stage.inputs} for values in live]
        results = [run(session, feed, stage.outputs) for feed in feeds]
        reason, axis = _axis(graph, stage)
        if axis:
            finding = prove(partial(run, session, outputs=stage.outputs), feeds, results)
            finding = replace(finding, axis=axis if finding.proven else "")
        elif stage.device == "gpu" and stage.index not in keep:
            finding = free(graph, folder / stage.model, stage.outputs, feeds, results)
        else:
            finding = Batchability(proven=False)
        found.append(finding if finding.proven or finding.reason else Batchability(proven=False, reason=reason))
        for values, outputs in zip(live, results, strict=True):
            values.update(outputs)
        del session
    release_memory()
    return found


def free(
    graph: ModelGraph, model: Path, outputs: Sequence[str], feeds: Sequence[Arrays], results: Sequence[Arrays]
) -> Batchability:
    """Give a stage of one row free rows in its file, if runs prove that they stay apart; else leave the file as it is.

    Args:
        graph: The whole model.
        model: The stage's file.
        outputs: What it writes.
        feeds: Its inputs, one entry a sample.
        results: What it gave for each.

    Returns:
        The finding; without a reason where a tensor has another number of rows than one.
    """
    values = [value for arrays in (*feeds, *results) for value in arrays.values()]
    if not values or not all(isinstance(value, np.ndarray) and value.shape[:1] == (1,) for value in values):
        return Batchability(proven=False)
    proto = onnx.load(str(model), load_external_data=False)
    if any(not value.type.tensor_type.shape.dim for value in (*proto.graph.input, *proto.graph.output)):
        return Batchability(proven=False, reason="the rank of a tensor is not known")
    freed, axis = with_free_rows(proto)
    trial = model.with_name(f"{model.stem}.free.onnx")
    trial.write_bytes(freed.SerializeToString())
    try:
        session = open_session(trial, custom_ops=graph.custom_ops)
        finding = prove(partial(run, session, outputs=outputs), feeds, results)
        del session
    except CutsetError as error:
        finding = Batchability(proven=False, reason=f"with free rows onnxruntime refuses it: {error.cause or error.what}"[:300])
    if finding.proven:
        trial.replace(model)
        return replace(finding, axis=axis)
    trial.unlink()
    return replace(finding, reason=f"its rows are fixed at one, and freed {finding.reason}")


def prove(function: _Function, feeds: Sequence[Arrays], results: Sequence[Arrays]) -> Batchability:
    """Return whether joint runs of `function` equal runs apart.

    Args:
        function: One stage.
        feeds: Its inputs, one entry a sample.
        results: What it gave for each.
    """
    feeds, results = list(feeds), list(results)
    for feed in list(feeds):
        backwards = {name: np.flip(value, axis=tuple(range(1, np.ndim(value)))).copy() for name, value in feed.items()}
        feeds.append(backwards)
        try:
            results.append(function(backwards))
        except CutsetError:
            feeds.pop()  # reversed rows are no valid input everywhere
    shared = [found[0] for found in (batch_key(list(feed.values())) for feed in feeds) if found is not None]
    if len(shared) != len(feeds):
        return Batchability(proven=False, reason="the inputs of a sample have no common number of rows")
    rows, largest, compared = 0, 0.0, 0
    for one, other in itertools.permutations(range(len(feeds)), 2):
        if compared == _MOST_JOINT_RUNS:
            break
        if shared[one] != shared[other] or _same(feeds[one], feeds[other]):
            continue
        order = (one, other, one)
        finding = _joint(function, [feeds[index] for index in order], [results[index] for index in order])
        if not finding.proven:
            return finding
        rows, largest, compared = max(rows, finding.rows), max(largest, finding.max_abs), compared + 1
    if not compared:
        return Batchability(proven=False, reason="no two different samples have the same shapes")
    return Batchability(proven=True, rows=rows, max_abs=largest)


def _joint(function: _Function, feeds: Sequence[Arrays], results: Sequence[Arrays]) -> Batchability:
    """Compare one joint run with runs apart."""
    joint = {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
    rows = len(next(iter(joint.values())))
    try:
        outputs = function(joint)
    except CutsetError as error:
        return Batchability(proven=False, reason=f"a joint run fails: {error.cause or error.what}"[:300])
    largest = 0.0
    for name, value in outputs.items():
        try:
            expected = np.concatenate([result[name] for result in results])
        except ValueError as error:
            return Batchability(proven=False, reason=f"output `{name}`: {error}")
        if expected.shape[:1] != (rows,):
            return Batchability(proven=False, reason=f"output `{name}` has {len(expected)} rows for {rows} of the inputs")
        difference = compare(name, expected, value)
        if difference.reason:
            return Batchability(proven=False, reason=f"output `{name}` of a joint run differs: {difference.reason}")
        largest = max(largest, difference.max_abs)
    return Batchability(proven=True, rows=rows, max_abs=largest)


def _axis(graph: ModelGraph, stage: Stage) -> tuple[str, str]:
    """Return why the shapes alone rule batching out, or the name of the first axis; one of them is empty."""
    symbols = set()
    for name in (*stage.inputs, *stage.outputs):
        spec = graph.values[name]
        if not spec.is_tensor or not spec.shape:
            return f"`{name}` has no first axis", ""
        if not isinstance(spec.shape[0], str):
            return f"the first axis of `{name}` is {'fixed' if isinstance(spec.shape[0], int) else 'unknown'}", ""
        symbols.add(spec.shape[0])
    if not stage.inputs:
        return "it reads no input", ""
    if len(symbols) > 1:
        return f"the first axes are different dimensions: {', '.join(sorted(symbols))}", ""
    return "", symbols.pop()


def _same(one: Arrays, other: Arrays) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in one)
