"""How good and how quick the planner is: against the exact optimum, the naive ways, and its own targets.

usage: python benchmarks/partitioner.py [--part NAME ...] [-o FILE] [--markdown] [--count N] [--jobs N]

Parts: free, stages-3, stages-5, stages-7 (random graphs, throughput, against the mixed-integer optimum), latency, light
(fused real models), published (graphs of the field's own benchmark, from the files given with --graphs) and speed. Each
takes under eight minutes on two cores. Results of parts that are not run again are kept in FILE.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import light_graphs
import numpy as np
from cost_graphs import REGIMES, SHAPES, random_problem
from naive_plans import NAIVE, naive_values

from cutset import serde
from cutset.partitioner.accelerators import device_loads
from cutset.partitioner.bound import certify
from cutset.partitioner.cost_graph import CostGraph, parse
from cutset.partitioner.exact import solve_exactly
from cutset.partitioner.goal import Goal, Objective
from cutset.partitioner.problem import Problem
from cutset.partitioner.solve import solve
from cutset.partitioner.solve_graph import GraphOptions, solve_graph
from cutset.profilers.environment import environment

SCHEMA = "cutset.benchmark.partitioner/1"
SMALLEST, LARGEST = 12, 25
MILP_SECONDS = 120.0
SPEED_SIZES = (300, 1000, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One problem: the exact optimum, the plan, the bound, and what the naive ways reach, in seconds."""

    name: str
    ops: int
    optimum_s: float
    closed: bool
    plan_s: float
    bound_s: float
    plan_seconds: float
    exact_seconds: float
    naive_s: dict[str, float]

    @property
    def gap(self) -> float:
        """How far above the optimum the plan is, as a fraction."""
        return self.plan_s / self.optimum_s - 1


def compare(name: str, problem: Problem, objective: Objective, max_stages: int | None, *, naive: bool) -> Comparison:
    """Return the planner beside the exact optimum on one problem."""
    goal = Goal(problem=problem, objective=objective, max_stages=max_stages)
    start = time.perf_counter()
    solution = solve(problem, objective=objective, max_stages=max_stages)
    planned = time.perf_counter()
    exact = solve_exactly(goal, MILP_SECONDS)
    done = time.perf_counter()
    plan_s = goal.objective_s(solution.evaluation)
    exact_s = plan_s if exact.placement is None else min(plan_s, goal.value_s(exact.placement))
    return Comparison(
        name=name,
        ops=int(problem.real.sum()),
        optimum_s=exact_s,
        closed=exact_s <= exact.bound_s * (1 + 1e-5),
        plan_s=plan_s,
        bound_s=solution.lower_bound_s,
        plan_seconds=planned - start,
        exact_seconds=done - planned,
        naive_s=naive_values(problem) if naive else {},
    )


