"""Whether any placement keeps the limits, and if none does, which limit is the one that binds."""

from __future__ import annotations

import numpy as np

from cutset.errors import PlanError
from cutset.partitioner.bound import certify
from cutset.partitioner.cut import Flow
from cutset.partitioner.exact import solve_exactly
from cutset.partitioner.goal import Goal, Limits
from cutset.partitioner.problem import Placement

_SECONDS = 60.0
_ROUNDING = 1 + 1e-9


def refuse_impossible(goal: Goal, flow: Flow = "scipy") -> None:
    """Check each limit by itself, and the two together as far as the relaxation tells.

    Raises:
        PlanError: If it proves that no placement keeps the limits; the message says which, and what the least is.
    """
    if not goal.limits.some:
        return
    _refuse_memory(goal)
    fastest_s = certify(Goal(problem=goal.problem, objective="latency"), flow).value_s
    if fastest_s > goal.limits.latency_s * _ROUNDING:
        raise PlanError(
            f"no placement answers within {goal.problem.time(goal.limits.latency_s)}",
            cause=f"the fastest takes {goal.problem.time(fastest_s)} at these costs, without a limit on stages or memory",
            hint="allow more latency, or pin less",
        )
    if certify(goal, flow).value_s > goal.problem.total_s:
        raise _refusal(goal)


def _refuse_memory(goal: Goal) -> None:
    problem = goal.problem
    stuck = np.flatnonzero(~problem.on_cpu)
    least = float(problem.gpu_bytes[stuck].sum())
    if least > goal.limits.gpu_bytes:
        largest = sorted(stuck.tolist(), key=lambda v: -problem.gpu_bytes[v])[:3]
        raise PlanError(
            f"the ops that only the GPU runs need {least:.0f} bytes there, the limit is {goal.limits.gpu_bytes:.0f}",
            cause="the largest are " + ", ".join(f"`{problem.names[v]}`" for v in largest),
            hint="allow more GPU memory, or unpin one of these ops",
        )


def placement_within(goal: Goal) -> Placement:
    """Return some placement within the limits, which the search did not find.

    Raises:
        PlanError: If the exact planner proves there is none, or finds none in time; the message says which limits bind.
    """
    exact = solve_exactly(goal, _SECONDS)
    if exact.placement is not None:
        return exact.placement
    if exact.infeasible:
        raise _refusal(goal)
    raise PlanError(
        f"no placement within the limits was found, and {_SECONDS:g} s of the exact planner could not rule it out",
        cause=_described(goal),
        hint="relax one of the limits a little",
    )


def _refusal(goal: Goal) -> PlanError:
    """Return the error of limits that exclude every placement, with what each costs the other."""
    causes = []
    for name, relaxed in (
        ("latency", Limits(gpu_bytes=goal.limits.gpu_bytes)),
        ("GPU memory", Limits(latency_s=goal.limits.latency_s)),
    ):
        if relaxed != goal.limits:
            other = Goal(problem=goal.problem, objective="latency", max_stages=goal.max_stages, limits=relaxed)
            least = solve_exactly(other, _SECONDS)
            if least.placement is not None and name == "latency":
                causes.append(f"within the rest the fastest takes {goal.problem.time(other.value_s(least.placement))}")
            elif least.placement is not None:
                size = float(goal.problem.gpu_bytes[least.placement == 1].sum())
                causes.append(f"the fastest without a memory limit holds {size:.0f} bytes on the GPU")
    return PlanError(
        f"no placement keeps {_described(goal)} together",
        cause="; ".join(causes) or None,
        hint="relax one of them",
    )


def _described(goal: Goal) -> str:
    limits, parts = goal.limits, []
    if np.isfinite(limits.latency_s):
        parts.append(f"a latency of {goal.problem.time(limits.latency_s)}")
    if np.isfinite(limits.gpu_bytes):
        parts.append(f"{limits.gpu_bytes:.0f} bytes on the GPU")
    if goal.max_stages is not None:
        parts.append(f"{goal.max_stages} stages")
    return " and ".join(parts)
