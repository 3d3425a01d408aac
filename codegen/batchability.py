"""Prove which stages may run the rows of several requests as one: f(concat(a, b)) == concat(f(a), f(b)).

Two judges that know nothing of each other must both say yes. One follows the rows through the graph (`cutset.rowwise`): its
yes holds for any inputs and any number of rows, if operators compute what ONNX says. The other compares joint runs with runs
apart on requests that differ in scale, sign, order and content (`codegen.joint_runs`): its yes holds for what really ran.

Where the first axis is fixed at one, as behind the decoding of one picture, a stage for a GPU is given a free one first. A
GPU is quick only with many rows; a CPU gains nothing from them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from cutset.advisory import advisory
from cutset.codegen.joint_runs import judge
from cutset.codegen.numerics import compare
from cutset.errors import CutsetError
from cutset.graph.local_functions import inline_functions
from cutset.graph.model import ModelGraph
from cutset.graph.rows import with_free_rows
from cutset.partitioner.plan import Stage
from cutset.profilers.session import Arrays, open_session, release_memory, run, session_options
from cutset.rowwise import RowFlow, follow_rows

_MOST_SAMPLES = 3
_MOST_WITNESSES = 16
_WITNESS_BYTES = 64 << 20

_FLATTENS = frozenset(
    {
        "ArgMax", "ArgMin", "Cast", "Ceil", "Clip", "Equal", "Erf", "Floor", "Greater", "GreaterOrEqual", "HardSigmoid",
        "Hardmax", "Less", "LessOrEqual", "LogSoftmax", "QuantizeLinear", "Round", "Sigmoid", "Sign", "Softmax", "Softsign",
        "Tanh", "TopK",
    }
)  # fmt: skip
"""Operators behind which different values may look the same."""


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
    findings = []
    for stage in stages:
        session = open_session(
            folder / stage.model, custom_ops=graph.custom_ops, options=session_options(keeps_dropout=graph.keeps_dropout)
        )
        feeds = [{name: values[name] for name in stage.inputs} for values in live]
        results = [run(session, feed, stage.outputs) for feed in feeds]
        del session
        finding = Batchability(proven=False, reason="it could not be examined")
        with advisory("proving which requests share a run", f"stage {stage.index}"):
            reason, axis = _axis(graph, stage)
            if axis:
                finding = _prove(graph, folder / stage.model, stage.outputs, feeds, axis)
            elif stage.device == "gpu" and stage.index not in keep:
                finding = free(graph, folder / stage.model, stage.outputs, feeds, results)
            else:
                finding = Batchability(proven=False)
            finding = finding if finding.proven or finding.reason else Batchability(proven=False, reason=reason)
        findings.append(finding)
        for values, outputs in zip(live, results, strict=True):
            values.update(outputs)
    release_memory()
    return findings


def free(
    graph: ModelGraph, model: Path, outputs: Sequence[str], feeds: Sequence[Arrays], results: Sequence[Arrays]
) -> Batchability:
    """Give a stage of one row free rows in its file, if both judges say that rows stay apart; else leave the file as it is.

    Args:
        graph: The whole model.
        model: The stage's file.
        outputs: Names of its outputs.
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
        finding = _prove(graph, trial, outputs, feeds, axis)
        changed = _changed(graph, trial, feeds, results) if finding.proven else ""
        finding = Batchability(proven=False, reason=changed) if changed else finding
        if finding.proven:
            trial.replace(model)
            return finding
        return replace(finding, reason=f"its rows are fixed at one, and freed {finding.reason}")
    finally:
        trial.unlink(missing_ok=True)


def _changed(graph: ModelGraph, trial: Path, feeds: Sequence[Arrays], results: Sequence[Arrays]) -> str:
    """Return how a freed stage differs from what it was, on single rows; empty where it does not.

    A reshape to ``[1, ...]`` that is freed takes the first dimension, which may hold something else than the row.
    """
    try:
        session = open_session(trial, custom_ops=graph.custom_ops)
        made = [run(session, feed, list(result)) for feed, result in zip(feeds, results, strict=True)]
    except CutsetError as error:
        return f"onnxruntime refuses it: {error.cause or error.what}"[:300]
    found = (compare(name, result[name], again[name]) for result, again in zip(results, made, strict=True) for name in result)
    return next((f"`{each.name}` differs: {each.reason}" for each in found if each.reason), "")


