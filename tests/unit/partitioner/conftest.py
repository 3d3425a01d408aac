"""Cost tables made by hand for small graphs, so that the right decision is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from onnx import TensorProto, helper

from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.partitioner.support import Support
from cutset.profilers.table import CostTable, GroupCost, Latency, ModelFile, SessionCost, TransferModel

MS = 1e-3


@dataclass(kw_only=True)
class Case:
    """A chain of nodes a, b, c, ... with what each costs, in milliseconds."""

    graph: ModelGraph
    cpu_ms: Mapping[str, float]
    gpu_ms: Mapping[str, float | None]
    groups: Sequence[Sequence[str]]
    unfused: float = 1.5
    transfer_ms: float = 0.01
    interval: float = 1.0
    session_ms: float | None = None
    refused: Mapping[str, str] = field(default_factory=dict)

    def table(self) -> CostTable:
        """Return the table: a group costs the sum of its nodes, a node alone `unfused` times its share."""
        groups = [self._cost(group, "cpu", self.cpu_ms, 1.0) for group in self.groups]
        groups += [self._cost(group, "gpu", self.gpu_ms, self.interval) for group in self.groups if self.gpu_ms]
        total = sum(self.cpu_ms.values()) if self.session_ms is None else self.session_ms
        latency = Latency(median=total * MS, p10=total * MS, p90=total * MS, samples=9, runs=9)
        transfers = [
            TransferModel(direction=d, pinned=True, fixed_s=self.transfer_ms * MS, bytes_per_s=1e12, source="modelled")
            for d in ("h2d", "d2h")
        ]
        return CostTable(
            model=ModelFile(file="m.onnx", sha256="s", nodes=len(self.graph.nodes)),
            target={"id": "toy", "name": "Toy GPU", "source": "modelled"} if self.gpu_ms else None,
            environment={"cpu": "toy", "usable_cores": 2},
            shapes={},
            sessions=(
                SessionCost(device="cpu", backend="b", batch=1, threads=1, latency_s=latency, source="measured"),
            ),
            groups=tuple(groups),
            transfers=tuple(transfers) if self.gpu_ms else (),
        )  # fmt: skip

    def _cost(self, group: Sequence[str], device: str, each: Mapping[str, float | None], interval: float) -> GroupCost:
        costs = {name: each[name] for name in group if name in each}
        known = {name: cost * MS for name, cost in costs.items() if cost is not None}
        whole = sum(known.values()) if len(known) == len(costs) else None
        return GroupCost(
            nodes=tuple(group),
            device=device,
            backend="b",
            batch=1,
            latency_s=whole,
            low_s=None if whole is None else whole / interval,
            high_s=None if whole is None else whole * interval,
            source="measured" if device == "cpu" else "modelled",
            unfused_s={name: cost * self.unfused for name, cost in known.items()} if whole is not None else {},
            reason="" if whole is not None else "nobody knows",
        )

    def support(self) -> dict[str, Support]:
        """Return the verdict for every placeable node."""
        return {
            node.name: Support(ok=node.name not in self.refused, reason=self.refused.get(node.name, ""), source="test")
            for node in self.graph.placeable
        }


@pytest.fixture(scope="session")
def chain_graph(save_model):
    """Return a function that makes a chain x -> a -> b -> ... -> y of so many nodes."""
    made: dict[int, ModelGraph] = {}

    def make(length: int) -> ModelGraph:
        if length not in made:
            names = "abcdefghijklmnop"[:length]
            values = ["x", *(f"v_{name}" for name in names[:-1]), "y"]
            nodes = [helper.make_node("Relu", [i], [o], name=n) for n, i, o in zip(names, values, values[1:], strict=False)]
            info = TensorProto.FLOAT, [4]
            made[length] = load(save_model(nodes, [("x", *info)], [("y", *info)]))
        return made[length]

    return make


@pytest.fixture(scope="session")
def chain(chain_graph):
    """Return a function that makes the case of a chain from its costs: ``cpu`` and ``gpu`` hold one number a node."""

    def make(cpu, gpu=(), groups=None, **settings) -> Case:
        graph = chain_graph(len(cpu))
        names = [node.name for node in graph.nodes]
        return Case(
            graph=graph,
            cpu_ms=dict(zip(names, cpu, strict=True)),
            gpu_ms=dict(zip(names, gpu, strict=True)) if gpu else {},
            groups=groups or [[name] for name in names],
            **settings,
        )

    return make
