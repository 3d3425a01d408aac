"""Which nodes TensorRT can run, and for each no the reason and who says so.

Cutset's own rules come first: what could run and would not pay or not be repeatable, and types that TensorRT would change
without a word. Of the rest the library is asked where one is installed (`cutset.profilers.capability`). Where none is, a
table decides that holds what the parser and the builder of TensorRT-RTX said to every ONNX node test; it is a proxy for
full TensorRT, which takes more. Building the real engine has the last word.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx_ir as ir

from cutset.graph.model import RANDOM_OPS, ModelGraph, OpNode
from cutset.profilers.capability import Verdict

TABLE = Path(__file__).parent / "data" / "tensorrt_rtx_ops.csv"
TABLE_SOURCE = "TensorRT-RTX 1.7.1, recorded"
"""Origin of a verdict that the library's parser or builder gave."""
CLEAN_UP_SOURCE = "cutset clean-up"
"""Origin of a yes to a node that TensorRT takes once the Cast below it is moved above it."""
CERTIFIED_SOURCE = "cutset"
"""Origin of a refusal that nothing overrides: the parts could not be proven equal to the whole."""
DEFAULT_SOURCE = "cutset default"
"""Origin of a refusal that `--pin` may override: the library might take the node, and it would not pay."""

MAX_TOPK = 3840
MAX_RANK = 8

_GPU_DTYPES = frozenset({"float32", "float16", "bfloat16", "int32", "int64", "int8", "bool"})
_DTYPE_REASONS = {
    "float64": "TensorRT silently computes float64 as float32",
    "string": "strings never leave the host",
    "undefined": "its type is not known",
    "uint8": "TensorRT takes uint8 only at the border of an engine, beside a Cast",
}
MOVEMENT = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
     "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that move elements and compute none: a Cast below one can be moved above it."""
_UINT8_OPS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Whether the GPU can run a node.

    Args:
        ok: The verdict.
        reason: One line that says why not; empty when it can.
        source: Who says so.
    """

    ok: bool
    reason: str
    source: str


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


def gpu_support(
    graph: ModelGraph, verdicts: Mapping[str, Verdict] | None = None, insisted: Collection[str] = ()
) -> dict[str, Support]:
    """Return for every placeable node whether TensorRT can run it, in graph order.

    Constant nodes have no entry: they are folded before an engine is built. Element types that inference left open
    count as refusals, so ask again once a measured run has filled them in.

    Args:
        graph: The model.
        verdicts: What a library said of the nodes that `open_questions` returned; the table speaks for the others.
        insisted: Nodes that the user pinned to the GPU: refusals of the source `DEFAULT_SOURCE` do not hold for them.
    """
    verdicts = verdicts or {}
    return {case.node.name: _judge(case, verdicts.get(case.node.name)) for case in _cases(graph, insisted)}


def open_questions(graph: ModelGraph, insisted: Collection[str] = ()) -> list[str]:
    """Return the names of the nodes that only a library can answer for: neither policy nor types refuse them."""
    cases = _cases(graph, insisted)
    return [case.node.name for case in cases if _policy(case) is None and _types(case) is None and not _under_a_cast(case)]


def _cases(graph: ModelGraph, insisted: Collection[str]) -> list[_Case]:
    return [_Case(graph, node, insisted=node.name in insisted) for node in graph.placeable]


class _Case:
    """One node with what the rules ask about it."""

    def __init__(self, graph: ModelGraph, node: OpNode, *, insisted: bool) -> None:
        self.graph = graph
        self.node = node
        self.insisted = insisted
        self.op_type = node.op.op_type
        self._inner = graph.ir_nodes[node.name]

    @property
    def core(self) -> bool:
        """Whether the operator is of the standard ONNX domain."""
        return self.node.op.domain in {"", "ai.onnx"}

    def operand(self, index: int) -> ir.Value | None:
        """The input at a position, None when it is left out."""
        value = self._inner.inputs[index] if index < len(self._inner.inputs) else None
        return value if value is not None and value.name else None

    def dtype(self, index: int) -> str:
        """Element type of the input at a position."""
        value = self.operand(index)
        return "" if value is None else self.graph.values[str(value.name)].dtype

    def integer(self, name: str, default: int) -> int:
        return int(self._inner.attributes.get_int(name, default))

    def integers(self, name: str) -> tuple[int, ...]:
        return tuple(self._inner.attributes.get_ints(name, ()))

    def text(self, name: str, default: str) -> str:
        return str(self._inner.attributes.get_string(name, default))

    def constant(self, index: int) -> bool:
        """Whether the input at a position is left out or depends on weights alone."""
        value = self.operand(index)
        return value is None or str(value.name) in self.graph.constant_values

    def follows_shapes(self, index: int) -> bool:
        """Whether the input at a position depends on weights and on shapes of tensors, never on their elements."""
        value = self.operand(index)
        return value is None or str(value.name) in self.graph.shape_values

    def elements(self, index: int) -> np.ndarray | None:
        """Elements of a constant input, None when they are not at hand without running the model."""
        value = self.operand(index)
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        return None if tensor is None else tensor.numpy()


_Rule = Callable[[_Case], str | None]


def _judge(case: _Case, verdict: Verdict | None) -> Support:
    """Return the first refusal: of Cutset's policy, of the library or else the table, of the types."""
    refusals = [_policy(case)]
    if refusals == [None] and _under_a_cast(case):
        return Support(ok=True, reason="", source=CLEAN_UP_SOURCE)
    if verdict is not None:
        refusals.append(None if verdict.ok else Support(ok=False, reason=verdict.reason, source=verdict.source))
    else:
        refusals += [_refusal(rule, case, TABLE_SOURCE) for rule in _TABLE_RULES]
    refusals.append(_refusal(_types, case, TABLE_SOURCE))
    taken = Support(ok=True, reason="", source=TABLE_SOURCE if verdict is None else verdict.source)
    return next((refusal for refusal in refusals if refusal is not None), taken)


