"""Models of the serving benchmarks, and their packages: whole, and split into stages of about the same time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from cutset.codegen.split import write_stages
from cutset.graph.load import load
from cutset.graph.model import ModelGraph
from cutset.partitioner.plan import Part, form_stages
from cutset.profilers.inputs import write_npz

SIZE = 224  # a float32 photo of 3 x 224 x 224 is 602,112 bytes
INPUT = "x"
OUTPUT = "y"


def residual_network(path: Path, *, blocks: Sequence[int], channels: int) -> Path:
    """Write a network of residual blocks between a stem and a pooled classifier, and return its path.

    Args:
        path: Where.
        blocks: How many at 56 x 56, at 28 x 28 with twice the channels, and so on; (3, 4, 6, 3) with 64 channels are the
            blocks of ResNet-34.
        channels: Of the first.

    Source:
        He et al., "Deep residual learning for image recognition", 2015.
    """
    rng = np.random.default_rng(0)
    nodes: list[NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def conv(name: str, source: str, target: str, shape: Sequence[int], **attributes: Any) -> None:
        scale = 0.5 / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}.w"] = rng.normal(0, scale, shape).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, f"{name}.w"], [target], name=name, **attributes))

    conv("stem", INPUT, "b0", (channels, 3, 4, 4), strides=[4, 4])
    width = channels
    for block, level in enumerate(level for level, count in enumerate(blocks) for _ in range(count)):
        before, width, skip = width, channels << level, f"b{block}"
        stride = width // before
        if stride > 1:
            skip = f"{block}.s"
            conv(f"{block}.skip", f"b{block}", skip, (width, before, 1, 1), strides=[stride, stride])
        conv(f"{block}.a", f"b{block}", f"{block}.c", (width, before, 3, 3), pads=[1, 1, 1, 1], strides=[stride, stride])
        nodes.append(helper.make_node("Relu", [f"{block}.c"], [f"{block}.r"], name=f"{block}.relu"))
        conv(f"{block}.b", f"{block}.r", f"{block}.d", (width, width, 3, 3), pads=[1, 1, 1, 1])
        nodes.append(helper.make_node("Add", [skip, f"{block}.d"], [f"b{block + 1}"], name=f"{block}.add"))
    weights["fc.w"] = rng.normal(0, 0.1, (width, 10)).astype(np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [f"b{sum(blocks)}"], ["pooled"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"))
    nodes.append(helper.make_node("MatMul", ["flat", "fc.w"], [OUTPUT], name="fc"))
    return save(path, nodes, weights, (INPUT, ["n", 3, SIZE, SIZE]), (OUTPUT, ["n", 10]))


def small_network(path: Path, *, width: int, layers: int) -> Path:
    """Write a stack of dense layers and return its path."""
    rng = np.random.default_rng(0)
    names = [INPUT, *(f"h{layer}" for layer in range(layers - 1)), OUTPUT]
    weights = {f"w{layer}": rng.normal(0, 0.05, (width, width)).astype(np.float32) for layer in range(layers)}
    nodes = [
        helper.make_node("MatMul", [names[layer], f"w{layer}"], [names[layer + 1]], name=f"dense{layer}")
        for layer in range(layers)
    ]
    return save(path, nodes, weights, (INPUT, ["n", width]), (OUTPUT, ["n", width]))


def echo(path: Path) -> Path:
    """Write a model that does next to nothing, and return its path; its package passes the input through."""
    node = helper.make_node("Shape", [INPUT], [OUTPUT], name="shape")
    graph = helper.make_graph(
        [node],
        "echo",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.INT64, [4])],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    return path


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    weights: dict[str, np.ndarray],
    source: tuple[str, list[int | str]],
    target: tuple[str, list[int | str]],
) -> Path:
    """Write a model of one float32 input and output and return its path."""
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    sides = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in (source, target)]
    graph = helper.make_graph(list(nodes), "g", *sides, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def block_parts(graph: ModelGraph, stages: int) -> list[Part]:
    """Return the nodes in as many parts of equal length as asked, on alternating devices, cut between blocks."""
    names = [node.name for node in graph.placeable]
    ends = [index + 1 for index, name in enumerate(names) if name.endswith(".add") or name == "fc"][:-1]
    cuts = [0, *(min(ends, key=lambda end: abs(end - len(names) * part / stages)) for part in range(1, stages)), len(names)]
    return [
        Part(device="gpu" if index % 2 else "cpu", nodes=tuple(names[start:end]))
        for index, (start, end) in enumerate(itertools.pairwise(cuts))
    ]


def write_package(folder: Path, model: Path, sample: np.ndarray, *, stages: int = 1, **plan: Any) -> Path:
    """Write a package of the model, its parts on alternating devices, and return its folder.

    Args:
        folder: Where.
        model: The whole model.
        sample: Its input.
        stages: How many parts.
        plan: Entries of plan.json that differ from the common ones; `passed` adds the input to the outputs.
    """
    graph = load(model)
    folder.mkdir(parents=True)
    parts = block_parts(graph, stages) if stages > 1 else [Part(device="cpu", nodes=tuple(n.name for n in graph.placeable))]
    formed = form_stages(graph, parts)
    write_stages(graph, formed, folder)
    outputs = [*graph.outputs, *(graph.inputs if plan.pop("passed", False) else ())]
    document: dict[str, Any] = {
        "schema": "cutset.plan/1",
        "name": "m",
        "decision": "split" if stages > 1 else "unsplit-cpu",
        "cpu_workers": 1,
        "intra_op_threads": 1,
        "tokens": 4,
        "queue_limit": 256,
        "custom_ops": [],
        "inputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape or ())} for spec in graph.inputs],
        "outputs": [{"name": spec.name, "dtype": spec.dtype, "shape": list(spec.shape or ())} for spec in outputs],
        "stages": [
            {
                "index": stage.index,
                "device": stage.device,
                "backend": stage.backend,
                "model": stage.model,
                "inputs": list(stage.inputs),
                "outputs": list(stage.outputs),
                "service_s": 0.003,
                "batching": {"proven": True},
            }
            for stage in formed
        ],
        **plan,
    }
    (folder / "plan.json").write_text(json.dumps(document), "utf-8")
    write_npz(folder / "sample.npz", {INPUT: sample})
    return folder
