"""`cutset inspect`: what is in a model, and which device can run each node."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from cutset.cli.arguments import ModelArguments, cache_folder
from cutset.cli.backend import backend_option, capability, choose
from cutset.cli.options import model_options, shared
from cutset.cli.output import Output, count, size
from cutset.cli.workflow import choose_target, gpu_of, read_model
from cutset.devices import GpuBackendRequest
from cutset.errors import CutsetError, UnknownShapeError
from cutset.graph.flops import count as count_operations
from cutset.graph.model import ModelGraph, OpNode
from cutset.partitioner.support import Support, gpu_support
from cutset.profilers.cache import CostCache
from cutset.profilers.gpu_backend import Gpu
from cutset.profilers.inputs import collect, parse_shape
from cutset.profilers.ort_cpu import observe_shapes
from cutset.profilers.session import Arrays

MAX_ROWS = 60


@click.command(name="inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--all", "show_all", is_flag=True, help=f"Show every node, not only the first {MAX_ROWS}.")
@click.option("--target", metavar="NAME|FILE", help="GPU to ask about, as for partition; any recent one by default.")
@click.option("--cache", metavar="DIR|none", help="Where answers of libraries are kept; the user's cache folder by default.")
@backend_option
@model_options
@shared
def command(
    output: Output, show_all: bool, target: str | None, cache: str | None, gpu_backend: GpuBackendRequest, **arguments: Any
) -> None:
    """Show operators, shapes, sizes, operations, and which device can run each node.

    Shapes come from inference and, where sample inputs are at hand, from one run of the model. Which nodes the GPU takes
    is asked of TensorRT or TensorRT-RTX where one is installed, else read from a recorded table.
    """
    about = ModelArguments(**arguments)
    gpu = Gpu() if target is None else gpu_of(choose_target(target, output))
    backend = choose(gpu_backend, gpu, output)
    with output.progress() as progress:
        progress(f"loading {about.model}")
        graph, sample = _with_shapes(read_model(about), about, output)
        if sample is None:
            support = gpu_support(graph)
        else:
            support = capability(graph, sample, backend, CostCache(cache_folder(cache)), progress)
    nodes = [_node_json(graph, node, support.get(node.name)) for node in graph.nodes]
    if output.as_json:
        output.json(_document(graph, nodes))
        return
    _print(graph, nodes, output, limit=len(nodes) if show_all else MAX_ROWS)


def _with_shapes(graph: ModelGraph, about: ModelArguments, output: Output) -> tuple[ModelGraph, Arrays | None]:
    """Return the graph with the shapes of one run and its inputs, or as inferred when there are none to run it with."""
    explicit = about.inputs is not None or bool(about.shapes)
    try:
        shapes = dict(parse_shape(text) for text in about.shapes)
        samples = collect(graph.inputs, model=about.model, file=about.inputs, shapes=shapes, seed=about.seed)
        return graph.with_measured(*observe_shapes(graph, samples.samples[0])), samples.samples[0]
    except CutsetError as error:
        if explicit:
            raise
        output.notice(f"shapes are as inferred, and no library is asked about nodes: {error.what}")
        return graph, None


def _node_json(graph: ModelGraph, node: OpNode, verdict: Support | None) -> dict[str, Any]:
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
        "constant": constant,
        "gpu": not refused,
        "reason": verdict.reason if verdict is not None and refused else "",
        "source": verdict.source if verdict is not None else "",
    }


def _shape(graph: ModelGraph, value: str) -> list[Any] | None:
    if value in graph.measured:
        return list(graph.measured[value])
    shape = graph.values[value].shape
    return None if shape is None else list(shape)


def _document(graph: ModelGraph, nodes: list[dict[str, Any]]) -> dict[str, Any]:
    def specs(values: Any) -> list[dict[str, Any]]:
        return [{"name": v.name, "dtype": v.dtype, "shape": None if v.shape is None else list(v.shape)} for v in values]

    return {
        "model": {"file": graph.path.name, "sha256": graph.sha256, "nodes": len(graph.nodes)},
        "opset_imports": dict(graph.opset_imports),
        "inputs": specs(graph.inputs),
        "outputs": specs(graph.outputs),
        "operators": dict(Counter(str(node.op) for node in graph.nodes).most_common()),
        "nodes": nodes,
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
                device,
                node["reason"],
            )
        )
    asked = "; ".join(f"{source} ({number})" for source, number in sources.most_common())
    output.line(f"who says what the GPU takes: {asked}")
    output.table("Nodes", ("node", "operator", "output", "FLOPs", "bytes", "can run on", "why not on the GPU"), rows)
    if len(nodes) > limit:
        output.line(f"({len(nodes) - limit} more: --all)")
