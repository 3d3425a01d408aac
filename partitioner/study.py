"""The problem that a plan solves as `problem.json` keeps it, so that questions about the plan need no measuring."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
from msgspec import Meta

from cutset import serde
from cutset.errors import PlanError, UsageError
from cutset.partitioner.cost import Costed
from cutset.partitioner.goal import Limits
from cutset.partitioner.plan import Objective
from cutset.partitioner.planner import Outcome
from cutset.partitioner.problem import Placement, Problem, Tensor

PROBLEM_SCHEMA = "cutset.problem/1"

_PLAIN = ("copy_fixed_s", "objective", "max_stages", "batch", "prices", "latency_limit_s", "gpu_bytes_limit")


Amount = Annotated[float, Meta(ge=0, le=1e300)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Size = Annotated[int, Meta(ge=1, le=2**20)]


class _TensorFile(TypedDict):
    name: str
    producer: Count
    consumers: list[Count]
    h2d_s: Amount
    d2h_s: Amount


class _ProblemFile(TypedDict):
    names: list[str]
    cpu_s: list[Amount | None]
    gpu_s: list[Amount | None]
    tensors: list[_TensorFile]
    pseudo: list[Count]
    cpu_workers: Size
    gpu_count: Size
    cpu_stage_s: Amount
    gpu_stage_s: Amount
    min_gpu_ops: Count
    gpu_bytes: list[Amount]
    copies_overlap: bool
    unit: str
    whole_cpu_s: Amount | None
    whole_cores: Size


class StudyFile(TypedDict):
    """The fields of `problem.json`."""

    problem: _ProblemFile
    placement: list[Literal[0, 1]]
    nodes: list[list[str]]
    reasons: list[str]
    sizes: list[Annotated[int, Meta(ge=0, le=2**63 - 1)]]
    copy_fixed_s: dict[Literal["h2d", "d2h"], Amount]
    objective: Objective
    max_stages: Size
    batch: Size
    prices: dict[Literal["cpu", "gpu", "h2d", "d2h"], Amount]
    latency_limit_s: Amount | None
    gpu_bytes_limit: Amount | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """What a plan was chosen from.

    Attributes:
        problem: The costs, seconds a request.
        placement: The one that is deployed.
        nodes: Nodes of each op; pseudo-ops have none.
        reasons: Why each op had no choice, empty where it had one.
        sizes: Bytes of each tensor in one batch.
        copy_fixed_s: Seconds a request of a copy, whatever its size, by direction.
        objective: What was made best.
        max_stages: Most stages.
        batch: Requests in a batch.
        prices: Weight of each resource in the proof of the bound.
        latency_limit_s: Seconds that one batch alone may take, None for no limit.
        gpu_bytes_limit: Bytes that the weights of GPU stages may take, None for no limit.
    """

    problem: Problem
    placement: Placement
    nodes: tuple[tuple[str, ...], ...]
    reasons: tuple[str, ...]
    sizes: tuple[int, ...]
    copy_fixed_s: Mapping[str, float]
    objective: Objective
    max_stages: int
    batch: int
    prices: Mapping[str, float]
    latency_limit_s: float | None = None
    gpu_bytes_limit: float | None = None

    @property
    def limits(self) -> Limits:
        """What every placement must keep, a request."""
        return Limits(
            latency_s=math.inf if self.latency_limit_s is None else self.latency_limit_s / self.batch,
            gpu_bytes=math.inf if self.gpu_bytes_limit is None else self.gpu_bytes_limit,
        )


def study_of(outcome: Outcome) -> Study:
    """Return what the plan of an outcome was chosen from."""
    costed, options = outcome.costed, outcome.case.options
    pseudo = len(costed.problem.pseudo)
    return Study(
        problem=costed.problem,
        placement=outcome.choice.candidate.placement,
        nodes=(*(atom.nodes for atom in costed.atoms), *((),) * pseudo),
        reasons=(*(atom.reason for atom in costed.atoms), *("",) * pseudo),
        sizes=_sizes(outcome, costed),
        copy_fixed_s=costed.copy_fixed_s,
        objective=options.objective,
        max_stages=options.max_stages,
        batch=costed.batch,
        prices=outcome.solution.prices,
        latency_limit_s=options.slo_s,
        gpu_bytes_limit=None if outcome.case.fits(costed) else options.gpu_memory_bytes,
    )


def _sizes(outcome: Outcome, costed: Costed) -> tuple[int, ...]:
    graph = outcome.case.evidence.graph
    return tuple(graph.nbytes(t.name) if graph.knows_shape(t.name) and graph.values[t.name].is_tensor else 0
                 for t in costed.problem.tensors)  # fmt: skip


def dump_study(study: Study) -> str:
    """Return a study as JSON; a cost that is infinite is null."""
    document = {field.name: getattr(study, field.name) for field in fields(study)}
    problem = {field.name: _encoded(getattr(study.problem, field.name)) for field in fields(Problem) if field.init}
    return serde.dumps({"schema": PROBLEM_SCHEMA} | document | {"problem": problem, "placement": study.placement.tolist()})


def read_study(path: Path) -> Study:
    """Return the study in a file.

    Raises:
        UsageError: If it is none of this version.
    """
    document = serde.read_json(path, schema=PROBLEM_SCHEMA)
    serde.convert(document, StudyFile, where=str(path))
    try:
        data = document["problem"]
        problem = Problem(**{field.name: _decoded(field.name, data[field.name]) for field in fields(Problem) if field.init})
        study = Study(
            problem=problem,
            placement=np.array(document["placement"], dtype=np.int8),
            nodes=tuple(tuple(names) for names in document["nodes"]),
            **{name: document[name] for name in _PLAIN},
            reasons=tuple(document["reasons"]),
            sizes=tuple(document["sizes"]),
        )
        _check_lengths(study)
    except (KeyError, ValueError, PlanError) as error:
        raise UsageError(
            f"{path} does not have the expected fields", cause=str(error), hint="partition the model again"
        ) from error
    return study


def _check_lengths(study: Study) -> None:
    """Check what `Problem` does not know.

    Raises:
        ValueError: If a list is not as long as the problem, or the placement is none.
    """
    lengths = {"placement": len(study.placement), "nodes": len(study.nodes), "reasons": len(study.reasons)}
    wrong = [name for name, length in lengths.items() if length != len(study.problem.names)]
    wrong += ["sizes"] if len(study.sizes) != len(study.problem.tensors) else []
    if wrong:
        raise ValueError(f"`{wrong[0]}` has another length than the problem of {len(study.problem.names)} ops")


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [entry if math.isfinite(entry) else None for entry in value.tolist()]
    return sorted(value) if isinstance(value, frozenset) else value


def _decoded(name: str, value: Any) -> Any:
    if name == "tensors":
        return tuple(Tensor(**(entry | {"consumers": tuple(entry["consumers"])})) for entry in value)
    if name == "names":
        return tuple(value)
    if name == "pseudo":
        return frozenset(value)
    return np.array([math.inf if entry is None else entry for entry in value]) if isinstance(value, list) else value
