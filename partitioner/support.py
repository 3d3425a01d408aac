"""Which nodes the GPU backend can run, and for each no the reason and who says so.

Cutset's own rules come first: operators that nobody but their own library knows, and what could run and would not pay or
not be repeatable. Of the rest TensorRT's library is asked where one is installed (`cutset.profilers.capability`); where
none is, a table of what its parser and builder said decides. onnxruntime's CUDA provider answers by the list of its
kernels, corrected by what a GPU was seen to run. Building the real engine has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cutset.advisory import reason_of, skip
from cutset.graph.load import HOOK_DOMAIN, KNOWN_DOMAINS
from cutset.graph.model import ModelGraph, OpNode
from cutset.partitioner.case import NodeCase, Rule, custom_operators
from cutset.partitioner.cuda_kernels import CUDA_RULES, cuda_source
from cutset.partitioner.tensorrt_table import TABLE_RULES, TABLE_SOURCE, unknown_type
from cutset.profilers.capability import Verdict

CLEAN_UP_SOURCE = "cutset clean-up"
"""Origin of a yes to a node that TensorRT takes once the Cast below it is moved above it."""
CERTIFIED_SOURCE = "cutset"
"""Origin of a refusal that nothing overrides: the parts could not be proven equal to the whole."""
DEFAULT_SOURCE = "cutset default"
"""Origin of a refusal that `--pin` may override: the backend might take the node, and it would not pay."""
SEEN_SOURCE = "measured in onnxruntime's CUDA provider"
"""Origin of a yes to a node that a GPU was seen to run."""

MOVEMENT = frozenset(
    {"Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
     "Tile", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that move elements and compute none: a Cast below one can be moved above it."""


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


Policy = Sequence[tuple[Rule, str]]
"""Rules that hold whatever a library says, each with the source of its refusals."""


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
    return {name: _safely(case, lambda c: _judge(c, verdicts.get(c.node.name))) for name, case in _named(graph, insisted)}


def cuda_support(graph: ModelGraph, insisted: Collection[str] = (), seen: Collection[str] = ()) -> dict[str, Support]:
    """Return for every placeable node whether onnxruntime's CUDA provider can run it, in graph order.

    Args:
        graph: The model.
        insisted: Nodes that the user pinned to the GPU: refusals of the source `DEFAULT_SOURCE` do not hold for them.
        seen: Nodes that ran on a GPU in this provider when they were measured: neither the list of kernels nor refusals of
            the source `DEFAULT_SOURCE` hold for them.
    """
    return {
        name: _safely(case, lambda c: _judge_cuda(c, seen=c.node.name in seen))
        for name, case in _named(graph, {*insisted, *seen})
    }


def _judge_cuda(case: NodeCase, *, seen: bool) -> Support:
    """Return the first refusal: of Cutset's policy, of the list of kernels."""
    refusals = [_policy(case, _CUDA_POLICY)]
    if not seen:
        refusals += [_refusal(rule, case, cuda_source()) for rule in CUDA_RULES]
    taken = Support(ok=True, reason="", source=SEEN_SOURCE if seen else cuda_source())
    return next((refusal for refusal in refusals if refusal is not None), taken)


def _safely(case: NodeCase, judge: Callable[[NodeCase], Support]) -> Support:
    """Return the verdict on a node; a rule that fails on the node refuses the node, and is no reason to end the job."""
    try:
        return judge(case)
    except Exception as error:  # a bug of a rule: the reason is shown with the node
        reason = reason_of(error)
        skip("asking which nodes the GPU takes", f"node `{case.node.name}`", reason, error)
        return Support(ok=False, reason=f"asked about it, Cutset failed: {reason}", source=DEFAULT_SOURCE)


def open_questions(graph: ModelGraph, insisted: Collection[str] = ()) -> list[str]:
    """Return the names of the nodes that only a library can answer for: neither policy nor types refuse them."""
    cases = _cases(graph, insisted)
    return [
        case.node.name
        for case in cases
        if _policy(case, _TENSORRT_POLICY) is None and unknown_type(case) is None and not _under_a_cast(case)
    ]


def _cases(graph: ModelGraph, insisted: Collection[str]) -> list[NodeCase]:
    custom = custom_operators(graph)
    return [NodeCase(graph, node, insisted=node.name in insisted, custom=custom.get(node.name, "")) for node in graph.placeable]


def _named(graph: ModelGraph, insisted: Collection[str]) -> list[tuple[str, NodeCase]]:
    return [(case.node.name, case) for case in _cases(graph, insisted)]