def _policy(case: _Case) -> Support | None:
    """Return the refusal that holds whatever a library says, if there is one."""
    rules = [(rule, source) for rule, source in _POLICY if not (case.insisted and source == DEFAULT_SOURCE)]
    return next((refusal for rule, source in rules if (refusal := _refusal(rule, case, source)) is not None), None)


def _refusal(rule: _Rule, case: _Case, source: str) -> Support | None:
    reason = rule(case)
    return None if reason is None else Support(ok=False, reason=reason, source=source)


def _domain(case: _Case) -> str | None:
    if case.core or str(case.node.op) in support_table():
        return None
    return f"TensorRT has no operator of domain `{case.node.op.domain}`, and no plugin for {case.op_type}"


def _control_flow(case: _Case) -> str | None:
    if not case.node.has_body:
        return None
    return f"{case.op_type} is control flow: the parser takes it, the builder fails on nested bodies and unequal ranks"


def _random(case: _Case) -> str | None:
    return "random numbers could not be compared with the unsplit model" if case.op_type in RANDOM_OPS else None


def _types(case: _Case) -> str | None:
    for name in (*case.node.inputs, *case.node.outputs):
        spec = case.graph.values[name]
        if spec.dtype in _GPU_DTYPES or (spec.dtype == "uint8" and case.op_type in _UINT8_OPS):
            continue
        reason = _DTYPE_REASONS.get(spec.dtype, f"TensorRT has no type {spec.dtype}")
        return f"`{name}` is {spec.dtype}: {reason}"
    return None


def _under_a_cast(case: _Case) -> bool:
    """Whether a node only moves uint8 elements that nothing but a Cast reads, perhaps through more of its kind."""
    return case.op_type in MOVEMENT and case.dtype(0) == "uint8" and _cast_below(case.graph, case.node)


def _cast_below(graph: ModelGraph, node: OpNode) -> bool:
    value = node.outputs[0]
    readers = graph.consumers.get(value, ())
    if len(readers) != 1 or value in {spec.name for spec in graph.outputs}:
        return False
    reader = graph.by_name[readers[0]]
    return reader.op.op_type == "Cast" or (reader.op.op_type in MOVEMENT and _cast_below(graph, reader))


def _rank(case: _Case) -> str | None:
    for name in (*case.node.inputs, *case.node.outputs):
        shape = case.graph.values[name].shape
        if shape is not None and len(shape) > MAX_RANK:
            return f"`{name}` has {len(shape)} dimensions, TensorRT takes {MAX_RANK}"
    return None


_DATA_DEPENDENT = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "RoiAlign"})

_SHAPE_OPERANDS: Mapping[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "ConstantOfShape": (0,), "Range": (0, 1, 2), "Slice": (1, 2, 3, 4),
    "Pad": (1, 3), "OneHot": (1,), "Squeeze": (1,), "Unsqueeze": (1,), "Split": (1,), "CumSum": (1,), "Trilu": (1,),
    "Resize": (1, 2, 3), "Upsample": (1,),
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum",
         "ReduceLogSumExp", "ReduceSumSquare"), (1,),
    ),
}  # fmt: skip
"""Inputs whose elements, not shape, decide the shape of the output or the axes of the work."""


def _data_dependent(case: _Case) -> str | None:
    if case.op_type in _DATA_DEPENDENT:
        return f"the output shape or work of {case.op_type} depends on the data, which forbids a fixed engine schedule"
    if case.op_type == "TopK" and not case.constant(1):
        return "K of TopK is not constant, so the output shape depends on the data"
    for index in _SHAPE_OPERANDS.get(case.op_type, ()):
        if not case.follows_shapes(index):
            operand = case.operand(index)
            return f"operand `{operand.name if operand else ''}` shapes the output and depends on the data"
    return None


