"""What a report is made from: the files of an output folder of `partition`, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutset import serde
from cutset.codegen.report.explore import EXPLORED_SCHEMA
from cutset.codegen.report.topology import Topology, read_topology
from cutset.digest import sha256_file
from cutset.errors import UsageError
from cutset.partitioner.plan_file import read_plan
from cutset.profilers.table import CostTable, read_profile

BENCH_SCHEMA = "cutset.bench/1"
CAPACITY_SCHEMA = "cutset.capacity/1"
DIFF_SCHEMA = "cutset.diff/1"
CAPACITY, EXPLORED, PROBLEM = "capacity.json", "explored.json", "problem.json"
BENCH, DIFF, GRAPH = "bench.json", "diff.json", "graph.json"
PLAN, PROFILE, REPORT = "plan.json", "profile.json", "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The content of an output folder.

    Args:
        plan: ``plan.json``; its ``verification`` may be missing.
        table: The costs that it was made from.
        topology: The model's nodes; empty where it is not known.
        bench: ``bench.json``, None before the first `bench`.
        explored: ``explored.json``, None before the first ``report --explore``.
        capacity: ``capacity.json``, None before the first `capacity`.
        diff: ``diff.json``, what `ci` found against a baseline; None without.
        files: Path, bytes and SHA-256 of the files that the package is made of.
    """

    plan: Mapping[str, Any]
    table: CostTable
    topology: Topology = Topology()  # noqa: RUF009 - frozen
    bench: Mapping[str, Any] | None = None
    explored: Mapping[str, Any] | None = None
    capacity: Mapping[str, Any] | None = None
    diff: Mapping[str, Any] | None = None
    files: tuple[tuple[str, int, str], ...] = ()


def read_material(folder: Path) -> Material:
    """Return what is in an output folder.

    Raises:
        UsageError: If it holds no plan, or a file of another version.
    """
    if not (folder / PLAN).is_file():
        raise UsageError(f"{folder} holds no plan", hint="make one: cutset partition MODEL -o DIR")
    graph, bench, explored, capacity, diff = (folder / name for name in (GRAPH, BENCH, EXPLORED, CAPACITY, DIFF))
    return Material(
        plan=read_plan(folder / PLAN),
        table=read_profile(folder / PROFILE),
        topology=read_topology(graph) if graph.is_file() else Topology(),
        bench=serde.read_json(bench, schema=BENCH_SCHEMA) if bench.is_file() else None,
        explored=serde.read_json(explored, schema=EXPLORED_SCHEMA) if explored.is_file() else None,
        capacity=serde.read_json(capacity, schema=CAPACITY_SCHEMA) if capacity.is_file() else None,
        diff=serde.read_json(diff, schema=DIFF_SCHEMA) if diff.is_file() else None,
        files=tuple(_files(folder)),
    )


def _files(folder: Path) -> list[tuple[str, int, str]]:
    """Return what `partition` made: the costs, the stages and what engines are built from."""
    paths = [folder / PROFILE, *(path for path in folder.glob("serving/*/stages/*") if path.is_file())]
    return [(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_file(path)) for path in sorted(paths)]
