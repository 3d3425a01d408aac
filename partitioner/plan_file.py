"""`plan.json` as it is read back: what reports and questions rely on is checked once, for people edit such files.

The fields are those of `Plan.as_json` and what the package adds; others may be there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from msgspec import Meta

from cutset import serde
from cutset.errors import UsageError
from cutset.partitioner.plan import PLAN_SCHEMA, Decision, HeldBack, Objective, Operating

Number = Annotated[float, Meta(ge=-1e300, le=1e300)]
Amount = Annotated[float, Meta(ge=0, le=1e300)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Size = Annotated[int, Meta(ge=1, le=2**20)]
Bytes = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Device = Literal["cpu", "gpu"]
Resource = Literal["cpu", "gpu", "h2d", "d2h"]


class _Spec(TypedDict):
    name: str
    dtype: str
    shape: list[int | str | None] | None


class _Stage(TypedDict):
    index: Count
    device: Device
    model: str
    nodes: list[str]
    inputs: list[str]
    outputs: list[str]
    service_s: Amount
    source: str


_Boundary = TypedDict(
    "_Boundary",
    {"tensor": str, "dtype": str, "bytes": Bytes | None, "from": int, "to": list[int], "transfer_s": Amount},
)


class _Step(TypedDict):
    stage: Annotated[int, Meta(ge=-1, le=2**31 - 1)]
    resource: Resource
    fixed_s: Amount
    each_s: Amount
    rows: NotRequired[Size]


class _Reach(TypedDict):
    throughput_per_s: Amount
    latency_s: Amount
    stages: Count


class _Prediction(TypedDict):
    latency_s: Amount
    throughput_per_s: Amount
    bottleneck: str
    utilisation: dict[str, Amount]
    lower_bound_s: Amount
    gap: Number
    loaded_latency_s: Amount


class _Gpu(TypedDict):
    id: str
    name: str
    source: str


class _Target(TypedDict):
    cpu: dict[str, Any]
    gpu: _Gpu | None
    source: str


class _Model(TypedDict):
    file: str
    sha256: str
    nodes: Count


class PlanFile(TypedDict):
    """The fields of `plan.json` that something reads back."""

    name: str
    model: _Model
    target: _Target
    objective: Objective
    options: dict[str, Any]
    decision: Decision
    verdict: str
    cpu_workers: Size
    intra_op_threads: Size
    batch: Size
    tokens: Size
    inputs: list[_Spec]
    outputs: list[_Spec]
    stages: list[_Stage]
    boundary: list[_Boundary]
    steps: list[_Step]
    batch_scaling: NotRequired[Literal["overheads", "measured"]]
    prediction: _Prediction
    pareto: NotRequired[list[Operating]]
    baselines: dict[str, _Reach | None]
    robustness: dict[str, dict[str, Any]]
    comparison: NotRequired[dict[str, Any] | None]
    calibration: NotRequired[dict[str, Any] | None]
    held_back: NotRequired[HeldBack | None]
    placement: dict[str, Device]
    reasons: dict[str, str]
    pins: dict[str, str]
    engines: NotRequired[dict[str, Any] | None]
    verification: NotRequired[dict[str, Any] | None]
    skipped: NotRequired[list[dict[str, str]]]


def read_plan(path: Path) -> dict[str, Any]:
    """Return the content of a `plan.json`.

    Raises:
        CutsetError: If the file cannot be read.
        UsageError: If the file is no plan of this version, a field is wrong, or fields contradict each other.
    """
    document = serde.read_json(path, schema=PLAN_SCHEMA)
    serde.convert(document, PlanFile, where=str(path))
    wrong = _contradiction(document)
    if wrong:
        raise UsageError(f"{path} does not have the expected fields", cause=wrong, hint="partition the model again")
    return document


def _contradiction(document: dict[str, Any]) -> str | None:
    """Return how fields contradict each other, None where they agree."""
    count = len(document["stages"])
    if [stage["index"] for stage in document["stages"]] != list(range(count)):
        return "the stages are not numbered 0, 1, 2, ..."
    placed = document["placement"].keys()
    unknown = [name for stage in document["stages"] for name in stage["nodes"] if name not in placed]
    if unknown or placed - document["reasons"].keys():
        return "`stages`, `placement` and `reasons` name different nodes"
    ends = [end for tensor in document["boundary"] for end in (tensor["from"], *tensor["to"])]
    if any(not -1 <= end <= count for end in [*ends, *(step["stage"] for step in document["steps"])]):
        return f"`boundary` or `steps` names a stage that is not among the {count}"
    if document["target"]["gpu"] is None and document["baselines"].get("all_cpu") is None:
        return "`baselines` lacks `all_cpu`"
    return None