def _table(case: _Case) -> str | None:
    key = case.op_type if case.core else str(case.node.op)
    row = support_table().get(key)
    if row is None:
        return f"{key} is not in the table of {TABLE_SOURCE}"
    return row.reason if row.verdict in {"rejected", "unknown"} else None


def _attributes(case: _Case) -> str | None:
    for rule in _ATTRIBUTE_RULES.get(case.op_type, ()):
        reason = rule(case)
        if reason is not None:
            return reason
    return None


_POLICY: tuple[tuple[_Rule, str], ...] = (
    (_random, CERTIFIED_SOURCE),
    (_control_flow, DEFAULT_SOURCE),
    (_data_dependent, DEFAULT_SOURCE),
)
_TABLE_RULES: tuple[_Rule, ...] = (_domain, _table, _types, _rank, _attributes)
"""In this order; the first refusal is the answer."""


def _undilated(case: _Case) -> str | None:
    if all(step == 1 for step in case.integers("dilations")):
        return None
    return f"{case.op_type}: This version of TensorRT does not support dilations other than 1."


def _one_output(case: _Case) -> str | None:
    count = len(case.node.outputs)
    return None if count <= 1 else f"{case.op_type}: TensorRT supports one output, the node has {count}"


def _no_reduction(case: _Case) -> str | None:
    mode = case.text("reduction", "none")
    return None if mode == "none" else f"{case.op_type} with reduction `{mode}` is not supported."


def _inference(case: _Case) -> str | None:
    if not case.integer("training_mode", 0):
        return None
    return f"{case.op_type}: This version of TensorRT does not support training_mode == 1"


def _dropout(case: _Case) -> str | None:
    if case.operand(2) is None:
        return None
    training = case.elements(2)
    if training is not None and not training.any():
        return None
    return "TensorRT does not support the Dropout operator in training mode."


def _lp_pool(case: _Case) -> str | None:
    return None if case.integer("p", 2) in {1, 2} else "LpPool: Only L1 and L2 normalization are supported."


def _mod(case: _Case) -> str | None:
    if case.integer("fmod", 0) or case.dtype(0) in {"int32", "int64"}:
        return None
    return f"Mod with fmod 0 takes int32 or int64, the input is {case.dtype(0)}"


def _input_types(*allowed: str) -> _Rule:
    def rule(case: _Case) -> str | None:
        dtype = case.dtype(0)
        return None if dtype in allowed else f"{case.op_type}: Found unsupported input type of {dtype}"

    return rule


def _topk(case: _Case) -> str | None:
    k = case.elements(1) if case.operand(1) is not None else np.array(case.integer("k", 1))
    if k is not None and k.max(initial=0) > MAX_TOPK:
        return f"TopK: K exceeds the maximum value allowed ({MAX_TOPK})."
    return None


def _symmetric(case: _Case) -> str | None:
    if case.operand(2) is None:
        return None
    zero_point = case.elements(2)
    if zero_point is not None and not zero_point.any():
        return None
    return f"{case.op_type}: Non-zero zero point is not supported."


def _int8(case: _Case) -> str | None:
    ends = case.node.outputs if case.op_type == "QuantizeLinear" else case.node.inputs
    dtype = case.graph.values[ends[0]].dtype
    return None if dtype == "int8" else f"{case.op_type} with {dtype}: only symmetric int8 builds"


def _attention(_: _Case) -> str | None:
    row = support_table()["Attention"]
    return f"{row.reason} ({row.passed} of {row.tests} tests built)"


_RESIZE_MODES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn")


def _resize(case: _Case) -> str | None:
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

_ATTRIBUTE_RULES: Mapping[str, tuple[_Rule, ...]] = {
    "AveragePool": (_undilated,),
    "MaxPool": (_undilated, _one_output),
    "LpPool": (_undilated, _lp_pool),
    "BatchNormalization": (_inference,),
    "Dropout": (_dropout,),
    "LayerNormalization": (_one_output,),
    "ScatterElements": (_no_reduction,),
    "ScatterND": (_no_reduction,),
    "Resize": (_resize,),
    "TopK": (_topk,),
    "Mod": (_mod,),
    "Clip": (_input_types(*_FLOATS, "int32", "int64"),),
    "Celu": (_input_types("float32"),),
    "MatMul": (_input_types(*_FLOATS),),
    "Range": (_input_types("float32", "int32", "int64"),),
    "ReduceMax": (_input_types(*_FLOATS, "int32", "int64", "int8"),),
    "ReduceMin": (_input_types(*_FLOATS, "int32", "int64", "int8"),),
    "QuantizeLinear": (_int8, _symmetric),
    "DequantizeLinear": (_int8, _symmetric),
    "Attention": (_attention,),
}
"""What the table's partial verdicts depend on, in the library's words where it has some."""
