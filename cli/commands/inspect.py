"""`cutset inspect`: what is in a model, and which device can run each node."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cutset.cli.arguments import ModelArguments, split_arguments
from cutset.cli.backend import backend_option, capability, choose, session_support
from cutset.cli.options import cost_options, model_options, shared
from cutset.cli.output import Output, count, seconds, size
from cutset.cli.workflow import Progress, Target, choose_target, gpu_of, inputs_of, profile_options, read_model
from cutset.devices import GpuBackendRequest
from cutset.errors import ProfileError, UnknownShapeError, UsageError
from cutset.graph.flops import count as count_operations
from cutset.graph.model import ModelGraph, OpNode
from cutset.partitioner.support import Support, gpu_support
from cutset.profilers.options import ProfileOptions
from cutset.profilers.ort_cpu import observe_shapes
from cutset.profilers.ort_cuda import CUDA_BACKEND
from cutset.profilers.profile import profile
from cutset.profilers.session import Arrays
from cutset.profilers.table import CostTable, GroupCost

MAX_ROWS = 60
MAX_GROUPS = 20
NODE_COLUMNS = ("node", "operator", "output", "FLOPs", "bytes", "FLOP/B", "group", "can run on", "why not on the GPU")
GROUP_COLUMNS = ("group", "operators", "FLOPs", "bytes", "FLOP/B", "CPU", "source", "GPU", "source")


@click.command(name="inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help=f"Show every node, not only the first {MAX_ROWS}, and every group.")
@click.option("--costs/--no-costs", default=True, help="Whether to measure what groups of nodes cost.")
@backend_option
@model_options
@cost_options
@shared
def command(model: Path, output: Output, show_all: bool, costs: bool, gpu_backend: GpuBackendRequest, **arguments: Any) -> None:
    """Show operators, shapes, sizes, operations, what groups of nodes cost, and which device can run each node.

    Shapes come from inference and, where sample inputs are at hand, from running the model. Costs are those that
    `partition` plans with. Which nodes the GPU takes is asked of TensorRT or TensorRT-RTX where one is installed, else
    read from a table; of onnxruntime's CUDA provider, from the published list of its kernels.
    """
    about, measuring = split_arguments(model, arguments)
    target = choose_target(measuring.target, output, measuring.precision)
    options = profile_options(measuring)
    with output.progress() as progress:
        seen = _look(about, options if costs else None, target, output, progress)
        backend = None if seen.sample is None else choose(gpu_backend, gpu_of(target), output)
        if (gpu_backend if backend is None else backend.name) == CUDA_BACKEND:
            support = session_support(seen.graph, seen.table)
        elif backend is None or seen.sample is None:
            support = gpu_support(seen.graph)
        else:
            support = capability(seen.graph, seen.sample, backend, options.cache, progress)
    groups = () if seen.table is None else seen.table.groups_on("cpu")
    group_of = {name: index for index, group in enumerate(groups) for name in group.nodes}
    nodes = [_node_json(seen.graph, node, support.get(node.name), group_of.get(node.name)) for node in seen.graph.nodes]
    listed = [] if seen.table is None else [_group_json(seen.graph, group, seen.table) for group in groups]
    if output.as_json:
        output.json(_document(seen.graph, nodes, listed))
        return
    _print(seen.graph, nodes, output, limit=len(nodes) if show_all else MAX_ROWS)
    _print_groups(listed, output, limit=len(listed) if show_all else MAX_GROUPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """A model as running it showed it: shapes, inputs and costs, as far as it could be run."""

    graph: ModelGraph
    sample: Arrays | None = None
    table: CostTable | None = None


def _look(about: ModelArguments, options: ProfileOptions | None, target: Target, output: Output, progress: Progress) -> _Seen:
    """Return the model with what running it tells, or as inferred when there is nothing to run it with.

    Args:
        about: What the command line says about the model.
        options: How to measure costs, None to leave them out.
        target: Where GPU costs come from.
        output: Told when the model is not run.
        progress: Told each step.
    """
    progress(f"loading {about.model}")
    graph = read_model(about)
    try:
        sample = inputs_of(graph, about).samples[0]
        if options is None:
            return _Seen(graph=graph.with_measured(*observe_shapes(graph, sample)), sample=sample)
        graph, table = profile(graph, sample, target=target, options=options, progress=progress)
        return _Seen(graph=graph, sample=sample, table=table)
    except (ProfileError, UnknownShapeError, UsageError) as error:
        if about.inputs is not None or about.shapes:
            raise
        output.notice(f"shapes are as inferred, and neither costs nor a library's word are shown: {error.what}")
        return _Seen(graph=graph)


def _node_json(graph: ModelGraph, node: OpNode, verdict: Support | None, group: int | None) -> dict[str, Any]:
    constant = node.name in graph.constant_nodes
    try:
        cost = count_operations(graph, node)
        flops, moved = cost.flops, cost.read_bytes + cost.written_bytes + cost.weight_bytes
    except UnknownShapeError:
        flops, moved = None, None
    refused = verdict is not None and not verdict.ok
    return {
        "name": node.name,
        "op": str(node.op),
        "outputs": {v: _shape(graph, v) for v in node.outputs},
        "flops": flops,
        "bytes": moved,
        "intensity": _intensity(flops, moved),
        "group": group,
        "constant": constant,
        "gpu": not refused,
        "reason": verdict.reason if verdict is not None and refused else "",
        "source": verdict.source if verdict is not None else "",
    }


def _intensity(flops: int | None, moved: int | None) -> float | None:
    """Return operations a byte, None where a size is not known or nothing moves."""
    return None if flops is None or not moved else flops / moved


def _group_json(graph: ModelGraph, group: GroupCost, table: CostTable) -> dict[str, Any]:
    """Return a fused group with its work and its cost on every device, dear or impossible."""
    there = next((other for other in table.groups_on("gpu") if other.nodes == group.nodes), None)
    operators = Counter(graph.by_name[name].op.op_type for name in group.nodes if name not in graph.unplaced)
    return {
        "nodes": list(group.nodes),
        "operators": dict(operators),
        "flops": group.flops,
        "bytes": group.bytes,
        "intensity": _intensity(group.flops, group.bytes),
        "costs": {cost.device: _cost_json(cost) for cost in (group, there) if cost is not None},
    }


def _cost_json(cost: GroupCost) -> dict[str, Any]:
    return {name: getattr(cost, name) for name in ("backend", "latency_s", "low_s", "high_s", "source", "reason")}


def _shape(graph: ModelGraph, value: str) -> list[Any] | None:
    if value in graph.measured:
        return list(graph.measured[value])
    shape = graph.values[value].shape
    return None if shape is None else list(shape)


def _document(graph: ModelGraph, nodes: list[dict[str, Any]], groups: list[dict[str, Any]]) -> dict[str, Any]:
    def specs(values: Any) -> list[dict[str, Any]]:
        return [{"name": v.name, "dtype": v.dtype, "shape": None if v.shape is None else list(v.shape)} for v in values]

    return {
        "model": {"file": graph.path.name, "sha256": graph.sha256, "nodes": len(graph.nodes)},
        "opset_imports": dict(graph.opset_imports),
        "inputs": specs(graph.inputs),
        "outputs": specs(graph.outputs),
        "operators": dict(Counter(str(node.op) for node in graph.nodes).most_common()),
        "nodes": nodes,
        "groups": groups,
    }


def _print(graph: ModelGraph, nodes: list[dict[str, Any]], output: Output, *, limit: int) -> None:
    refused = [node for node in nodes if not node["gpu"]]
    sources = Counter(node["source"] for node in nodes if node["source"])
    output.line(f"{graph.path.name}: {len(nodes)} nodes, {len(refused)} of them for the CPU alone, sha256 {graph.sha256[:16]}")
    for title, values in (("input", graph.inputs), ("output", graph.outputs)):
        for spec in values:
            output.line(f"  {title} {spec.name}: {spec.dtype} {'?' if spec.shape is None else list(spec.shape)}")
    rows = []
    for node in nodes[:limit]:
        shapes = "; ".join("?" if shape is None else "x".join(map(str, shape)) for shape in node["outputs"].values())
        flops = "-" if node["flops"] is None else count(node["flops"])
        device = "weights" if node["constant"] else "cpu, gpu" if node["gpu"] else "cpu"
        rows.append(
            (
                node["name"],
                node["op"].removeprefix("ai.onnx::"),
                shapes,
                flops,
                size(node["bytes"]),
                _ratio(node["intensity"]),
                "-" if node["group"] is None else node["group"],
                device,
                node["reason"],
            )
        )
    asked = "; ".join(f"{source} ({number})" for source, number in sources.most_common())
    output.line(f"who says what the GPU takes: {asked}")
    output.table("Nodes", NODE_COLUMNS, rows)
    if len(nodes) > limit:
        output.line(f"({len(nodes) - limit} more: --all)")


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _print_groups(groups: list[dict[str, Any]], output: Output, *, limit: int) -> None:
    """Write the groups, the dearest on the CPU first."""
    if not groups:
        return
    numbered = sorted(enumerate(groups), key=lambda entry: -(entry[1]["costs"]["cpu"]["latency_s"] or 0.0))
    rows = []
    for index, group in numbered[:limit]:
        operators = ", ".join(name if times == 1 else f"{times} {name}" for name, times in group["operators"].items())
        costs = [group["costs"].get(device, {"latency_s": None, "source": ""}) for device in ("cpu", "gpu")]
        cells = [cell for cost in costs for cell in (seconds(cost["latency_s"]), cost["source"])]
        rows.append((index, operators, count(group["flops"]), size(group["bytes"]), _ratio(group["intensity"]), *cells))
    output.table(f"The {len(rows)} dearest of {len(groups)} groups that run as one", GROUP_COLUMNS, rows)
