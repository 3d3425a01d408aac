"""Every rule about rows against onnxruntime, on ONNX's own node tests: where rows are said to stay apart, joint runs agree.

Each test model's inputs are taken for requests in two ways: all of them carry rows, or the first one does and the others are
weights. The static judge sees sizes with a free first dimension; whatever it calls row by row is run jointly and apart.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from cutset.codegen.numerics import compare
from cutset.codegen.row_requests import vary
from cutset.errors import CutsetError
from cutset.profilers.session import open_session, run, session_options
from cutset.rowwise import follow_rows
from cutset.rowwise.operation import RULES

AXIS = "n"
CASES = {case.name: case for case in load_model_tests(kind="node")}


def read(name: str) -> tuple[onnx.ModelProto, dict[str, np.ndarray]] | None:
    """Return a test's model and its first inputs, None where an input is no plain tensor."""
    folder = Path(CASES[name].model_dir)
    model = onnx.load(str(folder / "model.onnx"))
    arrays = {}
    for index, value in enumerate(model.graph.input):
        if not value.type.HasField("tensor_type"):
            return None
        tensor = onnx.TensorProto.FromString((folder / "test_data_set_0" / f"input_{index}.pb").read_bytes())
        arrays[value.name] = numpy_helper.to_array(tensor)
    return model, arrays


def with_rows(model: onnx.ModelProto, arrays: dict[str, np.ndarray], carriers: list[str]) -> onnx.ModelProto:
    """Return the model with a free first dimension on some inputs, and the other inputs as weights."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for value in list(made.graph.input):
        if value.name in carriers:
            if value.type.tensor_type.shape.dim:
                value.type.tensor_type.shape.dim[0].dim_param = AXIS
        else:
            made.graph.input.remove(value)
            made.graph.initializer.append(numpy_helper.from_array(arrays[value.name], value.name))
    for value in made.graph.output:
        value.type.tensor_type.ClearField("shape")
    return made


def contradiction(model: onnx.ModelProto, arrays: dict[str, np.ndarray], carriers: list[str]) -> str | None:
    """Return how a joint run differs from runs apart though the judge says that rows stay apart; None if not so judged."""
    trial = with_rows(model, arrays, carriers)
    flow = follow_rows(ir.from_proto(trial), {}, AXIS)
    if flow.reason or len({len(arrays[name]) for name in carriers}) != 1:
        return None
    try:
        session = open_session(trial.SerializeToString(), options=session_options(level="none"))
    except CutsetError:
        return None
    function, first = partial(run, session), {name: arrays[name] for name in carriers}
    requests = [(first, function(first))]
    for feed in vary(first):
        try:
            requests.append((feed, function(feed)))
        except CutsetError:
            continue  # a size or an index that a variation made invalid
    order = [requests[-1], *requests]
    try:
        joint = function({name: np.concatenate([feed[name] for feed, _ in order]) for name in carriers})
    except CutsetError as error:
        return f"fails: {error.cause}"
    for name, value in joint.items():
        start = 0
        for _, alone in order:
            if np.shape(value)[:1] != (sum(len(each[name]) for _, each in order),):
                return f"`{name}` has shape {np.shape(value)}"
            found = compare(name, alone[name], value[start : start + len(alone[name])])
            if found.reason:
                return found.reason
            start += len(alone[name])
    return ""


@pytest.fixture(scope="module")
def judged() -> tuple[dict[str, str], Counter[str]]:
    """The contradictions by test, and how often each operator was called row by row."""
    wrong, seen = {}, Counter()
    for name in sorted(CASES):
        if "training" in name or "bernoulli" in name:
            continue
        found = read(name)
        if found is None or not found[1]:
            continue
        model, arrays = found
        names = [key for key, array in arrays.items() if array.ndim and array.shape[0]]
        for carriers in ([*arrays], [*arrays][:1]) if len(arrays) > 1 else ([*arrays],):
            if not set(carriers) <= set(names):
                continue
            reason = contradiction(model, arrays, carriers)
            if reason is None:
                continue
            seen.update({node.op_type for node in model.graph.node})
            if reason:
                wrong[f"{name} {carriers}"] = reason
    return wrong, seen


def test_no_rule_is_contradicted(judged):
    assert judged[0] == {}


def test_most_rules_are_tried(judged):
    """The rules of the standard domain, but those whose tests have no valid joint run; others have tests of their own."""
    tried = {name for domain, name in RULES if domain == "" and judged[1][name]}
    untried = {name for domain, name in RULES if domain == ""} - tried
    assert len(tried) >= 100, (ort.__version__, sorted(untried))
