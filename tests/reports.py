"""Plans for tests of the report: of any model, measured for a moment, and of any size."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cutset import serde
from cutset.codegen.report import Material, render_report
from cutset.codegen.report.topology import Topology, Vertex, topology_of
from cutset.graph.load import load, with_operators
from cutset.partitioner.cost import Machine
from cutset.partitioner.options import PlanOptions
from cutset.partitioner.pins import parse_pin, resolve
from cutset.partitioner.planner import plan
from cutset.partitioner.support import gpu_support
from cutset.profilers.datasheets import datasheet
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile
from cutset.profilers.table import CostTable, GroupCost


class Case(NamedTuple):
    """A plan as `plan.json` holds it, its costs, and the model's nodes."""

    document: dict[str, Any]
    table: CostTable
    topology: Topology = Topology()

    def html(self) -> str:
        return render_report(Material(plan=self.document, table=self.table, topology=self.topology))


def planned(
    path: Path,
    feeds: Mapping[str, Any],
    *,
    target: str | None = "t4",
    pins: Mapping[str, str] = {},
    name: str = "model",
    outputs: Sequence[str] = (),
) -> Case:
    """Return the plan of a model, through JSON and back, as `plan.json` is read again."""
    graph = with_operators(load(path))
    sheet = None if target is None else datasheet(target)
    graph, table = profile(graph, feeds, target=sheet, options=ProfileOptions(budget_s=0.05))
    wanted = resolve(graph, [parse_pin(f"{glob}={device}") for glob, device in pins.items()])
    options = PlanOptions(name=name, machine=Machine(cpu_workers=1, cores=2))
    document = plan(graph, table, gpu_support(graph), wanted, options).as_json()
    proof = {"passed": True, "max_abs": 1.5e-6, "max_rel": 2e-7, "samples": 3, "inputs": "drawn with seed 0",
             "outputs": list(outputs), "unrepeatable": []}  # fmt: skip
    return Case(json.loads(serde.dumps(document | {"verification": proof})), table, topology_of(graph))


def enlarged(case: Case, count: int) -> Case:
    """Return a plan of `count` nodes in one stage, each a group on both devices, with names of ordinary length."""
    document, table, _ = copy.deepcopy(case)
    names = [f"/encoder/layer.{index}/attention/output/dense/MatMul" for index in range(count)]
    weighed = "9.0 us measured on the CPU, 8.0 us modelled on the GPU; with what crosses, the whole is best with it on the CPU"
    document |= {
        "placement": dict.fromkeys(names, "cpu"),
        "reasons": dict.fromkeys(names, weighed),
        "stages": [document["stages"][0] | {"nodes": names}],
        "boundary": [],
        "pins": {},
    }
    group = table.groups_on("cpu")[0]
    groups: tuple[GroupCost, ...] = tuple(
        replace(group, nodes=(name,), device=device, latency_s=9e-6, reason="") for device in ("cpu", "gpu") for name in names
    )
    nodes = tuple(Vertex(name=name, op="MatMul", after=(place - 1,) if place else ()) for place, name in enumerate(names))
    return Case(document, replace(table, groups=groups), Topology(nodes=nodes))
