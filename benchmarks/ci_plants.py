"""Regressions to plant into models, each of a kind that reviews miss: what `cutset ci` has to find and name.

Every plant changes a copy of a model that still loads and runs; all but the numerical ones leave its numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, shape_inference

CONTRIB = "com.microsoft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """One regression.

    Args:
        kind: ``dearer``, ``unsupported``, ``unfused`` or ``numerics``.
        model: The sample model that it is planted into.
        what: In words.
        make: Changes the model; returns words of which one has to be in the verdict, beside that of a check.
        checks: Of which one has to fail.
    """

    kind: str
    model: str
    what: str
    make: Callable[[onnx.ModelProto], Sequence[str]]
    checks: tuple[str, ...]


def _node(model: onnx.ModelProto, name: str) -> tuple[int, onnx.NodeProto]:
    return next((index, node) for index, node in enumerate(model.graph.node) if node.name == name)


def doubled(*names: str) -> Callable[[onnx.ModelProto], Sequence[str]]:
    """Do the work of nodes twice, with weights of its own so that nothing merges them, and take the larger of equal results."""

    def make(model: onnx.ModelProto) -> Sequence[str]:
        for name in names:
            _double(model, name)
        return [f"{name}/" for name in names]

    return make


def _double(model: onnx.ModelProto, name: str) -> None:
    index, node = _node(model, name)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    twin = onnx.NodeProto()
    twin.CopyFrom(node)
    twin.name = f"{name}/again"
    for position, value in enumerate(node.input):
        if value in weights:
            copy = onnx.TensorProto()
            copy.CopyFrom(weights[value])
            copy.name = f"{value}/again"
            model.graph.initializer.append(copy)
            twin.input[position] = copy.name
    result = node.output[0]
    node.output[0], twin.output[0] = f"{result}/once", f"{result}/twice"
    larger = helper.make_node("Max", [node.output[0], twin.output[0]], [result], name=f"{name}/larger")
    model.graph.node.insert(index + 1, twin)
    model.graph.node.insert(index + 2, larger)


def contrib(name: str, op_type: str) -> Callable[[onnx.ModelProto], Sequence[str]]:
    """Replace a node by the operator of onnxruntime that does the same, as a model has it that was optimised and saved."""

    def make(model: onnx.ModelProto) -> Sequence[str]:
        _, node = _node(model, name)
        node.op_type, node.domain = op_type, CONTRIB
        if all(entry.domain != CONTRIB for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        return [name]

    return make


def unfused_hard_swish(part: slice) -> Callable[[onnx.ModelProto], Sequence[str]]:
    """Write HardSwish as exporters do below opset 14, which has no such operator: x * clip(x + 3, 0, 6) / 6."""

    def make(model: onnx.ModelProto) -> Sequence[str]:
        found = [node for node in model.graph.node if node.op_type == "HardSwish"][part]
        for name, value in (("three", 3.0), ("zero", 0.0), ("six", 6.0)):
            model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"hard_swish/{name}"))
        for node in found:
            (x,), (y,), place = node.input, node.output, list(model.graph.node).index(node)
            steps = [
                helper.make_node("Add", [x, "hard_swish/three"], [f"{y}/added"], name=f"{node.name}/add"),
                helper.make_node(
                    "Clip", [f"{y}/added", "hard_swish/zero", "hard_swish/six"], [f"{y}/clipped"], name=f"{node.name}/clip"
                ),
                helper.make_node("Mul", [x, f"{y}/clipped"], [f"{y}/multiplied"], name=f"{node.name}/mul"),
                helper.make_node("Div", [f"{y}/multiplied", "hard_swish/six"], [y], name=f"{node.name}/div"),
            ]
            model.graph.node.remove(node)
            for step in reversed(steps):
                model.graph.node.insert(place, step)
        return [f"{node.name}/" for node in found]

    return make


def inlined(op_type: str, part: slice) -> Callable[[onnx.ModelProto], Sequence[str]]:
    """Replace an operator by what ONNX says it is made of, as where an opset does not have it yet."""

    def make(model: onnx.ModelProto) -> Sequence[str]:
        typed = shape_inference.infer_shapes(model)
        found = [node for node in typed.graph.node if node.op_type == op_type]
        others = [node for node in found if node not in found[part]]
        for node in others:
            node.op_type = f"{op_type}, left alone"
        before = {node.name for node in typed.graph.node}
        typed.graph.value_info.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in typed.graph.initializer
        )
        changed = inliner.inline_selected_functions(typed, [("", op_type)], inline_schema_functions=True)
        for index, node in enumerate(changed.graph.node):
            node.op_type = op_type if node.op_type == f"{op_type}, left alone" else node.op_type
            node.name = node.name if node.name in before else f"inlined/{index}"
        del changed.graph.value_info[:]
        model.CopyFrom(changed)
        return ["inlined/"]

    return make


def scaled_weight(name: str, factor: float) -> Callable[[onnx.ModelProto], Sequence[str]]:
    """Scale a weight: the answers change by about as much."""

    def make(model: onnx.ModelProto) -> Sequence[str]:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(tensor) * factor).astype(np.float32), name))
        return [output.name for output in model.graph.output]

    return make


def scaled_value(name: str, factor: float) -> Callable[[onnx.ModelProto], Sequence[str]]:
    """Scale a value: an output, or one that decides one."""

    def make(model: onnx.ModelProto) -> Sequence[str]:
        node = next(node for node in model.graph.node if name in node.output)
        index = list(model.graph.node).index(node)
        node.output[list(node.output).index(name)] = f"{name}/unscaled"
        model.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), f"{name}/factor"))
        scale = helper.make_node("Mul", [f"{name}/unscaled", f"{name}/factor"], [name], name=f"{name}/scale")
        model.graph.node.insert(index + 1, scale)
        return [output.name for output in model.graph.output]

    return make


def _dearer(model: str, *names: str) -> Plant:
    what = f"the work of {' and '.join(names)} twice"
    return Plant(kind="dearer", model=model, what=what, make=doubled(*names), checks=("cost", "group", "gpu-cost"))


def _unsupported(model: str, name: str, op_type: str) -> Plant:
    what = f"{name} as onnxruntime's own {op_type}"
    return Plant(kind="unsupported", model=model, what=what, make=contrib(name, op_type), checks=("placement",))


def _unfused(model: str, what: str, make: Callable[[onnx.ModelProto], Sequence[str]]) -> Plant:
    return Plant(kind="unfused", model=model, what=what, make=make, checks=("kernels", "cost"))


def _numerics(model: str, what: str, make: Callable[[onnx.ModelProto], Sequence[str]]) -> Plant:
    return Plant(kind="numerics", model=model, what=what, make=make, checks=("error",))


ORIENTATION, DETECTOR, ENCODER = "orientation-jpeg", "detector", "encoder"

PLANTS = (
    _dearer(ORIENTATION, "Conv.6", "Conv.2", "Conv.10"),
    _dearer(DETECTOR, "head/32/conv/conv", "stage3/down/conv"),
    _dearer(DETECTOR, "head/16/conv/conv", "stage2/down/conv"),
    _dearer(ENCODER, "layer2/grow/matmul", "layer2/shrink/matmul"),
    _dearer(ENCODER, "layer0/grow/matmul", "layer0/shrink/matmul"),
    _unsupported(ORIENTATION, "Conv.10", "FusedConv"),
    _unsupported(ORIENTATION, "Conv.22", "FusedConv"),
    _unsupported(DETECTOR, "stage3/1/b/conv", "FusedConv"),
    _unsupported(DETECTOR, "neck/small/out/conv", "FusedConv"),
    _unsupported(ENCODER, "layer2/grow/matmul", "FusedMatMul"),
    _unfused(ORIENTATION, "opset 13: no HardSwish", unfused_hard_swish(slice(None))),
    _unfused(ORIENTATION, "opset 13: no HardSwish, in the first half", unfused_hard_swish(slice(0, 14))),
    _unfused(ORIENTATION, "opset 13: no HardSwish, in the second half", unfused_hard_swish(slice(14, 28))),
    _unfused(ENCODER, "opset 16: no LayerNormalization", inlined("LayerNormalization", slice(None))),
    _unfused(ENCODER, "opset 16: no LayerNormalization, in the second half", inlined("LayerNormalization", slice(7, 13))),
    _numerics(ORIENTATION, "the output 1 % larger", scaled_value("fetch_name_0", 1.01)),
    _numerics(DETECTOR, "the boxes 1 % larger", scaled_value("post/scaled", 1.01)),
    _numerics(DETECTOR, "the scores 1 % larger", scaled_value("scores", 1.01)),
    _numerics(ENCODER, "the scores 1 % larger", scaled_value("scores", 1.01)),
    _numerics(ENCODER, "the weights of the last layer 1 % larger", scaled_weight("score/dense/weight", 1.01)),
)
