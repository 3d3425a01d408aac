"""What keeps a model off the GPU, by kind and by the time that it holds back, with a way out of each.

The kinds are told by the words of a refusal and by the operator; a reason that no kind knows is a kind of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cutset.errors import PlanError
from cutset.partitioner.atoms import gpu_refusals
from cutset.partitioner.explain import best_reach, score
from cutset.partitioner.judge import MIN_GAIN
from cutset.partitioner.plan import HeldBack, Obstacle
from cutset.partitioner.planner import Outcome
from cutset.partitioner.reasons import kind_of_reason
from cutset.partitioner.study import study_of
from cutset.partitioner.support import Support, cuda_support

MOST_OBSTACLES = 5
HELD_SHARE = 0.5
HELD_GAIN = 1.5
"""A plan that does use the GPU names what holds it back from this share of the CPU's time on, or for this gain."""
FIRST_NODES = 3

_ALIKE = re.compile(r"as `(.+)`, which is alike")
_QUANTISED_OPS = re.compile(
    r"QLinear\w+|QAttention|QGemm|Q(Embed|Ordered)\w+|(MatMul|Conv)Integer\w*|DynamicQuantize\w+|MatMulIntegerToFloat"
)
_SYMMETRIC = "quantise activations and weights symmetrically to int8 (ActivationSymmetric, WeightSymmetric, QuantType.QInt8)"
_QDQ = (
    "quantise statically with QuantizeLinear and DequantizeLinear (QuantFormat.QDQ), symmetrically to int8; or deploy the "
    "float model, with --precision int8 or fp16"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of refusal.

    Args:
        what: What it is, for people.
        way_out: What to do about it; empty where nothing helps.
        reason: What the words of the refusal contain.
        op_type: What the operator's type is as a whole, None for any.
    """

    what: str
    way_out: str
    reason: str = ""
    op_type: re.Pattern[str] | None = None

    def holds(self, op_type: str, reason: str) -> bool:
        """Return whether a refusal of an operator is of this kind."""
        return bool(re.search(self.reason, reason)) and (self.op_type is None or self.op_type.fullmatch(op_type) is not None)


KINDS = (
    Kind(what="integer operators of 8-bit models", way_out=_QDQ, op_type=_QUANTISED_OPS),
    Kind(what="zero points that are not zero", way_out=_SYMMETRIC, reason=r"(?i)zero.?point|shiftIsAllZeros"),
    Kind(
        what="weights of 8 bits that no DequantizeLinear reads", reason="(?i)quantized constant .*only allowed before DQ",
        way_out="write the Cast and the Mul behind such a weight as one DequantizeLinear, or store the weight as float",
    ),
    Kind(what="quantisation to uint8", way_out=_SYMMETRIC, reason=r"(?i)quantizelinear.*(uint8|only symmetric int8)"),
    Kind(
        what="uint8 tensors", reason=r"is uint8",
        way_out="convert to a float type first: a Cast right behind the input, or behind what moves it",
    ),
    Kind(
        what="fused operators of onnxruntime", reason="of domain `com.microsoft`",
        way_out="export without onnxruntime's optimizer, whose operators TensorRT does not know",
    ),
    Kind(what="64-bit floats", reason="is float64", way_out="export the model in float32"),
    Kind(what="control flow", reason="is control flow", way_out="export without If and Loop, or try --pin NODE=gpu"),
    Kind(
        what="sizes that depend on the data", reason="depends on the data|number of results",
        way_out="fix these sizes in the export, or try --pin NODE=gpu",
    ),
    Kind(what="text and sequences", reason="never leave? the host", way_out=""),
    Kind(what="Python functions", reason="is a Python function", way_out=""),
    Kind(what="random numbers", reason="random numbers", way_out=""),
)  # fmt: skip


def held_back(outcome: Outcome, backend: str) -> HeldBack | None:
    """Return what keeps a model off the GPU; None where no GPU is planned for, or a plan that uses it is held back little.

    A plan is held back by the time that its refused nodes keep on the CPU, and by what they cut apart.

    Args:
        outcome: The plan and what it was made from.
        backend: What runs GPU stages.
    """
    evidence = outcome.case.evidence
    if evidence.table.target is None:
        return None
    refusals = gpu_refusals(evidence.graph, evidence.table, evidence.support)
    refusals = {name: _resolved(reason, refusals) for name, reason in refusals.items() if name not in evidence.pins}
    kinds = {name: kind_of(evidence.graph.by_name[name].op.known_type, reason) for name, reason in refusals.items()}
    seconds, total = _held_seconds(outcome, kinds)
    share = sum(seconds.values()) / total if total else 0.0
    dearest = sorted(seconds, key=lambda kind: -seconds[kind])[:MOST_OBSTACLES]
    members = {kind: [name for name in kinds if kinds[name] == kind] for kind in dearest}
    if not members:
        return None
    elsewhere = {} if backend == "onnxruntime-cuda" else cuda_support(evidence.graph)
    ways = {kind: _way_out(kind, names, elsewhere) for kind, names in members.items()}
    obstacles = tuple(
        Obstacle(
            what=kind.what, nodes=len(names), first=tuple(names[:FIRST_NODES]), share=seconds[kind] / total,
            reason=refusals[names[0]], way_out=ways[kind],
        )
        for kind, names in members.items()
    )  # fmt: skip
    gain = _gain(outcome, [name for kind, names in members.items() if ways[kind] for name in names])
    if outcome.plan.decision != "unsplit-cpu" and share < HELD_SHARE and (gain or 1.0) < HELD_GAIN:
        return None
    return HeldBack(share=share, gain=gain, obstacles=obstacles)


def _resolved(reason: str, refusals: Mapping[str, str]) -> str:
    """Return a reason in full where it names a node that is alike."""
    alike = _ALIKE.fullmatch(reason)
    return refusals.get(alike[1], reason) if alike else reason


def kind_of(op_type: str, reason: str) -> Kind:
    """Return the kind of a refusal.

    Args:
        op_type: Type of the refused operator, empty for a custom one.
        reason: Why it was refused.
    """
    found = next((kind for kind in KINDS if kind.holds(op_type, reason)), None)
    return found or Kind(what=kind_of_reason(reason), way_out="")


def _held_seconds(outcome: Outcome, kinds: Mapping[str, Kind]) -> tuple[dict[Kind, float], float]:
    """Return the CPU's seconds that each kind holds back, and those of the whole model.

    What is placed as a whole stays with its refused nodes; several kinds in it share its time.
    """
    seconds: dict[Kind, float] = {}
    total = 0.0
    for atom in outcome.costed.atoms:
        if math.isinf(atom.cpu_s):
            continue
        total += atom.cpu_s
        found = list(dict.fromkeys(kinds[name] for name in atom.nodes if name in kinds))
        for kind in found if math.isinf(atom.gpu_s) else ():
            seconds[kind] = seconds.get(kind, 0.0) + atom.cpu_s / len(found)
    return seconds, total


def _way_out(kind: Kind, names: Sequence[str], elsewhere: Mapping[str, Support]) -> str:
    taken = sum(elsewhere[name].ok for name in names if name in elsewhere)
    if 2 * taken < len(names) or not taken:
        return kind.way_out
    other = f"--gpu-backend onnxruntime-cuda takes {'all' if taken == len(names) else taken} of them"
    return f"{kind.way_out}; or {other}" if kind.way_out else other


def _gain(outcome: Outcome, lifted: Sequence[str]) -> float | None:
    """Return how many times better the best plan without these refusals is at most, None where it is no better."""
    evidence = outcome.case.evidence
    free = {name: Support(ok=True, reason="", source="if nothing refused it") for name in lifted}
    if not free:
        return None
    case, study = outcome.case, study_of(outcome)
    lifted_case = replace(case, evidence=replace(evidence, support={**evidence.support, **free}))
    try:
        reach = best_reach(study, lifted_case.costed().problem)
    except PlanError:
        return None
    gain = score(study, reach) / max(case.score(outcome.choice.candidate), 1e-12)
    return gain if gain > 1 + MIN_GAIN else None
