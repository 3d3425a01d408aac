"""A small writer of ONNX graphs: every node and value gets a name a person can read in a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Shape = Sequence[int | str]

OPSETS: Mapping[str, int] = {"": 18}
"""What the samples are written in unless they say more: the first opset whose Resize has antialias."""

IR_VERSION = 8
"""Read by every onnxruntime since 1.13 and by TensorRT 8.6 on."""


class GraphWriter:
    """Collects nodes and weights and closes them into a model.

    A node's only output has the node's name, so a chain reads as ``x = w.node("Relu", [x], "stem/relu")``.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def node(self, op_type: str, inputs: Sequence[str], name: str, *, domain: str = "", **attributes: Any) -> str:
        """Return the name of the one output of a new node, which is `name`."""
        return self.nodes(op_type, inputs, [name], domain=domain, **attributes)[0]

    def nodes(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], *, domain: str = "", **attributes: Any
    ) -> tuple[str, ...]:
        """Return the names of the outputs of a new node, which is named after the first of them."""
        self._nodes.append(helper.make_node(op_type, inputs, outputs, name=outputs[0], domain=domain, **attributes))
        return tuple(outputs)

    def constant(self, name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Return the name of a new initializer that holds `value`."""
        self._weights.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        opsets: Mapping[str, int] = OPSETS,
    ) -> onnx.ModelProto:
        """Return the finished model.

        Args:
            inputs: Typed graph inputs, from `value`.
            outputs: Typed graph outputs.
            opsets: Version of each operator domain.

        Raises:
            onnx.checker.ValidationError: If the graph is not valid ONNX, which is a bug of the builder.
        """
        graph = helper.make_graph(self._nodes, self._name, list(inputs), list(outputs), self._weights)
        model = helper.make_model(
            graph,
            producer_name="cutset.sample_models",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        )
        onnx.checker.check_model(model)
        return model


def value(name: str, dtype: npt.DTypeLike, shape: Shape) -> onnx.ValueInfoProto:
    """Return the type of a graph input or output; a string in `shape` is a symbolic dimension."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def string_value(name: str, shape: Shape) -> onnx.ValueInfoProto:
    """Return the type of a graph input or output of strings, which NumPy has no fixed type for."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.STRING, list(shape))
