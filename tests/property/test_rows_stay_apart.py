"""No planted mixing of rows is ever called batchable; graphs whose rows stay apart nearly always are."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from cutset.codegen.batchability import prove_all
from cutset.codegen.joint_runs import judge
from cutset.codegen.split import write_stages
from cutset.errors import CutsetError
from cutset.graph.load import load
from cutset.profilers.inputs import draw
from cutset.profilers.session import open_session, run, session_options
from cutset.rowwise import follow_rows
from tests.property.row_graphs import MIXERS, mixing, row_by_row
from tests.support import make_plan

GRAPHS_OF_A_KIND = -(-2000 // len(MIXERS))
KINDS = sorted(MIXERS)


def static_reason(model: onnx.ModelProto) -> str:
    """What the judge says that runs nothing."""
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    shapes = {
        value.name: [
            dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None for dim in value.type.tensor_type.shape.dim
        ]
        for value in inferred
        if value.type.tensor_type.HasField("shape")
    }
    return follow_rows(ir.from_proto(model), shapes, "n").reason


def numeric_reason(model: onnx.ModelProto, seed: int) -> str:
    """What the judge says that only runs; a failing model mixes nothing."""
    options = session_options(level="basic")
    session = open_session(model.SerializeToString(), options=options)
    shape = [1, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    sample = {"x": np.random.default_rng(seed).normal(size=shape).astype(np.float32)}
    output = model.graph.output[0].name
    return judge(partial(run, session, outputs=[output]), [sample], {output: []}).reason


def test_there_are_many_kinds():
    assert len(MIXERS) >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_the_static_judge_proves_no_graph_in_which_rows_mix(kind):
    graphs = [mixing(seed, kind) for seed in range(GRAPHS_OF_A_KIND)]
    for graph in graphs[:2]:
        onnx.checker.check_model(graph, full_check=True)
    assert [seed for seed, graph in enumerate(graphs) if not static_reason(graph)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_numeric_judge_alone_sees_rows_that_mix(kind):
    """Here and there the rest of a graph undoes a gadget: a mean that is always zero, a bound that is never reached."""
    missed = [seed for seed in range(6) if not numeric_reason(mixing(seed, kind), seed)]
    assert len(missed) <= 2


def test_graphs_whose_rows_stay_apart_are_proven():
    """Each judge takes at least 95 of 100; both agree with the runs that the second one made."""
    graphs = [row_by_row(seed) for seed in range(400)]
    refused = Counter(static_reason(graph).partition("(")[2].partition(")")[0] for graph in graphs)
    del refused[""]
    assert refused.total() <= len(graphs) * 0.02, refused
    seen = Counter(numeric_reason(graph, seed)[:60] for seed, graph in enumerate(graphs[:150]))
    assert seen[""] >= 150 * 0.97, seen


def proven(model: onnx.ModelProto, folder: Path) -> bool:
    """Return what both judges say of a model as one stage, as packages are emitted."""
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    graph = load(folder / "model.onnx")
    plan = make_plan(graph, {node.name: "gpu" for node in graph.placeable})
    write_stages(graph, plan.stages, folder)
    try:
        (finding,) = prove_all(graph, plan.stages, folder, [draw(graph.inputs, {}, seed=1)])
    except CutsetError:
        return False  # some mixers fail on a single row
    return finding.proven


def test_both_judges_over_the_emitted_stage(tmp_path):
    mixed = [proven(mixing(7, kind), tmp_path / f"mixed{index}") for index, kind in enumerate(KINDS)]
    apart = [proven(row_by_row(seed), tmp_path / f"apart{seed}") for seed in range(40)]
    assert not any(mixed)
    assert sum(apart) >= 38