def _judge(case: NodeCase, verdict: Verdict | None) -> Support:
    """Return the first refusal: of Cutset's policy, of the library or else the table, of the types."""
    refusals = [_policy(case, _TENSORRT_POLICY)]
    if refusals == [None] and _under_a_cast(case):
        return Support(ok=True, reason="", source=CLEAN_UP_SOURCE)
    if verdict is not None:
        refusals.append(None if verdict.ok else Support(ok=False, reason=verdict.reason, source=verdict.source))
    else:
        refusals += [_refusal(rule, case, TABLE_SOURCE) for rule in TABLE_RULES]
    refusals.append(_refusal(unknown_type, case, TABLE_SOURCE))
    taken = Support(ok=True, reason="", source=TABLE_SOURCE if verdict is None else verdict.source)
    return next((refusal for refusal in refusals if refusal is not None), taken)


def _policy(case: NodeCase, policy: Policy) -> Support | None:
    """Return the refusal that holds whatever a library says, if there is one."""
    rules = [(rule, source) for rule, source in policy if not (case.insisted and source == DEFAULT_SOURCE)]
    return next((refusal for rule, source in rules if (refusal := _refusal(rule, case, source)) is not None), None)


def _refusal(rule: Rule, case: NodeCase, source: str) -> Support | None:
    reason = rule(case)
    return None if reason is None else Support(ok=False, reason=reason, source=source)


def _hook(case: NodeCase) -> str | None:
    if not case.custom.startswith(HOOK_DOMAIN):
        return None
    return f"`{case.custom.rpartition('::')[2]}` is a Python function, which runs on the CPU"


def _domain(case: NodeCase) -> str | None:
    """TensorRT's parser looks at the type alone and would compute the standard operator of the same name, if there is one."""
    if not case.custom:
        return None
    domain, _, op_type = case.custom.rpartition("::")
    return f"TensorRT has no operator of domain `{domain}`, and no plugin for {op_type}"


def _library(case: NodeCase) -> str | None:
    """Whether a custom operator's library brings a CUDA kernel cannot be told from the model."""
    if not case.custom or case.custom.rpartition("::")[0] in KNOWN_DOMAINS:
        return None
    return f"{case.custom} is a custom operator: whether its library has a CUDA kernel is not known"


def _random(case: NodeCase) -> str | None:
    return "random numbers could not be compared with the unsplit model" if case.node.random else None


def _engine_control_flow(case: NodeCase) -> str | None:
    if not case.node.has_body:
        return None
    return f"{case.op_type} is control flow: the parser takes it, the builder fails on nested bodies and unequal ranks"


def _session_control_flow(case: NodeCase) -> str | None:
    if not case.node.has_body:
        return None
    return f"{case.op_type} is control flow: the host waits for the GPU before every decision"


def _counted_results(case: NodeCase) -> str | None:
    if case.op_type not in _COUNTED_RESULTS:
        return None
    return f"the host waits for the number of results of {case.op_type}, which no model of a GPU prices"


def _under_a_cast(case: NodeCase) -> bool:
    """Whether a node only moves uint8 elements that nothing but a Cast reads, perhaps through more of its kind."""
    return case.op_type in MOVEMENT and case.dtype(0) == "uint8" and _cast_below(case.graph, case.node)


def _cast_below(graph: ModelGraph, node: OpNode) -> bool:
    value = node.outputs[0]
    readers = graph.consumers.get(value, ())
    if len(readers) != 1 or value in {spec.name for spec in graph.outputs}:
        return False
    reader = graph.by_name[readers[0]]
    return reader.op.standard_type == "Cast" or (reader.op.standard_type in MOVEMENT and _cast_below(graph, reader))


_COUNTED_RESULTS = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress"})
"""Operators that find as many results as there are."""
_DATA_DEPENDENT = _COUNTED_RESULTS | {"RoiAlign"}

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


def _data_dependent(case: NodeCase) -> str | None:
    if case.op_type in _DATA_DEPENDENT:
        return f"the output shape or work of {case.op_type} depends on the data, which forbids a fixed engine schedule"
    if case.op_type == "TopK" and not case.constant(1):
        return "K of TopK is not constant, so the output shape depends on the data"
    for index in _SHAPE_OPERANDS.get(case.op_type, ()):
        if not case.follows_shapes(index):
            operand = case.operand(index)
            return f"operand `{operand.name if operand else ''}` shapes the output and depends on the data"
    return None


_ALWAYS: Policy = ((_random, CERTIFIED_SOURCE), (_hook, CERTIFIED_SOURCE))
_TENSORRT_POLICY: Policy = (
    *_ALWAYS,
    (_domain, CERTIFIED_SOURCE),
    (_engine_control_flow, DEFAULT_SOURCE),
    (_data_dependent, DEFAULT_SOURCE),
)
_CUDA_POLICY: Policy = (
    *_ALWAYS,
    (_library, DEFAULT_SOURCE),
    (_session_control_flow, DEFAULT_SOURCE),
    (_counted_results, DEFAULT_SOURCE),
)
