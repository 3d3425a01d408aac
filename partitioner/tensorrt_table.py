"""What TensorRT takes, read from a table: what the parser and the builder of TensorRT-RTX said to every ONNX node test.

It is a proxy for full TensorRT, which takes more; where a library can be asked, only `unknown_type` holds besides.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from cutset.partitioner.case import NodeCase, Rule

TABLE = Path(__file__).parent / "data" / "tensorrt_rtx_ops.csv"
TABLE_SOURCE = "TensorRT-RTX 1.7.1, recorded"
"""Origin of a verdict that the library's parser or builder gave."""

MAX_TOPK = 3840
MAX_RANK = 8

_GPU_DTYPES = frozenset({"float32", "float16", "bfloat16", "int32", "int64", "int8", "bool"})
_DTYPE_REASONS = {
    "float64": "TensorRT silently computes float64 as float32",
    "string": "strings never leave the host",
    "undefined": "its type is not known",
    "uint8": "TensorRT takes uint8 only at the border of an engine, beside a Cast",
}
_UINT8_OPS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRow:
    """What the recorded node tests showed about one operator.

    Args:
        verdict: ``supported``, ``partial`` (attributes or types decide), ``rejected`` or ``unknown``.
        tests: Node tests tried.
        passed: Node tests that built.
        reason: The library's words, or what further trials showed.
    """

    verdict: str
    tests: int
    passed: int
    reason: str


@cache
def support_table() -> dict[str, TableRow]:
    """Return the recorded verdicts by operator: ``Conv``, ``ai.onnx.ml::Binarizer``, ..."""
    lines = [line for line in TABLE.read_text("utf-8").splitlines() if not line.startswith("#")]
    return {
        row["op"]: TableRow(verdict=row["verdict"], tests=int(row["tests"]), passed=int(row["passed"]), reason=row["reason"])
        for row in csv.DictReader(lines)
    }


def unknown_type(case: NodeCase) -> str | None:
    """Return which of the node's tensors has a type that TensorRT lacks, or would change without a word."""
    for name in (*case.node.inputs, *case.node.outputs):
        spec = case.graph.values[name]
        if spec.dtype in _GPU_DTYPES or (spec.dtype == "uint8" and case.op_type in _UINT8_OPS):
            continue
        reason = _DTYPE_REASONS.get(spec.dtype, f"TensorRT has no type {spec.dtype}")
        return f"`{name}` is {spec.dtype}: {reason}"
    return None


def _rank(case: NodeCase) -> str | None:
    for name in (*case.node.inputs, *case.node.outputs):
        shape = case.graph.values[name].shape
        if shape is not None and len(shape) > MAX_RANK:
            return f"`{name}` has {len(shape)} dimensions, TensorRT takes {MAX_RANK}"
    return None


def _table(case: NodeCase) -> str | None:
    key = case.op_type or str(case.node.op)
    row = support_table().get(key)
    if row is None:
        return f"{key} is not in the table of {TABLE_SOURCE}"
    return row.reason if row.verdict in {"rejected", "unknown"} else None


def _attributes(case: NodeCase) -> str | None:
    for rule in _ATTRIBUTE_RULES.get(case.op_type, ()):
        reason = rule(case)
        if reason is not None:
            return reason
    return None


def _undilated(case: NodeCase) -> str | None:
    if all(step == 1 for step in case.integers("dilations")):
        return None
    return f"{case.op_type}: This version of TensorRT does not support dilations other than 1."


def _one_output(case: NodeCase) -> str | None:
    count = len(case.node.outputs)
    return None if count <= 1 else f"{case.op_type}: TensorRT supports one output, the node has {count}"


def _no_reduction(case: NodeCase) -> str | None:
    mode = case.text("reduction", "none")
    return None if mode == "none" else f"{case.op_type} with reduction `{mode}` is not supported."


def _inference(case: NodeCase) -> str | None:
    if not case.integer("training_mode", 0):
        return None
    return f"{case.op_type}: This version of TensorRT does not support training_mode == 1"


def _lp_pool(case: NodeCase) -> str | None:
    return None if case.integer("p", 2) in {1, 2} else "LpPool: Only L1 and L2 normalization are supported."


def _mod(case: NodeCase) -> str | None:
    if case.integer("fmod", 0) or case.dtype(0) in {"int32", "int64"}:
        return None
    return f"Mod with fmod 0 takes int32 or int64, the input is {case.dtype(0)}"


def _input_type(*allowed: str) -> Rule:
    def rule(case: NodeCase) -> str | None:
        dtype = case.dtype(0)
        return None if dtype in allowed else f"{case.op_type}: Found unsupported input type of {dtype}"

    return rule


def _topk(case: NodeCase) -> str | None:
    k = case.elements(1) if case.operand(1) is not None else np.array(case.integer("k", 1))
    if k is not None and k.max(initial=0) > MAX_TOPK:
        return f"TopK: K exceeds the maximum value allowed ({MAX_TOPK})."
    return None


def _symmetric(case: NodeCase) -> str | None:
    if case.operand(2) is None:
        return None
    zero_point = case.elements(2)
    if zero_point is not None and not zero_point.any():
        return None
    return f"{case.op_type}: Non-zero zero point is not supported."


def _int8(case: NodeCase) -> str | None:
    ends = case.node.outputs if case.op_type == "QuantizeLinear" else case.node.inputs
    dtype = case.graph.values[ends[0]].dtype
    return None if dtype == "int8" else f"{case.op_type} with {dtype}: only symmetric int8 builds"


def _attention(_: NodeCase) -> str | None:
    row = support_table()["Attention"]
    return f"{row.reason} ({row.passed} of {row.tests} tests built)"


_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")


def _resize(case: NodeCase) -> str | None:
    mode = case.text("coordinate_transformation_mode", "half_pixel")
    policy = case.text("keep_aspect_ratio_policy", "stretch")
    if mode not in _RESIZE_MODES:
        return f"Resize: TensorRT does not support the coordinate transformation `{mode}`"
    if case.integer("antialias", 0):
        return "Resize: Antialiasing is not supported currently."
    if policy != "stretch":
        return f"Resize: Only `stretch` is supported currently as `keep_aspect_ratio_policy`, not `{policy}`"
    return None


_FLOATS = ("float32", "float16", "bfloat16")

_ATTRIBUTE_RULES: Mapping[str, tuple[Rule, ...]] = {
    "AveragePool": (_undilated,),
    "MaxPool": (_undilated, _one_output),
    "LpPool": (_undilated, _lp_pool),
    "BatchNormalization": (_inference,),
    "LayerNormalization": (_one_output,),
    "ScatterElements": (_no_reduction,),
    "ScatterND": (_no_reduction,),
    "Resize": (_resize,),
    "TopK": (_topk,),
    "Mod": (_mod,),
    "Clip": (_input_type(*_FLOATS, "int32", "int64"),),
    "Celu": (_input_type("float32"),),
    "MatMul": (_input_type(*_FLOATS),),
    "Range": (_input_type("float32", "int32", "int64"),),
    "ReduceMax": (_input_type(*_FLOATS, "int32", "int64", "int8"),),
    "ReduceMin": (_input_type(*_FLOATS, "int32", "int64", "int8"),),
    "QuantizeLinear": (_int8, _symmetric),
    "DequantizeLinear": (_int8, _symmetric),
    "Attention": (_attention,),
}
"""What the table's partial verdicts depend on, in the library's words where it has some."""

TABLE_RULES: tuple[Rule, ...] = (_table, unknown_type, _rank, _attributes)
"""In this order; the first refusal is the answer."""
