"""Write the cost graphs of the untrained "light" models that the onnx package carries: fused groups, measured on this CPU.

usage: python benchmarks/light_graphs.py [-o FILE] [--seconds S]

The planner's benchmark reads the file, so that its numbers repeat on any machine. GPU costs are not in it: they are
modelled from the CPU's under three ratios of speed when the file is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cost_graphs import REGIMES, Regime

from cutset import serde
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.partitioner.atoms import Evidence
from cutset.partitioner.cost import Costed, Machine, build_problem
from cutset.partitioner.problem import Problem, Tensor
from cutset.profilers.environment import environment
from cutset.profilers.inputs import collect
from cutset.profilers.options import ProfileOptions
from cutset.profilers.profile import profile

FILE = Path(__file__).parent / "data" / "light_graphs.json"
SCHEMA = "cutset.benchmark.cost-graphs/1"
FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
HEAVY = {"Conv", "Gemm", "MatMul", "FusedConv", "ConvTranspose"}
SMALL = {"Reshape", "Flatten", "Shape", "Dropout", "Squeeze", "Unsqueeze", "Identity"}
NOISE = 0.15


def kind_of(graph: ModelGraph, nodes: tuple[str, ...]) -> str:
    """Return whether a fused group is heavy, small or elementwise."""
    types = {graph.by_name[name].op.op_type for name in nodes}
    return "heavy" if types & HEAVY else "small" if types <= SMALL else "elementwise"


def measured(model: Path, seconds: float) -> dict[str, Any]:
    """Return the cost graph of one model: times in microseconds, sizes in bytes, the last two ops its inputs and outputs."""
    graph = load(model)
    sample = collect(graph.inputs, model=model).samples[0]
    graph, table = profile(graph, sample, target=None, options=ProfileOptions(budget_s=seconds))
    evidence = Evidence(graph=graph, table=table, support={}, pins={})
    costed: Costed = build_problem(evidence, Machine(cpu_workers=1, cores=1, saturated=False))
    problem = costed.problem
    return {
        "ops": [
            {"name": atom.name, "kind": kind_of(graph, atom.nodes), "cpu_us": round(float(cpu_s) * 1e6, 2)}
            for atom, cpu_s in zip(costed.atoms, problem.cpu_s.tolist(), strict=False)
        ],
        "tensors": [
            {"producer": t.producer, "consumers": list(t.consumers), "bytes": graph.nbytes(t.name)} for t in problem.tensors
        ],
    }


def read(path: Path = FILE) -> dict[str, dict[str, Any]]:
    """Return the cost graphs by model name."""
    models: dict[str, dict[str, Any]] = serde.read_json(path, schema=SCHEMA)["models"]
    return models


def problem_of(graph: dict[str, Any], regime: str, seed: int = 0) -> Problem:
    """Return the placement problem of a cost graph, its GPU costs modelled under one of `REGIMES`."""
    rng = np.random.default_rng(seed)
    machine: Regime = REGIMES[regime]
    cpu_s = [op["cpu_us"] * 1e-6 for op in graph["ops"]]
    gpu_s = [_gpu_s(rng, op["kind"], cost, machine) for op, cost in zip(graph["ops"], cpu_s, strict=True)]
    copies = [machine.copies(tensor["bytes"]) for tensor in graph["tensors"]]
    return Problem(
        names=(*(op["name"] for op in graph["ops"]), "<input>", "<output>"),
        cpu_s=np.array([*cpu_s, 0.0, 0.0]),
        gpu_s=np.array([*gpu_s, np.inf, np.inf]),
        tensors=tuple(
            Tensor(name=str(i), producer=t["producer"], consumers=tuple(t["consumers"]), h2d_s=h2d_s, d2h_s=d2h_s)
            for i, (t, (h2d_s, d2h_s)) in enumerate(zip(graph["tensors"], copies, strict=True))
        ),
        pseudo=frozenset({len(cpu_s), len(cpu_s) + 1}),
        cpu_workers=machine.cpu_workers,
    )


def _gpu_s(rng: np.random.Generator, kind: str, cpu_s: float, regime: Regime) -> float:
    noise = float(np.exp(rng.normal(0, NOISE)))
    if kind == "heavy":
        return max(5e-6, cpu_s / rng.uniform(*regime.speedup)) * noise
    if kind == "small":
        return float(rng.uniform(3e-6, 6e-6))
    return (2.5e-6 + cpu_s / (4 * regime.speedup[0] ** 0.5)) * noise


def main() -> None:
    """Measure every light model and write the file."""
    parser = argparse.ArgumentParser(description="Write the cost graphs of the light models.")
    parser.add_argument("-o", "--output", type=Path, default=FILE)
    parser.add_argument("--seconds", type=float, default=1.0, help="Time for each repeated measurement.")
    arguments = parser.parse_args()
    models = {}
    for path in sorted(FOLDER.glob("*.onnx")):
        models[path.stem] = measured(path, arguments.seconds)
        print(f"{path.stem}: {len(models[path.stem]['ops'])} fused ops", file=sys.stderr)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"schema": SCHEMA, "environment": serde.to_builtins(environment()), "models": models}
    arguments.output.write_text(json.dumps(document, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
