"""The executable specification of a plan, run after planning in production and reused by the tests."""

from __future__ import annotations

from collections.abc import Sequence

from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Plan, Stage


def problems(graph: ModelGraph, plan: Plan) -> list[str]:
    """Return every way in which `plan` fails to be a plan of `graph`; empty when it is one."""
    found = stage_problems(graph, plan.stages)
    for node in graph.nodes:
        if plan.placement.get(node.name) not in {"cpu", "gpu"}:
            found.append(f"node `{node.name}` has no placement")
    for stage in plan.stages:
        found += [
            f"node `{name}` is placed on {plan.placement.get(name)} and lies in a {stage.device} stage"
            for name in stage.nodes
            if plan.placement.get(name) != stage.device
        ]
    for name, device in plan.pins.items():
        if plan.placement.get(name) != device:
            found.append(f"node `{name}` is pinned to {device} and placed on {plan.placement.get(name)}")
    if plan.decision != "split" and len(plan.stages) != 1:
        found.append(f"the decision is {plan.decision} but there are {len(plan.stages)} stages")
    return found


def stage_problems(graph: ModelGraph, stages: Sequence[Stage]) -> list[str]:
    """Return what is wrong with a division into stages: coverage, order and interfaces."""
    found = []
    covered = [name for stage in stages for name in stage.nodes]
    if sorted(covered) != sorted(node.name for node in graph.placeable):
        found.append("the stages do not cover every placeable node exactly once")
    if not graph.by_name.keys() >= set(covered):
        return [*found, "a stage holds a node that the model does not have"]
    known = {spec.name for spec in graph.inputs}
    for stage in stages:
        found += [f"stage {stage.index} reads `{v}`, which no earlier stage writes" for v in stage.inputs if v not in known]
        made = {output for name in stage.nodes for output in graph.by_name[name].outputs} | graph.constant_values
        found += [
            f"node `{name}` in stage {stage.index} reads `{value}`, which the stage does not receive"
            for name in stage.nodes
            for value in graph.by_name[name].inputs
            if value not in made and value not in stage.inputs
        ]
        found += [f"stage {stage.index} writes `{v}`, which it does not make" for v in stage.outputs if v not in made]
        known = known | set(stage.outputs)
    found += [f"graph output `{s.name}` is written by no stage" for s in graph.outputs if s.name not in known]
    return found