def _prove(graph: ModelGraph, model: Path, outputs: Sequence[str], feeds: Sequence[Arrays], axis: str) -> Batchability:
    """Return what both judges say of a stage whose inputs and outputs have a free first dimension.

    Args:
        graph: The whole model.
        model: The stage's file; another one is written beside it for a moment.
        outputs: Names of its outputs.
        feeds: Its inputs, one entry a sample.
        axis: Name of the dimension.
    """
    proto = inline_functions(onnx.load(str(model), load_external_data=False), str(model))
    part = ir.from_proto(proto)
    ir.external_data.set_base_dir(part.graph, model.parent)
    flow = follow_rows(part, {name: spec.shape for name, spec in graph.values.items()}, axis)
    if flow.reason:
        return Batchability(proven=False, reason=f"its rows may mix: {flow.reason}"[:300])
    witnesses = _witnesses(part, flow, outputs, graph)
    names = list(dict.fromkeys([*outputs, *(name for inner in witnesses.values() for name in inner)]))
    for name in names[len(outputs) :]:
        proto.graph.output.add().name = name
    trial = model.with_name(f"{model.stem}.witness.onnx")
    trial.write_bytes(proto.SerializeToString())
    try:
        session = open_session(trial, custom_ops=graph.custom_ops, options=session_options(keeps_dropout=graph.keeps_dropout))
        found = judge(partial(run, session, outputs=names), feeds, witnesses)
        del session
    except CutsetError as error:
        return Batchability(proven=False, reason=f"onnxruntime refuses it: {error.cause or error.what}"[:300])
    finally:
        trial.unlink(missing_ok=True)
    return Batchability(
        proven=not found.reason, reason=found.reason, rows=found.rows, max_abs=found.max_abs, axis="" if found.reason else axis
    )


def _witnesses(part: ir.Model, flow: RowFlow, outputs: Sequence[str], graph: ModelGraph) -> dict[str, list[str]]:
    """Return for each output that reads rows the inner float values, rows first, that an operator in front may flatten.

    Those nearest to the outputs come first, for they have passed most of the stage; large and surplus ones are left out.
    """
    rows, budget = set(flow.row_values()), _WITNESS_BYTES
    inner: list[str] = []
    for node in reversed(list(part.graph)):
        value = node.inputs[0] if node.inputs else None
        name = str(value.name) if value is not None else ""
        if node.op_type not in _FLATTENS or name not in rows or name in (*outputs, *inner) or not _is_float(graph, name):
            continue
        size = graph.nbytes(name) if graph.knows_shape(name) else 0
        if value is None or value.is_graph_input() or size > budget or len(inner) == _MOST_WITNESSES:
            continue
        budget -= size
        inner.append(name)
    found, inputs = {}, {str(value.name) for value in part.graph.inputs}
    for output in outputs:
        needed = _ancestors(part, output)
        if needed & inputs:  # else the output is the same for every row, as a token's place is
            found[output] = [name for name in inner if name in needed]
    return found


def _is_float(graph: ModelGraph, name: str) -> bool:
    return name in graph.values and "float" in graph.values[name].dtype


def _ancestors(part: ir.Model, output: str) -> set[str]:
    """Return the names of the values that an output is computed from, but those of which the shape alone is read."""
    needed = {output}
    for node in reversed(list(part.graph)):
        if node.op_type not in {"Shape", "Size"} and any(value.name in needed for value in node.outputs):
            needed.update(str(value.name) for value in node.inputs if value is not None)
    return needed


def _axis(graph: ModelGraph, stage: Stage) -> tuple[str, str]:
    """Return why the declared shapes rule batching out, or the name of the inputs' first axis; one of them is empty.

    Only the inputs' first axes must be known for one dimension: where the outputs carry the rows, the judges find.
    """
    symbols = set()
    for name in (*stage.inputs, *stage.outputs):
        spec = graph.values[name]
        if not spec.is_tensor or spec.shape == ():
            return f"`{name}` has no first axis", ""
        first = spec.shape[0] if spec.shape else None
        if isinstance(first, int):
            return f"the first axis of `{name}` is fixed", ""
        if name in stage.inputs:
            if first is None:
                return f"the first axis of `{name}` is unknown", ""
            symbols.add(first)
    if not stage.inputs:
        return "it reads no input", ""
    if len(symbols) > 1:
        return f"the first axes are different dimensions: {', '.join(sorted(symbols))}", ""
    return "", symbols.pop()