def _random(seed: int, objective: Objective, max_stages: int | None, naive: bool) -> Comparison:
    shape, regime = list(SHAPES)[seed % 3], list(REGIMES)[seed // 3 % 3]
    size = int(np.random.default_rng(seed).integers(SMALLEST, LARGEST - 2 if shape == "blocks" else LARGEST + 1))
    problem = random_problem(1000 + seed, size, shape, regime)
    return compare(f"{shape} {regime} {seed}", problem, objective, max_stages, naive=naive)


def _light(case: tuple[str, str, int | None]) -> Comparison:
    model, regime, max_stages = case
    problem = light_graphs.problem_of(light_graphs.read()[model], regime)
    stages = "free" if max_stages is None else str(max_stages)
    return compare(f"{model} {regime} {stages}", problem, "throughput", max_stages, naive=max_stages is None)


def in_parallel(work: Callable[[Any], Comparison], cases: Iterable[Any], jobs: int) -> list[dict[str, Any]]:
    """Return the comparisons in the order of the cases."""
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        return [serde.to_builtins(row) | {"gap": row.gap} for row in pool.imap(work, cases)]


def on_random_graphs(objective: Objective, max_stages: int | None, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the comparisons on seeded random graphs."""
    naive = objective == "throughput" and max_stages is None
    work = partial(_random, objective=objective, max_stages=max_stages, naive=naive)
    return in_parallel(work, range(options.count), options.jobs)


def on_light_models(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the comparisons on the fused light models under every regime."""
    cases = [(model, regime, stages) for model in light_graphs.read() for regime in REGIMES for stages in (None, 3, 5)]
    return in_parallel(_light, cases, options.jobs)


def speed(_options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return processor seconds of each step on growing graphs; each in a process of its own, so that memory is its own."""
    rows = []
    for size in SPEED_SIZES:
        for shape in SHAPES:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rows.append(pool.apply(_timed, (size, shape)))
    return rows


def _timed(size: int, shape: str) -> dict[str, Any]:
    problem = random_problem(1, size, shape, "edge")
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = call()
        seconds[name] = time.process_time() - start
        return result

    timed("latency cut", lambda: certify(Goal(problem=problem, objective="latency")))
    timed("certificate", lambda: certify(Goal(problem=problem)))
    first = timed("plan", lambda: solve(problem, max_stages=5))
    again = size <= 1000 and bool((solve(problem, max_stages=5).placement == first.placement).all())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"ops": size, "shape": shape, "seconds": seconds, "peak_bytes": peak, "repeats": again if size <= 1000 else None}


def published(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the plans of the published graphs: divided, and with replicas; loads are in the files' own unit."""
    return [_published(path) for path in options.graphs]


def _published(path: Path) -> dict[str, Any]:
    graph = parse(json.loads(path.read_text("utf-8")), where=str(path))
    start = time.perf_counter()
    divided = solve_graph(graph, GraphOptions())
    seconds = time.perf_counter() - start
    alike = solve_graph(graph, GraphOptions(replicate=True))
    expert = path.with_name(f"{path.stem}_expert.json")
    return {
        "graph": path.stem,
        "nodes": len(graph.ids),
        "accelerators": graph.accelerators,
        "division": divided.bottleneck,
        "best_contiguous": bool(divided.notes and divided.notes[0].startswith("no division")),
        "lower_bound": divided.lower_bound,
        "seconds": seconds,
        "replicas": alike.alternatives.get("replicas"),
        "expert": _expert(graph, json.loads(expert.read_text("utf-8"))) if expert.exists() else None,
    }


def _expert(graph: CostGraph, split: dict[str, Any]) -> float:
    """Return the largest load of a split made by hand, in the planner's evaluator."""
    device = np.zeros(graph.problem.size, dtype=np.int64)
    for number, piece in enumerate(split["fpgas"], start=1):
        device[graph.member[[graph.ids.index(node) for node in piece["nodes"]]]] = number
    return float(device_loads(graph.problem, device, len(split["fpgas"])).max())


PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "free": partial(on_random_graphs, "throughput", None),
    "stages-3": partial(on_random_graphs, "throughput", 3),
    "stages-5": partial(on_random_graphs, "throughput", 5),
    "stages-7": partial(on_random_graphs, "throughput", 7),
    "latency": partial(on_random_graphs, "latency", None),
    "light": on_light_models,
    "published": published,
    "speed": speed,
}


def percent(value: float) -> str:
    """Return a fraction as people write it."""
    return f"{100 * value:.3f} %" if abs(value) < 0.1 else f"{100 * value:.1f} %"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def gap_row(name: str, rows: list[dict[str, Any]]) -> list[object]:
    """Return one line of the table of gaps."""
    gaps = np.array([row["gap"] for row in rows])
    bounds = [row["bound_s"] <= row["optimum_s"] * (1 + 1e-9) for row in rows]
    return [
        name,
        len(rows),
        sum(row["closed"] for row in rows),
        percent(float(gaps.mean())),
        percent(float(gaps.max())),
        f"{sum(gaps <= 1e-5)}",
        "always" if all(bounds) else f"{sum(bounds)} of {len(bounds)}",
        f"{np.median([row['plan_seconds'] for row in rows]):.2f} s",
        f"{np.median([row['exact_seconds'] for row in rows]):.2f} s",
    ]


GAP_COLUMNS = (
    "problems", "count", "closed", "mean gap", "largest gap", "optimal plans", "bound <= optimum", "plan", "exact"
)  # fmt: skip


def naive_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the planner beside the naive ways, as gaps to the optimum."""
    lines = []
    for name in ("the planner", *NAIVE):
        values = np.array([row["plan_s"] if name == "the planner" else row["naive_s"][name] for row in rows])
        gaps = values / np.array([row["optimum_s"] for row in rows]) - 1
        found = gaps[np.isfinite(gaps)]
        lines.append([name, percent(float(found.mean())), percent(float(np.median(found))), percent(float(found.max()))])
    return table(("way", "mean gap", "median", "largest"), lines)


def markdown(parts: dict[str, Any]) -> str:
    """Return the tables of the parts that are there."""
    text = []
    random = [(name, parts[name]) for name in ("free", "stages-3", "stages-5", "stages-7", "latency") if name in parts]
    if random:
        text.append(table(GAP_COLUMNS, [gap_row(f"random, {name}", rows) for name, rows in random]))
    if "free" in parts:
        text.append(naive_table(parts["free"]))
    if "light" in parts:
        text += _light_tables(parts["light"])
    if parts.get("published"):
        text.append(_published_table(parts["published"]))
    if "speed" in parts:
        text.append(_speed_table(parts["speed"]))
    return "\n".join(text)


def _light_tables(rows: list[dict[str, Any]]) -> list[str]:
    groups = {stages: [row for row in rows if row["name"].endswith(f" {stages}")] for stages in ("free", "3", "5")}
    lines = [gap_row(f"light models, {stages if stages == 'free' else f'stages-{stages}'}", g) for stages, g in groups.items()]
    return [table(GAP_COLUMNS, lines), naive_table(groups["free"])]


def _published_table(rows: list[dict[str, Any]]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return table(
        ("graph", "nodes", "accelerators", "by hand", "divided", "bound", "replicas", "time to divide"),
        [
            [
                row["graph"],
                row["nodes"],
                row["accelerators"],
                number(row["expert"]),
                number(row["division"]) + ("" if row["best_contiguous"] else " (not proven)"),
                number(row["lower_bound"]),
                number(row["replicas"]),
                f"{row['seconds']:.2f} s",
            ]
            for row in rows
        ],
    )


def _speed_table(rows: list[dict[str, Any]]) -> str:
    steps = ("latency cut", "certificate", "plan")
    return table(
        ("ops", "shape", *steps, "peak memory", "same plan again"),
        [
            [
                row["ops"],
                row["shape"],
                *(f"{row['seconds'][step]:.2f} s" for step in steps),
                f"{row['peak_bytes'] / 1e6:.0f} MB",
                {True: "yes", False: "NO", None: "not run"}[row["repeats"]],
            ]
            for row in rows
        ],
    )


def main() -> None:
    """Run the chosen parts, write the file, and print the tables or the JSON."""
    parser = argparse.ArgumentParser(description="How good and how quick the planner is.")
    parser.add_argument("--part", action="append", choices=PARTS, help="What to run; may be repeated; all by default.")
    parser.add_argument("--count", type=int, default=300, help="Random graphs a part.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="Processes for the parts that are not timed.")
    parser.add_argument("--graphs", type=Path, nargs="*", default=[], help="Published cost graphs for the part of that name.")
    parser.add_argument("-o", "--output", type=Path, help="File to write, or to add parts to.")
    parser.add_argument("--markdown", action="store_true", help="Print tables instead of JSON.")
    options = parser.parse_args()
    parts: dict[str, Any] = {}
    if options.output and options.output.exists():
        parts = serde.read_json(options.output, schema=SCHEMA)["parts"]
    for name in options.part or PARTS:
        start = time.perf_counter()
        parts[name] = PARTS[name](options)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    document = {"schema": SCHEMA, "environment": serde.to_builtins(environment()), "parts": parts}
    if options.output:
        options.output.write_text(json.dumps(document) + "\n", "utf-8")
    print(markdown(parts) if options.markdown else serde.dumps(document), end="")


if __name__ == "__main__":
    main()
