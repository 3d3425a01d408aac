"""Plan one model: costs to problem, problem to placement, placement to stages, and a decision that does no harm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cutset.graph.model import ModelGraph
from cutset.partitioner.assemble import assemble
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Costed
from cutset.partitioner.decide import Case, Choice, choose
from cutset.partitioner.evaluation import evaluate
from cutset.partitioner.judge import Scores
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import Pin
from cutset.partitioner.plan import Plan
from cutset.partitioner.problem import Placement
from cutset.partitioner.solve import Solution
from cutset.partitioner.support import Support
from cutset.partitioner.wellformed import problems
from cutset.profilers.table import CostTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """A plan with what it was made from: the input of `explain`, `capacity` and `calibrate`.

    Attributes:
        case: The evidence and the options.
        costed: The problem and what its op indices mean.
        solution: The placement found, its bound and prices.
        choice: What is deployed, which may be a plan that needs no optimiser.
        plan: All of it as `plan.json` shows it.
    """

    case: Case
    costed: Costed
    solution: Solution
    choice: Choice
    plan: Plan


def plan(
    graph: ModelGraph,
    table: CostTable,
    support: Mapping[str, Support],
    pins: Mapping[str, Pin],
    options: PlanOptions,
) -> Plan:
    """Return the plan of a model.

    Args:
        graph: The model with measured shapes.
        table: Its costs.
        support: Which nodes the GPU backend takes.
        pins: Pin of each pinned node.
        options: What to plan for.

    Raises:
        PlanError: If pins and the stage limit leave no placement.
    """
    evidence = Evidence(graph=graph, table=table, support=support, pins=pins)
    return plan_evidence(evidence, options).plan


def plan_evidence(
    evidence: Evidence,
    options: PlanOptions,
    placement: Placement | None = None,
    rivals: Mapping[str, Scores] | None = None,
) -> Outcome:
    """Return the plan of a model with what it was made from.

    Args:
        evidence: The model, its costs, verdicts and pins.
        options: What to plan for.
        placement: One to judge instead of the best one found; the bound is of all placements either way.
        rivals: Scores of the simple plans at the sizes that suit them best; at this size by default.

    Raises:
        PlanError: If pins and the stage limit leave no placement.
    """
    case = Case(evidence=evidence, options=options)
    costed = case.costed()
    solution = case.solve_simply(costed)
    if placement is not None:
        solution = replace(solution, placement=placement, evaluation=evaluate(costed.problem, placement))
    choice = choose(case, costed, solution, rivals)
    result = assemble(case, costed, solution, choice)
    wrong = problems(evidence.graph, result)
    if wrong:
        raise AssertionError(f"the planner made a plan that is none: {wrong[:3]}")
    return Outcome(case=case, costed=costed, solution=solution, choice=choice, plan=result)
