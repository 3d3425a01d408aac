"""Let a model take a batch of no rows: exporters write reshapes that fail on it, and a photo without a face is no error.

Whether a model needs that is found by running it on no rows, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cutset.graph.names import FreshNames

_SETTLED = 1
"""What stands for every size but the first when a model is tried; an empty run does not look at it closely."""


def takes_none(model: onnx.ModelProto, rows: Collection[str]) -> bool:
    """Return whether a model runs when the sizes called `rows` are zero; False where that cannot be tried.

    Args:
        model: With typed inputs.
        rows: Names of sizes.
    """
    import onnxruntime as ort  # noqa: PLC0415 - only cascades with counted rows need it

    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session.run(None, {value.name: _without_rows(value, rows) for value in model.graph.input})
    except Exception:  # onnxruntime's errors share no base class; any of them means that it does not run
        return False
    return True


def padded(model: onnx.ModelProto, rows: Collection[str]) -> onnx.ModelProto:
    """Return a model that runs on one row of zeros in place of none, and drops what that gave.

    Args:
        model: With typed inputs and outputs.
        rows: Names of the sizes that may be zero; tensors whose first size is one of them are padded, and cut again.
    """
    guarded = onnx.ModelProto()
    guarded.CopyFrom(model)
    graph = guarded.graph
    counted = [value for value in graph.input if _first(value) in rows]
    fresh = FreshNames.beside(graph)
    names = {value.name: fresh.make(f"guard/{value.name}") for value in counted}
    one, none, size, some, missing = (fresh.make(f"guard/{word}") for word in ("one", "none", "rows", "some", "missing"))
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    count = _first(counted[0])
    before = [_node("Shape", [counted[0].name], size, start=0, end=1)]
    before += [_node("Min", [size, one], some), _node("Sub", [one, some], missing)]
    for value in counted:
        zero = np.zeros(1, helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
        own = names[value.name]
        rest, shape, zeros = (fresh.make(f"{own}/{word}") for word in ("rest", "shape", "zeros"))
        before += [
            _node("Shape", [value.name], rest, start=1),
            _node("Concat", [missing, rest], shape, axis=0),
            _node("ConstantOfShape", [shape], zeros, value=numpy_helper.from_array(zero)),
            _node("Concat", [value.name, zeros], own, axis=0),
        ]
    after = []
    for value in graph.output:
        if _first(value) == count:
            inner = fresh.make(f"guard/{value.name}")
            for node in graph.node:
                node.input[:] = [inner if name == value.name else name for name in node.input]
                node.output[:] = [inner if name == value.name else name for name in node.output]
            after.append(_node("Slice", [inner, none, size], value.name))
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    for name, number in ((one, 1), (none, 0)):
        graph.initializer.append(numpy_helper.from_array(np.array([number], np.int64), name))
    del graph.value_info[:]
    return guarded


def _node(op_type: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], name=output, **attributes)


def _first(value: onnx.ValueInfoProto) -> str | None:
    """Return the name of a tensor's first size, None where it has none."""
    dim = value.type.tensor_type.shape.dim
    return dim[0].dim_param or None if dim else None


def _without_rows(value: onnx.ValueInfoProto, rows: Collection[str]) -> np.ndarray:
    kind = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else 0 if dim.dim_param in rows else _SETTLED for dim in kind.shape.dim]
    return np.zeros(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type))
